"""How records and VMs' memories stand in the spool's file. Pure.

Columns of a record: `kind`, `id`, `key`, `timestamp_ms`, `headers`, `value`. Headers are MessagePack:
a list of pairs of a name and bytes. A memory is JSON of core/memory.py.
"""

from typing import TypeAlias

import msgspec

from agent.core.memory import Memory
from agent.core.reading import Record, RecordKind

APPLICATION_ID = 0x4261726F
"""The four bytes "Baro" at offset 68: tells our files from other databases (sqlite.org/fileformat.html)."""

FORMAT = 1
"""`PRAGMA user_version`. A greater one is a newer agent's: set aside, never touched."""

RecordRow: TypeAlias = tuple[str, str, str, int, bytes, bytes]
"""kind, id, key, timestamp_ms, headers, value."""

_encoder = msgspec.json.Encoder()
_memory_decoder = msgspec.json.Decoder(Memory)
_headers_encoder = msgspec.msgpack.Encoder()
_headers_decoder = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...])


class Undecodable(Exception):
    """A row that this version did not write, or that was damaged. The message says what is wrong."""


def encode_record(record: Record) -> RecordRow:
    """Return a record's columns."""
    headers = _headers_encoder.encode(record.headers)
    return record.kind.value, record.id, record.key, record.timestamp_ms, headers, record.value


def decode_record(row: RecordRow) -> Record:
    """Return the record.

    Raises:
        Undecodable: it is none.
    """
    kind, id, key, timestamp_ms, headers, value = row
    try:
        return Record(RecordKind(kind), id, key, timestamp_ms, _headers_decoder.decode(headers), value)
    except (ValueError, msgspec.MsgspecError) as error:
        raise Undecodable(f"record {id!r}: {error}") from error


def record_size_bytes(row: RecordRow) -> int:
    """Return about what `Record.size_bytes` is, for a fifth of the time."""
    _, _, key, _, headers, value = row
    return len(key) + len(headers) + len(value)


def encode_memory(memory: Memory) -> bytes:
    """Return a VM's memory as JSON."""
    return _encoder.encode(memory)


def decode_memory(content: bytes) -> Memory:
    """Return a VM's memory. Fields this version does not know are left out; those it misses have defaults.

    Raises:
        Undecodable: it is none.
    """
    try:
        return _memory_decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from error
