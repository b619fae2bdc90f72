"""The array of bytes in which a Kafka record reaches the core. FrameSchema.java writes it."""

from struct import Struct

from barograph_streams.core.records import Place

_HEAD = Struct(">iqH")


def value_of(frame: bytes) -> bytes:
    """Return the value of the record."""
    _, _, length = _HEAD.unpack_from(frame)
    return frame[_HEAD.size + length :]


def place_of(frame: bytes) -> Place:
    """Return where the record was read."""
    partition, offset, length = _HEAD.unpack_from(frame)
    return Place(frame[_HEAD.size : _HEAD.size + length].decode(), partition, offset)
