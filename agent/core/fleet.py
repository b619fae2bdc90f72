"""The VMs of this host: which are watched, which wait for room, and which are excluded."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from msgspec import Struct
from msgspec import field as struct_field

from agent.core.address import Address
from agent.core.events import PathMissing, PathRefused, PathSeen
from agent.core.reading import SocketMark

WATCHED_MAX = 10_000
"""VMs with a task. A socket that is deleted while its link lives leaves one behind that no scan counts."""

PAUSE_AFTER_FAILURE_NS = 10_000_000_000
"""Before a VM is watched again whose task ended with an error of the agent's own."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a task for this address."""

    address: Address


@dataclass(frozen=True, slots=True)
class Pause:
    """Call `resumed` for this address after a pause: its task failed."""

    address: Address
    pause_ns: int


@dataclass(frozen=True, slots=True)
class Notify:
    """Give the event to the poller of this address."""

    address: Address
    event: PathSeen | PathMissing | PathRefused


@dataclass(frozen=True, slots=True)
class Full:
    """Report that there is no room: this address and maybe others are left out. Only when the first is."""

    address: Address


class Fleet(Struct, frozen=True):
    """Which addresses have a task, and which wait until one ends."""

    watched: Mapping[Address, SocketMark | None] = struct_field(
        default_factory=dict[Address, SocketMark | None]
    )  # and the process each task was last notified of; None: that it is missing
    left_out: Mapping[Address, SocketMark] = struct_field(
        default_factory=dict[Address, SocketMark]
    )  # by the last scan; in order
    excluded: Mapping[Address, SocketMark] = struct_field(
        default_factory=dict[Address, SocketMark]
    )  # and the process that the decision is about: another one at the address is decided on again


@dataclass(frozen=True, slots=True)
class Change:
    """The next fleet, and the effects to perform in order."""

    fleet: Fleet
    effects: tuple[Start | Pause | Notify | Full, ...] = ()


NO_ADDRESSES: Set[Address] = frozenset()


def scanned(
    fleet: Fleet,
    seen: Mapping[Address, SocketMark],
    *,
    unknown: Set[Address] = NO_ADDRESSES,
    refused: Set[Address] = NO_ADDRESSES,
    watched_max: int = WATCHED_MAX,
) -> Change:
    """Take in a scan.

    Args:
        fleet: before the scan.
        seen: the addresses found now, and the process behind each.
        unknown: addresses that could not be looked for: what was known of them stands.
        refused: addresses that must not be used any more.
        watched_max: how many may have a task.
    """
    watched, left_out = dict(fleet.watched), dict[Address, SocketMark]()
    excluded = {
        address: mark
        for address, mark in fleet.excluded.items()
        if seen.get(address) == mark or address in unknown
    }
    seen = {address: mark for address, mark in seen.items() if address not in excluded}
    effects: list[Start | Notify | Full] = []
    for change in compare(fleet.watched, seen, unknown, refused):
        address = change.address
        match change:
            case Notify(event=event):
                watched[address] = event.mark if isinstance(event, PathSeen) else None
                effects.append(change)
            case Start() if len(watched) < watched_max:
                watched[address] = seen[address]
                effects.append(change)
            case Start():
                if not left_out and not fleet.left_out:
                    effects.append(Full(address))
                left_out[address] = seen[address]
    return Change(Fleet(watched, left_out, excluded), tuple(effects))


def ended(fleet: Fleet, address: Address, *, failed: bool, excluded_mark: SocketMark | None = None) -> Change:
    """Take in that a task has ended: its VM is gone for good, or the task `failed` and is started again.

    Args:
        fleet: before the end.
        address: of the task.
        failed: whether the task ended with an error of the agent's own.
        excluded_mark: the process that is excluded; `None`: the VM is not excluded.
    """
    if failed:
        return Change(fleet, (Pause(address, PAUSE_AFTER_FAILURE_NS),))
    excluded = dict(fleet.excluded)
    if excluded_mark is not None:
        newest_mark = fleet.watched[address]
        if newest_mark not in (None, excluded_mark):  # another process has taken the address meanwhile
            return Change(fleet, (Start(address),))
        if newest_mark is not None:
            excluded[address] = excluded_mark
    watched = {each: mark for each, mark in fleet.watched.items() if each != address}
    if not fleet.left_out:
        return Change(Fleet(watched, excluded=excluded))
    (following, mark), *rest = fleet.left_out.items()
    return Change(Fleet({**watched, following: mark}, dict(rest), excluded), (Start(following),))


def resumed(fleet: Fleet, address: Address) -> Change:
    """Start the task of an address again after its pause; what went missing meanwhile is reported to it."""
    if fleet.watched[address] is None:
        return Change(fleet, (Start(address), Notify(address, PathMissing())))
    return Change(fleet, (Start(address),))


def compare(
    running: Mapping[Address, SocketMark | None],
    seen: Mapping[Address, SocketMark],
    unknown: Set[Address] = NO_ADDRESSES,
    refused: Set[Address] = NO_ADDRESSES,
) -> tuple[Start | Notify, ...]:
    """Return what a scan changes, in the order of the addresses' texts.

    Args:
        running: the addresses that have a poller, and the process each poller was last notified of; `None`:
            that it is missing.
        seen: the addresses found now, and the process behind each.
        unknown: addresses that could not be looked for.
        refused: addresses that must not be used any more.
    """
    changes: list[Start | Notify] = []
    for address in sorted(running.keys() | seen.keys(), key=str):
        mark = seen.get(address)
        if address not in running:
            changes.append(Start(address))
        elif mark is None:
            if running[address] is not None and address not in unknown:
                changes.append(Notify(address, PathRefused() if address in refused else PathMissing()))
        elif running[address] != mark:
            changes.append(Notify(address, PathSeen(mark)))
    return tuple(changes)
