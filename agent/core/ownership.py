"""Who controls the polling interval: when to set it, when to leave it, what to restore.

Two agents that set the interval in turn starve the guest's statistics (QEMU re-arms its timer at
every change). So if another client sets the interval back, it is set once more after a pause, and then not
again until the device, the process or the configuration changes.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from agent.core.address import Address, Domain
from agent.core.reading import IntervalPolicy, SocketMark

INTERVAL_MAX_S = 2**32 - 1
"""The longest polling interval QEMU accepts: hw/virtio/virtio-balloon.c, balloon_stats_set_poll_interval."""


@dataclass(frozen=True, slots=True)
class IntervalChange:
    """An interval that the agent changed on one QEMU process; restored while it reads `interval_set_s`."""

    address: Address
    mark: SocketMark
    balloon_path: str
    interval_before_s: int
    interval_set_s: int
    set_at_ms: int


class Ownership(Struct, frozen=True):
    """What the agent did with one device's interval."""

    set_s: int | None = None  # what the agent set; None: nothing
    before_s: int | None = None  # what it was before the agent set it
    times_set: int = 0  # on this device
    again_at_ns: int | None = None  # another client set it back: when to set it once more
    contended: bool = False
    blocked: str | None = None  # why it cannot be set: QEMU refused, or the change could not be recorded


@dataclass(frozen=True, slots=True)
class Wish:
    """The ownership after the interval was read, and what to set it to; `None`: leave it."""

    ownership: Ownership
    set_to_s: int | None = None


def look(
    ownership: Ownership,
    *,
    interval_s: int,
    policy: IntervalPolicy,
    ours_s: int,
    now_ns: int,
    wait_ns: int,
) -> Wish:
    """Decide whether to set the interval, after it was read.

    Args:
        ownership: what the agent did so far.
        interval_s: the device's interval, 0: off.
        policy: who controls the interval.
        ours_s: the configured interval.
        now_ns: the monotonic clock.
        wait_ns: the pause before setting once more.
    """
    free = interval_s in (0, ownership.set_s)  # not another client's value
    wanted = policy is IntervalPolicy.ENFORCE or (policy is IntervalPolicy.FILL and free)
    if not wanted or interval_s == ours_s:
        if ownership.set_s is not None and interval_s != ownership.set_s:
            ownership = replace(
                ownership, set_s=None, before_s=None
            )  # another client's value now: nothing to restore
        return Wish(replace(ownership, again_at_ns=None) if ownership.again_at_ns is not None else ownership)
    if ownership.contended or ownership.blocked is not None:
        return Wish(ownership)
    if ownership.times_set == 0:
        return Wish(ownership, ours_s)
    if ownership.times_set >= 2:
        return Wish(replace(ownership, contended=True, again_at_ns=None, set_s=None))
    if ownership.again_at_ns is None:
        return Wish(replace(ownership, again_at_ns=now_ns + wait_ns))
    if now_ns >= ownership.again_at_ns:
        return Wish(ownership, ours_s)
    return Wish(ownership)


def written(ownership: Ownership, *, interval_before_s: int, set_to_s: int) -> Ownership:
    """Return the ownership after QEMU has accepted the value."""
    before_s = interval_before_s if ownership.before_s is None else ownership.before_s
    return Ownership(set_s=set_to_s, before_s=before_s, times_set=ownership.times_set + 1)


def recall(change: IntervalChange, *, ours_s: int) -> Ownership:
    """Return the ownership that follows from a recorded change of an earlier run.

    If another interval is configured now, it is set at once, as if for the first time.
    """
    times_set = 1 if change.interval_set_s == ours_s else 0
    return Ownership(set_s=change.interval_set_s, before_s=change.interval_before_s, times_set=times_set)


def left_behind(
    changes: Iterable[IntervalChange],
    *,
    found: Collection[str],
    marks: Collection[SocketMark],
    unavailable: Collection[str],
) -> tuple[IntervalChange, ...]:
    """Return the changes on VMs that this run does not watch: they are no longer in the configured globs.

    Args:
        changes: all that are recorded.
        found: the texts of the addresses that the first scan found, whether used or refused.
        marks: of the sockets it found: one that is seen under another name now is still watched.
        unavailable: the URIs of the libvirts without a connection: their domains may come back.
    """
    if not found:
        return ()  # more likely a mount that is missing than a fleet that is gone
    return tuple(
        each
        for each in changes
        if str(each.address) not in found
        and each.mark not in marks
        and not (isinstance(each.address, Domain) and each.address.uri in unavailable)
    )


def is_ours_to_restore(change: IntervalChange, *, mark: SocketMark, interval_s: int | None) -> bool:
    """Return whether this is the process whose interval was changed, and it still has that interval."""
    return change.mark == mark and interval_s == change.interval_set_s
