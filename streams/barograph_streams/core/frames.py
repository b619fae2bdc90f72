"""The array of bytes in which a Kafka record reaches the core. FrameSchema.java writes it."""

from struct import Struct

from barograph_streams.core.records import Place

_HEAD = Struct(">iqH")


def split_frame(frame: bytes) -> tuple[Place, bytes]:
    """Return where a record was read, and its value."""
    partition, offset, length = _HEAD.unpack_from(frame)
    end = _HEAD.size + length
    return Place(frame[_HEAD.size : end].decode(), partition, offset), frame[end:]
