"""The VMs of this host: which are watched, which wait for room, and which are excluded."""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from msgspec import Struct
from msgspec import field as struct_field

from agent.core.address import Address, MonitorPath
from agent.core.events import PathMissing, PathRefused, PathSeen
from agent.core.reading import SocketMark
from agent.core.shares import Owner

WATCHED_MAX = 10_000
"""VMs with a task. A socket that is deleted while its link lives leaves one behind that no scan counts."""

DESCRIPTORS_RESERVED = 256
"""Not for links to monitors: the spool, sinks, HTTP clients, the scans."""

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
    limit: int  # of VMs, or of monitors


@dataclass(frozen=True, slots=True)
class Crowded:
    """Report that VMs of the owners with the most, the newest of each, make room for those of others."""

    address: Address  # of the first one
    owner: Owner
    others: int


@dataclass(frozen=True, slots=True)
class Room:
    """How many VMs may have a task."""

    vms: int = WATCHED_MAX
    monitors: int = WATCHED_MAX  # of these, with a link of their own

    def for_another(self, address: Address, watched: Iterable[Address]) -> bool:
        """Return whether the VM at this address has room beside these."""
        return self.limit_for(address, Counter(map(_is_monitor, watched))) is None

    def limit_for(self, address: Address, watched: Mapping[bool, int]) -> int | None:
        """Return the limit that leaves no room for the VM at this address; `None`: there is room.

        Args:
            address: of the VM.
            watched: how many there are, by whether they are monitors.
        """
        if watched.get(True, 0) + watched.get(False, 0) >= self.vms:
            return self.vms
        if _is_monitor(address) and watched.get(True, 0) >= self.monitors:
            return self.monitors
        return None


