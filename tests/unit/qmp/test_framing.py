"""A message is a JSON object in any layout, wherever its bytes are cut."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.qmp.framing import MESSAGE_MAX_BYTES, Framer

LEAVES = st.none() | st.booleans() | st.integers() | st.text(alphabet='ab{}[]"\\\n\u00e9', max_size=12)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(st.dictionaries(st.text(max_size=6), VALUES, max_size=4), min_size=1, max_size=4)
GAPS = st.text(alphabet=" \t\r\n", max_size=3)


def taken(pieces: Sequence[bytes]) -> tuple[list[dict[str, object]], int]:
    """Return the messages in these pieces, and their size in bytes."""
    framer, size_bytes = Framer(), 0
    messages: list[dict[str, object]] = []
    for piece in pieces:
        framer.feed(piece)
        while (frame := framer.take()) is not None:
            messages.append(frame.message)
            size_bytes += frame.size_bytes
    return messages, size_bytes


@given(MESSAGES, st.sampled_from([None, 0, 4]), GAPS, st.data())
def test_messages_are_the_same_in_any_layout_and_wherever_they_are_cut(
    messages: list[dict[str, object]], indent: int | None, gap: str, data: st.DataObject
) -> None:
    newline = data.draw(st.sampled_from(["\n", "\r\n"]))
    texts = [gap + json.dumps(message, indent=indent).replace("\n", newline) for message in messages]
    stream = "".join(texts).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)))

    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert taken(pieces) == (messages, len(stream))
    assert taken([bytes([byte]) for byte in stream]) == (messages, len(stream))


@pytest.mark.parametrize(
    "line", [b'{"a": "}", "b": {"c": 1},\n "d": 2}', b'{"x": "}", "a": {"b": 1}\n, "c": "\\\\"}']
)
def test_braces_in_strings_do_not_end_a_message(line: bytes) -> None:
    assert taken([line]) == ([json.loads(line)], len(line))


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0",
        b"HTTP/1.1 400 Bad Request",
        b"\r\n[1]",
        b"1",
        b"{]",
        b'{"a": nonsense}',
        b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b" " * (MESSAGE_MAX_BYTES + 1),
        b'{"a": "' + b"x" * MESSAGE_MAX_BYTES,
        b'{"a": "' + b"x" * MESSAGE_MAX_BYTES + b'"}\n',
        b"\n" * 32_768 + b'{"a": "' + b"x" * 32_768,
    ],
    ids=lambda said: ascii(said)[:30],
)
def test_bytes_that_are_not_a_message_or_too_long_are_refused_at_once(said: bytes) -> None:
    with pytest.raises(ValueError, match=r"a message is (not (JSON|a JSON object)|longer than 65536 bytes)"):
        taken([said])


def test_the_longest_message_fits() -> None:
    longest = b'{"a": "' + b"x" * (MESSAGE_MAX_BYTES - 9) + b'"}'

    assert len(longest) == MESSAGE_MAX_BYTES
    assert taken([longest])[1] == taken([longest[:100], longest[100:] + b"\n"])[1] == MESSAGE_MAX_BYTES


@pytest.mark.parametrize(
    "said",
    [
        b'{"a": NaN, "b": -Infinity, "c": 1e999}',
        b'{"a": "\\ud800", "\\udc00": "\\ud83d\\ude00"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": 18446744073709551615, "b": 18446744073709551616, "c": -9223372036854775809}',
        b'{"a": -0, "b": -0.0, "c": 1E+5, "d": 5e-324, "e": 123456789012345678901.5}',
        b'{"a": 1, "b": 2, "a": 3}',
        b'{"a": "\\u0000\\/\x7f"}',
        b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
    ids=lambda said: ascii(said)[:30],
)
def test_all_json_that_python_accepts_has_the_same_values(said: bytes) -> None:
    messages, size_bytes = taken([said + b"\r\n"])

    assert repr(messages) == repr([json.loads(said)])
    assert size_bytes in (len(said), len(said) + 1)


@pytest.mark.parametrize("value", [b'"\t"', b'"\x01"', b"01", b"1.", b".5", b"+1", b"[1,]", b'"\\x"', b"-"])
def test_json_that_python_does_not_accept_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        taken([b'{"a": ' + value + b"}\r\n"])
