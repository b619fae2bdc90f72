"""The format of dead letters and of VMs' memories in the spool's file. Pure.

Queued records are in blocks (block.py). Columns of a dead letter: `kind`, `id`, `key`, `timestamp_ms`,
`headers` (as contract/headers.py encodes them), `value`. A memory is JSON of core/memory.py.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec

from agent.contract.headers import decode_headers
from agent.core.memory import Memory
from agent.core.reading import Record, RecordKind

APPLICATION_ID = 0x4261726F
"""The four bytes "Baro" at offset 68: tells our files from other databases (sqlite.org/fileformat.html)."""

FORMAT = 3
"""`PRAGMA user_version`. A file of a newer format prevents the start, one of an older format is set aside."""

RecordRow: TypeAlias = tuple[str, str, str, int, bytes, bytes]
"""kind, id, key, timestamp_ms, headers, value."""

_encoder = msgspec.json.Encoder()
_memory_decoder = msgspec.json.Decoder(Memory)
_COLUMNS = (str, str, str, int, bytes, bytes)
_kinds = {kind.value: kind for kind in RecordKind}


class Undecodable(Exception):
    """A row is damaged, or was not written by this version. The message says what is wrong."""


def checked(rows: Iterable[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Return pairs of integers that SQLite has read. The tables are strict, but a damaged page need not be.

    Raises:
        Undecodable: one is no integer.
    """
    found = tuple(rows)
    if not all(type(one) is int and type(other) is int for one, other in found):
        raise Undecodable("a number is missing or has a wrong type")
    return found


def encode_record(record: Record) -> RecordRow:
    """Return a record's columns."""
    return record.kind.value, record.id, record.key, record.timestamp_ms, record.headers, record.value


def decode_record(row: RecordRow) -> Record:
    """Return the record. Its headers and its value are not looked into: who sends it decodes the headers.

    Raises:
        Undecodable: a column is damaged, or the kind is unknown.
    """
    if tuple(map(type, row)) != _COLUMNS:  # the tables are strict, but a damaged page need not be
        raise Undecodable(f"record {row[1]!r}: a column is missing or has a wrong type")
    kind, id, key, timestamp_ms, headers, value = row
    found = _kinds.get(kind)
    if found is None:
        raise Undecodable(f"record {id!r}: unknown kind {kind!r}")
    return Record(found, id, key, timestamp_ms, headers, value)


def decode_checked_record(row: RecordRow) -> Record:
    """Return the record after checking its headers as well, for people who look into a spool.

    Raises:
        Undecodable: a column or the headers are damaged, or the kind is unknown.
    """
    record = decode_record(row)
    check_headers(record)
    return record


def check_headers(record: Record) -> None:
    """Check the headers.

    Raises:
        Undecodable: they are damaged.
    """
    try:
        decode_headers(record.headers)
    except ValueError as error:
        raise Undecodable(f"record {record.id!r}: damaged headers: {error}") from error


def encode_memory(memory: Memory) -> bytes:
    """Return a VM's memory as JSON."""
    return _encoder.encode(memory)


def decode_memory(content: bytes) -> Memory:
    """Return a VM's memory. Unknown fields are ignored, missing ones have their defaults.

    A damaged page may give NULL where the table has bytes.

    Raises:
        Undecodable: the content is damaged, or is something else.
    """
    try:
        return _memory_decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise Undecodable(str(error)) from error