def room_within(descriptors: int | None) -> Room:
    """Return the room of a process that may have so many descriptors; `None`: any number.

    With few of them half are for links to monitors.
    """
    if descriptors is None:
        return Room()
    return Room(monitors=max(1, min(WATCHED_MAX, max(descriptors - DESCRIPTORS_RESERVED, descriptors // 2))))


def _is_monitor(address: Address) -> bool:
    return isinstance(address, MonitorPath)


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
    owners: Mapping[Address, Owner] = struct_field(
        default_factory=dict[Address, Owner]
    )  # of those that are watched or left out
    leaving: frozenset[Address] = frozenset()  # watched until their tasks have ended: they make room


@dataclass(frozen=True, slots=True)
class Change:
    """The next fleet, and the effects to perform in order."""

    fleet: Fleet
    effects: tuple[Start | Pause | Notify | Full | Crowded, ...] = ()


NO_ADDRESSES: Set[Address] = frozenset()
ROOM = Room()


def scanned(
    fleet: Fleet,
    seen: Mapping[Address, SocketMark],
    *,
    owners: Mapping[Address, Owner],
    unknown: Set[Address] = NO_ADDRESSES,
    refused: Set[Address] = NO_ADDRESSES,
    room: Room = ROOM,
) -> Change:
    """Take in a scan.

    Room is given to the owners with the fewest VMs first. If there is none left, the owners with the most
    make room, until each has as many as the others, or all of its VMs.

    Args:
        fleet: before the scan.
        seen: the addresses found now, and the process behind each.
        owners: of the addresses found now; of those that are not in it, the owner is not known.
        unknown: addresses that could not be looked for: what was known of them stands.
        refused: addresses that must not be used any more.
        room: how many may have a task.
    """
    watched, left_out = dict(fleet.watched), dict[Address, SocketMark]()
    excluded = {
        address: mark
        for address, mark in fleet.excluded.items()
        if seen.get(address) == mark or address in unknown
    }
    here = {
        address: mark
        for address, mark in seen.items()
        if address not in excluded and address not in fleet.leaving
    }
    effects: list[Start | Notify | Full | Crowded] = []
    candidates: list[Address] = []
    for change in compare(fleet.watched, here, unknown, refused):
        match change:
            case Notify(address, event):
                watched[address] = event.mark if isinstance(event, PathSeen) else None
                effects.append(change)
            case Start(address):
                candidates.append(address)
    owner_of = {
        address: owners.get(address, fleet.owners.get(address)) for address in (*watched, *candidates)
    }
    held = Counter(owner_of[address] for address in watched if address not in fleet.leaving)
    kinds = Counter(map(_is_monitor, watched))
    for address in _fewest_first(candidates, owner_of, held):
        limit = room.limit_for(address, kinds)
        if limit is None:
            watched[address] = here[address]
            kinds[_is_monitor(address)] += 1
            held[owner_of[address]] += 1
            effects.append(Start(address))
        else:
            if not left_out and not fleet.left_out:
                effects.append(Full(address, limit))
            left_out[address] = here[address]
    staying = [address for address in watched if address not in fleet.leaving]
    leaving = _make_room(
        left_out,
        staying,
        owner_of,
        held,
        waited_for=len(fleet.leaving),
        only_monitors=len(watched) < room.vms,
    )
    if leaving:
        effects.append(Crowded(leaving[0], owner_of[leaving[0]], len(leaving) - 1))
    for address in leaving:
        watched[address] = None
        effects.append(Notify(address, PathRefused()))
    return Change(
        Fleet(
            watched,
            left_out,
            excluded,
            {address: owner_of[address] for address in (*watched, *left_out)},
            fleet.leaving.union(leaving),
        ),
        tuple(effects),
    )


def _fewest_first(
    candidates: Iterable[Address], owner_of: Mapping[Address, Owner], held: Mapping[Owner, int]
) -> list[Address]:
    """Return the candidates in the order in which their owners have the fewest with each of them."""
    has = Counter(held)
    ranked: list[tuple[int, int, Address]] = []
    for number, address in enumerate(candidates):
        has[owner_of[address]] += 1
        ranked.append((has[owner_of[address]], number, address))
    return [address for _, _, address in sorted(ranked, key=lambda each: each[:2])]


def _make_room(
    left_out: Iterable[Address],
    staying: Iterable[Address],
    owner_of: Mapping[Address, Owner],
    held: Mapping[Owner, int],
    *,
    waited_for: int,
    only_monitors: bool,
) -> list[Address]:
    """Return which VMs make room for those left out: of the owner with the most the newest, again and again.

    Args:
        left_out: those without room, as `_fewest_first` returns them.
        staying: those that have room, the oldest first.
        owner_of: the owner of each.
        held: how many of each owner stay.
        waited_for: how many make room already.
        only_monitors: whether there is room for others than monitors.
    """
    has = Counter(held)
    held_by = {False: dict[Owner, list[Address]](), True: dict[Owner, list[Address]]()}
    for address in staying:
        held_by[_is_monitor(address)].setdefault(owner_of[address], []).append(address)
    most = {
        kind: [(-len(addresses), number, owner) for number, (owner, addresses) in enumerate(owners.items())]
        for kind, owners in held_by.items()
    }
    for heap in most.values():
        heapify(heap)
    leaving: list[Address] = []
    for number, address in enumerate(left_out):
        has[owner_of[address]] += 1
        if number < waited_for:
            continue
        kinds = [True] if only_monitors else [False, True]
        kind = min((each for each in kinds if most[each]), key=lambda each: most[each][0][0], default=None)
        if kind is None or -most[kind][0][0] <= has[owner_of[address]]:
            continue
        count, serial, richest = heappop(most[kind])
        leaving.append(held_by[kind][richest].pop())
        if held_by[kind][richest]:
            heappush(most[kind], (count + 1, serial, richest))
    return leaving


def ended(
    fleet: Fleet,
    address: Address,
    *,
    failed: bool,
    excluded_mark: SocketMark | None = None,
    room: Room = ROOM,
) -> Change:
    """Take in that a task has ended: its VM is gone for good, or the task `failed` and is started again.

    Args:
        fleet: before the end.
        address: of the task.
        failed: whether the task ended with an error of the agent's own.
        excluded_mark: the process that is excluded; `None`: the VM is not excluded.
        room: how many may have a task.
    """
    leaves = address in fleet.leaving
    if failed and not leaves:
        return Change(fleet, (Pause(address, PAUSE_AFTER_FAILURE_NS),))
    excluded = dict(fleet.excluded)
    if excluded_mark is not None and not leaves:
        newest_mark = fleet.watched[address]
        if newest_mark not in (None, excluded_mark):  # another process has taken the address meanwhile
            return Change(fleet, (Start(address),))
        if newest_mark is not None:
            excluded[address] = excluded_mark
    watched = {each: mark for each, mark in fleet.watched.items() if each != address}
    owners = {each: owner for each, owner in fleet.owners.items() if each != address}
    left_out = dict(fleet.left_out)
    following = next((each for each in left_out if room.for_another(each, watched)), None)
    effects: tuple[Start, ...] = ()
    if following is not None:
        watched[following] = left_out.pop(following)
        effects = (Start(following),)
    return Change(Fleet(watched, left_out, excluded, owners, fleet.leaving - {address}), effects)


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
