"""Which bytes of a libvirt daemon reach libvirt's client library: those of messages up to a length.

A message begins with its length, which counts itself: four bytes, big-endian (libvirt,
docs/kbase/internals/rpc.rst). The library keeps what it has received of a message until the rest arrives.
"""

from dataclasses import dataclass

LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a stream of messages the next byte belongs. A new one is at the beginning of a message."""

    length: bytes = b""  # the received part of a length, until it is complete
    left_bytes: int = 0  # of the message in progress


@dataclass(frozen=True, slots=True)
class Passed:
    """What may pass of some bytes of a stream."""

    data: bytes
    position: Position  # after these bytes
    refused_bytes: int | None = None  # the length of a message that is refused, with all that follows


def pass_messages(position: Position, data: bytes, message_max_bytes: int) -> Passed:
    """Return what may pass of the next bytes of a stream.

    A length passes only as a whole, with what precedes it. How the stream is divided changes nothing.
    """
    data = position.length + data
    at = position.left_bytes
    while len(data) - at >= LENGTH_BYTES:
        length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        if not LENGTH_BYTES <= length <= message_max_bytes:
            return Passed(data[:at], Position(), refused_bytes=length)
        at += length
    if at >= len(data):
        return Passed(data, Position(left_bytes=at - len(data)))
    return Passed(data[:at], Position(length=data[at:]))


def refusal(length_bytes: int, message_max_bytes: int) -> str:
    """Return why the connection of a daemon that announced a message of this length ends."""
    if length_bytes < LENGTH_BYTES:
        return "what the daemon sent is not a message of libvirt; find out which program created the socket"
    return (
        f"the daemon began a message of {length_bytes} bytes; the limit is {message_max_bytes} bytes for a"
        " libvirt that `sockets` finds; configure this libvirt by `uri`, which has none"
    )
