"""Blocks: consecutive records of one queue, compressed together. Pure.

Constraints (each has a test of the same name in tests/unit/spool/test_block.py):

- a block has the records that were added to it, with their positions;
- a block takes consecutive positions only, and is bounded in records, bytes and time;
- a damaged block is recognized as a whole;
- a block from a hostile file expands to a bounded size.

A row has the positions of the first and the last record, the time of the newest one, and the content: the
CRC-32 of what follows, the length before compression (both 4 bytes, big-endian), and a zstd frame. The frame
holds a MessagePack array of records, each an array of `kind`, `id`, `key`, `timestamp_ms`, `headers` (as
contract/headers.py encodes them) and `value`.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import cramjam
import msgspec

from agent.core.reading import Record, RecordKind
from agent.spool.format import Undecodable

BLOCK_RECORDS_MAX = 512
BLOCK_BYTES = 256 << 10
"""Before compression. A block that has reached it takes no further record."""

RECORD_BYTES_MAX = 4 << 20
"""Of one record. A larger one is not kept; Kafka's brokers refuse it long before."""

_BLOCK_BYTES_MAX = BLOCK_BYTES + 4 * RECORD_BYTES_MAX  # a character of a text has up to four bytes
_LEVEL = 1  # of zstd: the higher ones save some percent and cost a multiple
_FRAME = struct.Struct(">II")
_ARRAY = struct.Struct(">BH")  # the head of a MessagePack array of up to 65,535 elements
_ARRAY_16 = 0xDC

_SHORT_ARRAY = 16  # elements, from which on the head has three bytes instead of one

BlockRow: TypeAlias = tuple[int, int, int, bytes]
"""first, last, newest_ms, content."""

Rows: TypeAlias = Sequence[tuple[int, Record]]
"""Records with their positions, in order."""

_Columns: TypeAlias = tuple[RecordKind, str, str, int, bytes, bytes]

_COLUMNS = (int, int, int, bytes)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Annotated[list[_Columns], msgspec.Meta(max_length=BLOCK_RECORDS_MAX)])


@dataclass(slots=True)
class Block:
    """A block that records can be added to."""

    first: int  # position of its first record
    last: int  # first - 1: it is empty
    began_ms: int  # the time of the first record
    newest_ms: int
    raw: bytearray = field(default_factory=bytearray)  # the records without the head of the array

    @property
    def is_small(self) -> bool:
        """Whether it is worth compressing again with the records of the next commit."""
        return self.last - self.first < BLOCK_RECORDS_MAX // 4 and len(self.raw) < BLOCK_BYTES // 4

    def add(self, records: Sequence[_Columns], newest_ms: int) -> None:
        """Add the records behind the last one."""
        encoded = memoryview(_encoder.encode(records))
        self.raw += encoded[1 if len(records) < _SHORT_ARRAY else _ARRAY.size :]
        self.last += len(records)
        self.newest_ms = max(self.newest_ms, newest_ms)

    def row(self) -> BlockRow:
        """Return the columns."""
        raw = _ARRAY.pack(_ARRAY_16, self.last - self.first + 1) + self.raw
        frame = len(raw).to_bytes(4, "big") + bytes(cramjam.zstd.compress(raw, _LEVEL))
        return self.first, self.last, self.newest_ms, zlib.crc32(frame).to_bytes(4, "big") + frame


def blocks_of(rows: Rows, span_ms: int, tail: Block | None = None) -> Sequence[Block]:
    """Return the blocks that have the rows; the first one is `tail` if that is small and they follow it.

    Args:
        rows: in order.
        span_ms: how far the times of a block's records may be apart, so that it expires as a whole.
        tail: the last block so far.
    """
    blocks: list[Block] = []
    block = tail if tail is not None and tail.is_small else None
    adding: list[_Columns] = []
    following, left_bytes, newest_ms = 0, 0, 0
    if block is not None:
        following, left_bytes, newest_ms = block.last + 1, BLOCK_BYTES - len(block.raw), block.newest_ms
    for position, record in rows:
        at_ms, value, headers = record.timestamp_ms, record.value, record.headers
        if (
            block is None
            or position != following
            or left_bytes <= 0
            or position - block.first >= BLOCK_RECORDS_MAX
            or not -span_ms <= at_ms - block.began_ms <= span_ms
        ):
            if block is not None and adding:
                block.add(adding, newest_ms)
                blocks.append(block)
            block, adding = Block(position, position - 1, at_ms, at_ms), []
            left_bytes, newest_ms = BLOCK_BYTES, at_ms
        adding.append((record.kind, record.id, record.key, at_ms, headers, value))
        following = position + 1
        left_bytes -= len(value) + len(headers)
        if at_ms > newest_ms:
            newest_ms = at_ms
    if block is not None and adding:
        block.add(adding, newest_ms)
        blocks.append(block)
    return blocks


def block_bytes(row: BlockRow) -> int:
    """Return the size of the block's records.

    Raises:
        Undecodable: the block is damaged, or expands to more than a block may.
    """
    if tuple(map(type, row)) != _COLUMNS:  # the tables are strict, but a damaged page need not be
        raise Undecodable(f"block {row[0]!r}: a column is missing or has a wrong type")
    first, last, _, content = row
    if not 0 < last - first + 1 <= BLOCK_RECORDS_MAX:
        raise Undecodable(f"block {first}: impossible number of records, {last - first + 1}")
    if len(content) < _FRAME.size:
        raise Undecodable(f"block {first}: truncated")
    checksum, raw_bytes = _FRAME.unpack_from(content)
    if zlib.crc32(memoryview(content)[4:]) != checksum:
        raise Undecodable(f"block {first}: wrong checksum")
    if raw_bytes > _BLOCK_BYTES_MAX:
        raise Undecodable(f"block {first}: {raw_bytes} bytes are more than a block may have")
    return raw_bytes


def decode_block(row: BlockRow) -> Rows:
    """Return the records with their positions. Their headers and values are not looked into.

    Raises:
        Undecodable: the block is damaged, or expands to more than a block may.
    """
    raw = bytearray(block_bytes(row))
    first, last, _, content = row
    try:
        written = cramjam.zstd.decompress_into(memoryview(content)[_FRAME.size :], raw)
        found = _decoder.decode(raw)
    except (cramjam.DecompressionError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Undecodable(f"block {first}: {error}") from error
    if written != len(raw) or len(found) != last - first + 1:
        raise Undecodable(f"block {first}: the records do not match its row")
    return [(position, Record(*each)) for position, each in enumerate(found, first)]
