"""Split a byte stream into JSON values without separators, as QEMU reads its input.

QEMU's lexer finds the end of a value by its brackets, accepts strings in single quotes as well, and answers
malformed input with an error and continues (qobject/json-streamer.c, json-lexer.c).
"""

import json
import re
from collections.abc import Generator
from typing import cast

_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(
    r"""[ \t\r\n]+ | [{}\[\],:] | -?\d+(?:\.\d+)?(?:[eE][-+]?\d+)? | [a-z]+
    | "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'""",
    re.VERBOSE | re.DOTALL,
)
_INCOMPLETE_TOKEN = re.compile(
    r"""[a-z]+\Z | -?[\d.eE+-]*\Z | "(?:[^"\\]|\\.)*\\?\Z | '(?:[^'\\]|\\.)*\\?\Z""", re.VERBOSE
)


class Malformed(Exception):
    """The input is not JSON; the message is QEMU's."""


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("JSON parse error, duplicate key")
    return members


def _refuse_constant(word: str) -> object:
    raise Malformed(f"JSON parse error, invalid keyword '{word}'")


_decoder = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


class JsonStream:
    """Buffers the input until a value is complete."""

    def __init__(self) -> None:
        self._text = ""
        self._bytes = b""

    def feed(self, data: bytes) -> Generator[object]:
        """Yield each value that is complete now, and a `Malformed` for each one that is not JSON."""
        self._bytes += data
        try:
            self._text += self._bytes.decode()
            self._bytes = b""
        except UnicodeDecodeError as error:
            if error.end == len(self._bytes) and error.reason == "unexpected end of data":
                self._text += self._bytes[: error.start].decode()
                self._bytes = self._bytes[error.start :]
            else:
                self._text += self._bytes.decode(errors="replace")
                self._bytes = b""
        while True:
            self._text = self._text[cast("re.Match[str]", _SPACE.match(self._text)).end() :]
            if not self._text:
                return
            if self._text[0] == "{":
                try:
                    value, end = _decoder.raw_decode(self._text)
                except json.JSONDecodeError:
                    pass  # incomplete, not JSON, or with single quotes
                except Malformed as malformed:
                    yield malformed
                    self._text = self._text[self._end() or len(self._text) :]
                    continue
                else:
                    self._text = self._text[end:]
                    yield value
                    continue
            end = self._end()
            if end is None:
                return
            text, self._text = self._text[:end], self._text[end:]
            yield _value(text)

    def _end(self) -> int | None:
        """Return the end of the first value by its brackets, or of the first token that is not JSON.

        `None`: the value is incomplete.
        """
        depth = at = 0
        while at < len(self._text):
            token = _TOKEN.match(self._text, at)
            if token is None:
                return None if _INCOMPLETE_TOKEN.match(self._text, at) else at + 1
            word, at = token.group(), token.end()
            if at == len(self._text) and (word[-1].isalnum()) and depth == 0:
                return None  # a word or a number may continue
            depth += (word in ("{", "[")) - (word in ("}", "]"))
            if depth <= 0 and not word.isspace():
                return at
        return None


def _value(text: str) -> object:
    try:
        return _decoder.decode(_double_quoted(text))
    except json.JSONDecodeError as error:
        return Malformed(_error_message(text, error))
    except Malformed as malformed:
        return malformed


def _double_quoted(text: str) -> str:
    def quote(token: re.Match[str]) -> str:
        word = token.group()
        return json.dumps(word[1:-1].replace("\\'", "'")) if word.startswith("'") else word

    return _TOKEN.sub(quote, text)


def _error_message(text: str, error: json.JSONDecodeError) -> str:
    keyword = next(
        (word for word in re.findall(r"(?<![\"'\w])[a-z]+", text) if word not in ("true", "false", "null")),
        None,
    )
    if keyword is not None:
        return f"JSON parse error, invalid keyword '{keyword}'"
    if "':'" in error.msg:
        return "JSON parse error, missing : in object pair"
    if text and not _TOKEN.match(text):
        return f"JSON parse error, stray '{json.dumps(text[0])[1:-1].replace('ufffd', 'uFFFD')}'"
    return "JSON parse error, expecting value"
