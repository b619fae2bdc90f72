"""The constraints of agent/spool/block.py, one test each."""

import zlib
from collections.abc import Sequence
from typing import cast

import cramjam
import msgspec
import pytest

from agent.core.reading import Record, RecordKind
from agent.spool.block import (
    BLOCK_BYTES,
    BLOCK_RECORDS_MAX,
    RECORD_BYTES_MAX,
    BlockRow,
    blocks_of,
    decode_block,
)
from agent.spool.format import Undecodable, encode_record
from tests.unit.spool.making import NOW_MS, record

SPAN_MS = 60_000


def block(records: Sequence[Record], first: int = 1) -> BlockRow:
    (found,) = blocks_of(list(enumerate(records, first)), SPAN_MS)
    return found.row()


def lengths(records: Sequence[Record]) -> list[int]:
    return [each.last - each.first + 1 for each in blocks_of(list(enumerate(records, 1)), SPAN_MS)]


def forged(raw: bytes, *, claimed_bytes: int | None = None, records: int = 1) -> BlockRow:
    """Return a row as a hostile file has it: with a valid checksum."""
    size_bytes = len(raw) if claimed_bytes is None else claimed_bytes
    frame = size_bytes.to_bytes(4, "big") + bytes(cramjam.zstd.compress(raw, 1))
    return 1, records, NOW_MS, zlib.crc32(frame).to_bytes(4, "big") + frame


def test_a_block_has_the_records_that_were_added_to_it_with_their_positions() -> None:
    kinds = tuple(RecordKind)
    records = [record(n, kinds[n % len(kinds)], at_ms=NOW_MS + n) for n in range(20)]

    row = block(records, 41)

    assert row[:3] == (41, 60, NOW_MS + 19)
    assert list(decode_block(row)) == list(enumerate(records, 41))


def test_a_block_is_consecutive_and_bounded_in_records_bytes_and_time() -> None:
    apart = [(1, record(1)), (2, record(2)), (4, record(4)), (5, record(5))]
    assert [(each.first, each.last) for each in blocks_of(apart, SPAN_MS)] == [(1, 2), (4, 5)]
    tiny = [record(n, size_bytes=1) for n in range(BLOCK_RECORDS_MAX + 1)]
    assert lengths(tiny) == [BLOCK_RECORDS_MAX, 1]
    large = [record(n, size_bytes=BLOCK_BYTES // 3) for n in range(7)]
    assert lengths(large) == [3, 3, 1]
    later = [record(n, at_ms=NOW_MS + SPAN_MS // 2 * n) for n in range(4)]
    assert lengths(later) == [3, 1]
    earlier = [record(n, at_ms=NOW_MS - SPAN_MS // 2 * n) for n in range(4)]  # the clock was set back
    assert lengths(earlier) == [3, 1]


def test_the_largest_record_fits_into_a_block() -> None:
    largest = record(1, size_bytes=RECORD_BYTES_MAX)

    assert [each for _, each in decode_block(block([record(0, size_bytes=BLOCK_BYTES - 1000), largest]))][
        1
    ] == largest


def test_a_damaged_block_is_recognized_as_a_whole() -> None:
    first, last, newest_ms, content = block([record(n) for n in range(9)])

    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1
        with pytest.raises(Undecodable):
            decode_block((first, last, newest_ms, bytes(damaged)))
    for end in range(0, len(content), 7):
        with pytest.raises(Undecodable):
            decode_block((first, last, newest_ms, content[:end]))


@pytest.mark.parametrize("column", range(4))
def test_a_row_with_a_null_column_is_undecodable(column: int) -> None:
    row: list[object] = list(block([record(1)]))
    row[column] = None  # SQLite returns NULL from some damaged pages, though no column may be NULL

    with pytest.raises(Undecodable, match="a column is missing or has a wrong type"):
        decode_block(cast(BlockRow, tuple(row)))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (forged(b"\x00" * 100, claimed_bytes=1 << 31), "are more than a block may have"),
        (forged(b"\x00" * (100 << 20), claimed_bytes=100), "failed to write whole buffer"),
        (forged(b"\xdd\x7f\xff\xff\xff"), "Expected `array` of length <="),
        (forged(msgspec.msgpack.encode([encode_record(record(1))] * 600)), "Expected `array` of length <="),
        (forged(msgspec.msgpack.encode([encode_record(record(1))] * 2)), "the records do not match its row"),
        (forged(msgspec.msgpack.encode([encode_record(record(1))]), records=1 << 40), "impossible number"),
        (forged(msgspec.msgpack.encode([encode_record(record(1))]), records=-5), "impossible number"),
        (forged(msgspec.msgpack.encode([("nonsense", "", "", 1, b"", b"")])), "Invalid enum value"),
        (forged(msgspec.msgpack.encode([("sample", "", "", 1, b"")])), "Expected `array` of length 6"),
        (forged(b"\x91\x96\xa6sample\xa1\xff\xa0\x01\xc4\x00\xc4\x00"), "utf-8"),
    ],
)
def test_a_block_from_a_hostile_file_expands_to_a_bounded_size(row: BlockRow, problem: str) -> None:
    with pytest.raises(Undecodable, match=problem):
        decode_block(row)
