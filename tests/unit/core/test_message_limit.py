"""Tests of the limit on messages in a stream: which bytes pass, and where the stream ends."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.message_limit import LENGTH_BYTES, Position, pass_messages, refusal

LIMIT_BYTES = 60


def message(length_bytes: int) -> bytes:
    """Return a message with a payload that looks like lengths of messages that are too long."""
    return length_bytes.to_bytes(4, "big") + b"\xff" * (length_bytes - LENGTH_BYTES)


def passed(chunks: Sequence[bytes]) -> tuple[bytes, int | None, Position]:
    """Return the bytes that pass, the refused length or `None`, and the position in the stream then."""
    position, data = Position(), b""
    for chunk in chunks:
        step = pass_messages(position, chunk, LIMIT_BYTES)
        position, data = step.position, data + step.data
        if step.refused_bytes is not None:
            return data, step.refused_bytes, position
    return data, None, position


LENGTHS = st.integers(LENGTH_BYTES, LIMIT_BYTES)


@given(
    lengths=st.lists(LENGTHS, max_size=20),
    bad=st.none() | st.integers(0, LENGTH_BYTES - 1) | st.integers(LIMIT_BYTES + 1, 2**32 - 1),
    cuts=st.sets(st.integers(0, 1_300)),
)
def test_messages_pass_up_to_a_refused_one_in_chunks_of_any_size(
    lengths: list[int], bad: int | None, cuts: set[int]
) -> None:
    good = b"".join(map(message, lengths))
    stream = good if bad is None else good + bad.to_bytes(4, "big") + message(LENGTH_BYTES)
    chunks = [stream[begin:end] for begin, end in pairwise([0, *sorted(cuts), len(stream)])]

    assert passed(chunks) == (good, bad, Position())


@given(length=LENGTHS, ready=st.integers(0, LIMIT_BYTES))
def test_an_unfinished_message_passes_except_an_incomplete_length(length: int, ready: int) -> None:
    begun = message(length)[:ready]
    data, refused, position = passed([begun])

    assert refused is None
    assert data == (begun if len(begun) >= LENGTH_BYTES else b"")
    assert data + position.length == begun


@pytest.mark.parametrize(
    ("length", "refused"), [(LIMIT_BYTES, None), (LIMIT_BYTES + 1, LIMIT_BYTES + 1), (4, None), (3, 3)]
)
def test_the_limit_counts_the_whole_message(length: int, refused: int | None) -> None:
    assert passed([length.to_bytes(4, "big")])[1] == refused


def test_the_reason_names_the_limit_and_what_to_do() -> None:
    assert refusal(33_554_432, 262_144) == (
        "the daemon began a message of 33554432 bytes; the limit is 262144 bytes for a libvirt that `sockets`"
        " finds; configure this libvirt by `uri`, which has none"
    )
    assert "not a message of libvirt" in refusal(3, 262_144)
