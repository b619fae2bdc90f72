"""A connection that many VMs share: when to connect again, and what links do while it is unavailable.

The first link that is opened for a domain while there is no connection fails at once, so that the domain's
state shows it. Later ones wait for the connection: another failure would add nothing.
"""

from collections.abc import Collection
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

FIRST_PAUSE_NS, LONGEST_PAUSE_NS = 250_000_000, 10_000_000_000
"""The pause before connecting again doubles from the first to the longest, with up to a fifth less."""

LASTING_NS = 30_000_000_000
"""A connection that ends sooner does not reset the pause."""


class Reconnecting(Struct, frozen=True):
    """What is known of the connection, and of the domains while it is unavailable."""

    connected: bool = False
    tried: bool = False  # the first attempt has ended, either way
    pause_ns: int = FIRST_PAUSE_NS
    reported: frozenset[str] = frozenset()  # uuids whose link has failed since the connection was lost


class Opening(Enum):
    """What becomes of a link that is opened now."""

    OPEN = "open"
    FAIL = "fail"  # there is no connection
    WAIT = "wait"  # until there is one


def connected(state: Reconnecting) -> Reconnecting:
    """Return the state once there is a connection."""
    return replace(state, connected=True, tried=True, reported=frozenset())


def lost(state: Reconnecting, *, lasted_ns: int, links: Collection[str]) -> Reconnecting:
    """Return the state once the connection, or an attempt at one, has ended.

    Args:
        state: before.
        lasted_ns: since the attempt began.
        links: the uuids of the domains whose links end with it.
    """
    pause_ns = FIRST_PAUSE_NS if lasted_ns > LASTING_NS else min(2 * state.pause_ns, LONGEST_PAUSE_NS)
    return Reconnecting(False, True, pause_ns, state.reported.union(links))


def retry_after_ns(state: Reconnecting, chance: int) -> int:
    """Return how long to wait before the next attempt; `chance` is a uniform draw from [0, 2**128)."""
    return state.pause_ns * 4 // 5 + (state.pause_ns // 5) * (chance >> 64) // (1 << 64)


def open_link(state: Reconnecting, uuid: str) -> tuple[Reconnecting, Opening]:
    """Return what becomes of a link to a domain. Before the first attempt has ended it waits for that."""
    if state.connected:
        return state, Opening.OPEN
    if not state.tried or uuid in state.reported:
        return state, Opening.WAIT
    return replace(state, reported=state.reported | {uuid}), Opening.FAIL
