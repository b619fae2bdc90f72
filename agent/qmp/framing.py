"""Splits what a monitor sends into messages: one JSON object each, in any layout.

QEMU ends a message with CRLF. With `pretty=on` a message is indented over many lines, so a line's end is not
a message's end. Source: QEMU monitor/qmp.c, qmp_send_response; RFC 8259, section 2 for the white space.
"""

import json
import re
from typing import cast

import msgspec
from msgspec import Struct

MESSAGE_MAX_BYTES = 64 * 1024
"""The longest message, with the white space before it. A reading takes 900 bytes (1,500 indented), and a
listing of 800 devices fits (350 indented)."""

_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
_MARK = re.compile(rb'["{}\[\]]')
_MARK_IN_STRING = re.compile(rb'["\\]')

_decode = msgspec.json.Decoder().decode


class Frame(Struct, frozen=True):
    """One message, and the bytes that it took, with the white space before it."""

    message: dict[str, object]
    size_bytes: int


class Framer:
    """The bytes that have come and are not a whole message yet. Each byte is scanned once."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._blank = 0  # bytes of white space before the message
        self._scanned = 0
        self._depth = 0
        self._in_string = False

    @property
    def is_empty(self) -> bool:
        """Return whether no message has begun."""
        return not self._buffer

    def feed(self, data: bytes) -> None:
        """Add what has come."""
        self._buffer += data

    def take(self) -> Frame | None:
        """Remove and return the oldest message; `None`: none is whole yet.

        Raises:
            ValueError: not a JSON object, or longer than `MESSAGE_MAX_BYTES`. Use no further.
        """
        if not self._buffer:
            return None
        if not self._scanned:
            self._skip_blanks()
            frame = self._take_line()
            if frame is not None:
                return frame
        end = self._scan()
        size_bytes = self._blank + (len(self._buffer) if end is None else end)
        if size_bytes > MESSAGE_MAX_BYTES:
            raise ValueError(f"a message is longer than {MESSAGE_MAX_BYTES} bytes")
        return None if end is None else self._remove(end, _parsed(self._buffer[:end]))

    def _skip_blanks(self) -> None:
        found = _NOT_BLANK.search(self._buffer)
        length = len(self._buffer) if found is None else found.start()
        if length:
            del self._buffer[:length]
            self._blank += length
        if self._buffer and self._buffer[0] != ord("{"):
            raise ValueError("a message is not a JSON object")

    def _take_line(self) -> Frame | None:
        """Return the message if it is the next line, which is the usual case and takes no scan."""
        end = self._buffer.find(b"\n")
        if not 0 < end <= MESSAGE_MAX_BYTES - self._blank:
            return None
        line = self._buffer[:end]
        if line.count(b"{") != line.count(b"}"):
            return None
        try:
            message = _parsed(line)
        except ValueError:
            return None  # the scan finds where it ends
        return self._remove(end, message)

    def _scan(self) -> int | None:
        """Return where the message ends; `None`: further on."""
        buffer, at = self._buffer, self._scanned
        while True:
            found = (_MARK_IN_STRING if self._in_string else _MARK).search(buffer, at)
            if found is None:
                self._scanned = len(buffer)
                return None
            at = found.end()
            mark = buffer[at - 1]
            if mark == ord('"'):
                self._in_string = not self._in_string
            elif mark == ord("\\"):
                if at == len(buffer):
                    self._scanned = at - 1
                    return None
                at += 1
            else:
                self._depth += 1 if mark in b"{[" else -1
                if self._depth == 0:
                    return at

    def _remove(self, end: int, message: dict[str, object]) -> Frame:
        frame = Frame(message, self._blank + end)
        del self._buffer[:end]
        self._blank = self._scanned = self._depth = 0
        return frame


def _parsed(text: bytes | bytearray) -> dict[str, object]:
    message: object
    try:
        message = _decode(text)
    except (ValueError, RecursionError):
        message = _parsed_slowly(text)
    if type(message) is not dict:
        raise ValueError("a message is not a JSON object")
    return cast(dict[str, object], message)


def _parsed_slowly(text: bytes | bytearray) -> object:
    """Parse what msgspec refuses and `json` may accept: lone surrogates, numbers out of range, NaN."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError("a message is not JSON") from error
