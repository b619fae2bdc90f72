"""Readings of many VMs in one call: how long a call may take, and which VMs are asked alone.

A bulk call asks one QEMU after the other, and QEMU's monitor has no deadline: one that is stopped holds up
the call. By then libvirt has its job on that domain, so the same call made again (NOWAIT) answers at once for
all others, and what is missing in it is the domain that held it up. That domain is asked alone, after a
growing pause, until it answers.

How long a call may take is learned: on a host with too few CPUs each QEMU answers late, and giving up calls
that would have ended costs more than it saves. libvirt's daemon works on five calls of one client at a time
(libvirtd.conf, max_client_requests): with `LATE_MAX` given up no call is made until one of them has ended,
and if none ends within `CLOGGED_AFTER_NS` the connection is replaced.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from msgspec import Struct

TOGETHER_MAX = 64
"""VMs in one call, so that the last one is not read long after it was due."""

USUAL_NS, PATIENCE_TIMES = 2_000_000, 10
"""What one VM's answer takes at least, and how many times the learned duration a call may take."""

PATIENCE_NS, PATIENCE_MAX_NS = 100_000_000, 2_000_000_000
"""What a call may take in addition, and at most."""

LATE_MAX, CLOGGED_AFTER_NS = 4, 3_000_000_000
"""Calls given up that have not ended, from which on no call is made; and for how long that may last."""

PAUSE_NS, PAUSE_MAX_NS = 50_000_000, 5_000_000_000
"""Before a VM is asked alone: twice as long each time, up to the second."""


class Patience(Struct, frozen=True):
    """How long the answer of one VM takes, learned from the last calls."""

    each_ns: int = USUAL_NS

    def limit_ns(self, vms: int) -> int:
        """Return how long a call for so many VMs may take before it is given up."""
        return min(PATIENCE_NS + PATIENCE_TIMES * self.each_ns * vms, PATIENCE_MAX_NS)

    def answered(self, took_ns: int, vms: int) -> "Patience":
        """Return the patience after a call for so many VMs that ended in time."""
        return Patience(max((4 * self.each_ns + took_ns // vms) // 5, USUAL_NS))

    def given_up(self) -> "Patience":
        """Return the patience after a call that was given up."""
        return Patience(min(2 * self.each_ns, PATIENCE_MAX_NS // PATIENCE_TIMES))


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Make the same call again: the VM that held it up is a busy one now."""


@dataclass(frozen=True, slots=True)
class AskAlone:
    """Ask each of these alone after a pause; the others have answered."""

    uuids: tuple[str, ...]


def has_room(late: int) -> bool:
    """Whether a call may be made while so many that were given up have not ended."""
    return late < LATE_MAX


def after_call(asked: Sequence[str], answered: Collection[str] | None) -> AskAgain | AskAlone:
    """Return what follows a bulk call.

    Args:
        asked: the uuids it was for.
        answered: those it brought statistics of; `None`: it was given up.
    """
    if answered is None:
        return AskAgain()
    return AskAlone(tuple(uuid for uuid in asked if uuid not in answered))


def next_pause_ns(pause_ns: int | None) -> int:
    """Return the pause before a VM is asked alone; `pause_ns` is the one before, `None` at the first time."""
    return PAUSE_NS if pause_ns is None else min(2 * pause_ns, PAUSE_MAX_NS)
