"""The encoding of a record's Kafka headers: MessagePack, a list of pairs of a name and bytes.

They stay encoded from the moment a record is made until it is sent: one object instead of thirty, which
halves the time to read a backlog from disk.
"""

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

Headers: TypeAlias = list[tuple[str, bytes]]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Headers)


def encode_headers(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Return `Record.headers`."""
    return _encoder.encode(tuple(headers))


def decode_headers(content: bytes) -> Headers:
    """Return the names and values of `Record.headers`, in their order.

    Raises:
        ValueError: the content is damaged, which only happens to records from disk. Who decodes them on
            the way to a sink refuses the record, so that it becomes a dead letter.
    """
    return _decoder.decode(content)
