"""Which connection to close where there are too many. Pure.

The client addresses with the most connections make room, so that one client cannot keep others out. Of one
address, those that have sent no whole request in time are closed first, and then those that do not read their
answer. Of those being answered the newest is closed: if it were the oldest, a flood would let no answer that
takes long get through.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, ip_address

_REQUEST_WITHIN_S = 1.0  # a busy agent accepts several connections before it reads from the first one
_READ_WITHIN_S = 0.1


class Stage(IntEnum):
    """How far a connection is. The first one is closed first."""

    REQUEST = 0  # no whole request has arrived in time
    UNREAD = 1  # the client does not read its answer
    NEW = 2  # no whole request has arrived yet
    ANSWER = 3  # being answered


@dataclass(frozen=True, slots=True)
class Connected:
    """One open connection."""

    client: str  # as `client_of` returns it
    stage: Stage


def stage_of(*, asked: bool, open_s: float, unread_s: float) -> Stage:
    """Return the stage of a connection.

    Args:
        asked: a whole request has arrived.
        open_s: for how long the connection has been open.
        unread_s: for how long the client has read nothing of its answer; 0 if it reads.
    """
    if asked:
        return Stage.UNREAD if unread_s > _READ_WITHIN_S else Stage.ANSWER
    return Stage.REQUEST if open_s > _REQUEST_WITHIN_S else Stage.NEW


def client_of(address: str) -> str:
    """Return what the addresses that one client can choose have in common: of IPv6, the network.

    Text that is not an address is returned as it is.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)


def one_to_close(connected: Sequence[Connected]) -> int:
    """Return the index of the one to close. `connected` is not empty, the oldest first."""
    counts = Counter(each.client for each in connected)
    most = max(counts.values())

    def rank(index: int) -> tuple[Stage, int]:
        stage = connected[index].stage
        return stage, -index if stage is Stage.ANSWER else index

    return min((index for index, each in enumerate(connected) if counts[each.client] == most), key=rank)
