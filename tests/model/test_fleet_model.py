"""Model test of the fleet: its decisions on scans and ended tasks, and which address may hold an id."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.core.address import Address, Domain, MonitorPath
from agent.core.claims import SETTLED_NS, Claims, Holder
from agent.core.events import PathMissing, PathRefused, PathSeen
from agent.core.fleet import (
    PAUSE_AFTER_FAILURE_NS,
    Change,
    Crowded,
    Fleet,
    Full,
    Notify,
    Pause,
    Room,
    Start,
    ended,
    resumed,
    scanned,
)
from agent.core.reading import SocketMark, VmId
from agent.core.shares import Owner

ADDRESSES = st.sampled_from(
    [
        *(MonitorPath(f"/run/vm/{name}.qmp") for name in "abcde"),
        *(Domain("qemu:///system", id) for id in "ab"),
    ]
)
MARKS = st.builds(SocketMark, st.just(1), st.integers(1, 3), st.just(5))
ROOM = Room(vms=4, monitors=3)


def owner_of(address: Address) -> Owner:
    if isinstance(address, Domain):
        return address.uri
    return {"/run/vm/a.qmp": 1000, "/run/vm/b.qmp": 1001}.get(address.path, 1002)


class FleetModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.reported: dict[Address, SocketMark | None] = {}  # to each running task
        self.seen: dict[Address, SocketMark] = {}
        self.claims = Claims()
        self.holders: dict[str, Holder] = {}  # by id
        self.waiting: dict[Address, str] = {}  # the id that each address tried to hold last
        self.owners: dict[str, Owner] = {}  # of each id
        self.now_ns = 0
        self.paused: set[Address] = set()
        self.excluded: dict[Address, SocketMark] = {}

    @rule(
        seen=st.dictionaries(ADDRESSES, MARKS),
        unknown=st.sets(ADDRESSES, max_size=2),
        refused=st.sets(ADDRESSES, max_size=2),
    )
    def scan(self, seen: dict[Address, SocketMark], unknown: set[Address], refused: set[Address]) -> None:
        before, left_out_before = dict(self.reported), self.fleet.left_out
        leaving_before = self.fleet.leaving
        self.seen = seen
        owners = {address: owner_of(address) for address in seen}

        change = scanned(self.fleet, seen, owners=owners, unknown=unknown, refused=refused, room=ROOM)

        self.fleet = change.fleet
        self.excluded = {
            address: mark
            for address, mark in self.excluded.items()
            if address in unknown or seen.get(address) == mark
        }
        watchable = {
            address: mark
            for address, mark in seen.items()
            if address not in self.excluded and address not in leaving_before
        }
        crowded = self.fleet.leaving - leaving_before
        for effect in change.effects:
            match effect:
                case Pause():
                    raise AssertionError("no task has failed")
                case Start(address):
                    assert address not in before
                    assert address not in self.excluded
                    self.reported[address] = seen[address]
                case Notify(address, PathSeen(mark)):
                    assert seen[address] == mark != before[address]
                    self.reported[address] = mark
                case Notify(address, PathRefused()) if address in crowded:
                    self.reported[address] = None
                case Notify(address, event):
                    assert address not in seen
                    assert address not in unknown, "an address that could not be checked is left as it is"
                    assert before[address] is not None
                    assert event == (PathRefused() if address in refused else PathMissing())
                    self.reported[address] = None
                case Full(address):
                    assert not left_out_before
                    assert next(iter(self.fleet.left_out)) == address
                case Crowded(address, owner, others):
                    assert address in crowded
                    assert (owner, others) == (owner_of(address), len(crowded) - 1)
        assert any(isinstance(each, Full) for each in change.effects) == bool(
            self.fleet.left_out and not left_out_before
        )
        # Each address that was seen has a task that knows its mark, or waits for room.
        known = {address: mark for address, mark in self.reported.items() if mark is not None}
        kept = {address: mark for address, mark in before.items() if address in unknown and mark is not None}
        expected = {each: mark for each, mark in (kept | watchable).items() if each not in crowded}
        assert known | dict(self.fleet.left_out) == expected
        assert not known.keys() & self.fleet.left_out.keys()
        assert not any(ROOM.for_another(each, self.reported) for each in self.fleet.left_out)
        self.check_shares(crowded)
        again = scanned(self.fleet, seen, owners=owners, unknown=unknown, refused=refused, room=ROOM)
        assert again.effects == ()

    def check_shares(self, crowded: frozenset[Address]) -> None:
        """Assert that no owner with a VM that could leave has two VMs more than the owner of a waiting VM."""
        left_out = list(self.fleet.left_out)
        staying = [each for each in self.reported if each not in self.fleet.leaving]
        held = Counter(owner_of(each) for each in [*staying, *left_out[: len(self.fleet.leaving)]])
        only_monitors = len(self.reported) < ROOM.vms
        may_leave = {owner_of(each) for each in staying if isinstance(each, MonitorPath) or not only_monitors}
        for waiting in left_out[len(self.fleet.leaving) :]:
            assert all(held[owner_of(waiting)] + 1 >= held[other] for other in may_leave)
        for address in crowded:
            newest = list(self.reported)[list(self.reported).index(address) :]
            assert all(each in self.fleet.leaving for each in newest if owner_of(each) == owner_of(address))

    @rule(address=ADDRESSES)
    def retire(self, address: Address) -> None:
        if address not in self.reported or address in self.paused:
            return
        del self.reported[address]
        waiting = list(self.fleet.left_out)

        change = ended(self.fleet, address, failed=False, room=ROOM)

        self.fleet = change.fleet
        following = self.next_with_room(waiting)
        assert change.effects == tuple(Start(each) for each in following)
        self.reported.update({each: self.seen[each] for each in following})
        assert list(self.fleet.left_out) == [each for each in waiting if each not in following]

    def next_with_room(self, waiting: list[Address]) -> list[Address]:
        return [each for each in waiting if ROOM.for_another(each, self.reported)][:1]

    @rule(address=ADDRESSES, mark=st.none() | MARKS)
    def exclude(self, address: Address, mark: SocketMark | None) -> None:
        if address not in self.reported or address in self.paused:
            return
        newest_mark, waiting = self.reported[address], list(self.fleet.left_out)
        mark = mark or newest_mark or SocketMark(1, 1, 5)

        leaves = address in self.fleet.leaving

        change = ended(self.fleet, address, failed=False, excluded_mark=mark, room=ROOM)

        self.fleet = change.fleet
        if leaves:
            newest_mark = None
        if newest_mark not in (None, mark):
            assert change.effects == (Start(address),), "the process now at the address may be observed"
            return
        if newest_mark is not None:
            self.excluded[address] = mark
        del self.reported[address]
        following = self.next_with_room(waiting)
        assert change.effects == tuple(Start(each) for each in following)
        self.reported.update({each: self.seen[each] for each in following})

    @rule(address=ADDRESSES)
    def fail(self, address: Address) -> None:
        if address in self.reported and address not in self.paused and address not in self.fleet.leaving:
            change = ended(self.fleet, address, failed=True)

            assert change == Change(self.fleet, (Pause(address, PAUSE_AFTER_FAILURE_NS),))
            self.paused.add(address)

    @rule(address=ADDRESSES)
    def resume(self, address: Address) -> None:
        if address not in self.paused:
            return
        self.paused.remove(address)

        change = resumed(self.fleet, address)

        assert change.fleet == self.fleet
        assert change.effects[0] == Start(address)
        missing = self.reported[address] is None  # a paused task could not be notified
        assert change.effects[1:] == ((Notify(address, PathMissing()),) if missing else ())

    @invariant()
    def what_is_watched_is_bounded_and_known(self) -> None:
        assert dict(self.fleet.watched) == self.reported
        assert dict(self.fleet.excluded) == self.excluded
        assert len(self.reported) <= ROOM.vms
        assert sum(isinstance(each, MonitorPath) for each in self.reported) <= ROOM.monitors
        assert self.fleet.leaving <= self.reported.keys()

    @rule(
        address=ADDRESSES,
        id=st.sampled_from("xyz"),
        active=st.booleans(),
        owner=st.sampled_from([0, 1000, 1001, None]),
        passed_ns=st.sampled_from([0, 1, SETTLED_NS]),
    )
    def claim(self, address: Address, id: str, active: bool, owner: int | None, passed_ns: int) -> None:
        self.now_ns += passed_ns
        holder = self.holders.get(id)
        ours = holder is not None and holder.address == address
        if holder is not None and holder.owner is not None and self.now_ns - holder.since_ns >= SETTLED_NS:
            self.owners[id] = holder.owner
        elif owner is not None and (holder is None or ours):
            self.owners.setdefault(id, owner)

        claimed = self.claims.claim(VmId(id), address, active=active, owner=owner, now_ns=self.now_ns)

        self.claims = claimed.claims
        assert self.claims.owners == self.owners
        if holder is not None and not ours:
            may_share = active and owner in (0, holder.owner)
            is_back = active and owner is not None and self.owners.get(id) == owner != holder.owner
            keeps = not is_back and (holder.active or not may_share)
            assert claimed.contested == (keeps and may_share)
        else:
            keeps = False
        if holder is not None and keeps:
            assert (claimed.other, claimed.displaced, claimed.freed) == (holder.address, None, ())
            self.waiting[address] = id
            return
        left = {each for each, held in self.holders.items() if held.address == address and each != id}
        if ours and holder is not None and holder.active and not active:
            left.add(id)
        self.waiting.pop(address, None)
        assert claimed.other is None
        assert set(claimed.freed) == {each for each, wanted in self.waiting.items() if wanted in left}
        assert claimed.displaced == (None if holder is None or ours else holder.address)
        if claimed.displaced is not None:
            self.waiting[claimed.displaced] = id
        self.holders = {each: held for each, held in self.holders.items() if held.address != address}
        since_ns = holder.since_ns if ours and holder is not None and holder.owner == owner else self.now_ns
        self.holders[id] = Holder(address, active, owner, since_ns)
        assert claimed.owner == (owner if self.owners.get(id) == owner else None)

    @rule(address=ADDRESSES)
    def disclaim(self, address: Address) -> None:
        left = {each for each, held in self.holders.items() if held.address == address}

        claimed = self.claims.disclaim(address)

        self.claims = claimed.claims
        self.waiting.pop(address, None)
        assert set(claimed.freed) == {each for each, wanted in self.waiting.items() if wanted in left}
        self.holders = {each: held for each, held in self.holders.items() if held.address != address}

    @invariant()
    def every_id_has_one_holder_and_every_address_one_id(self) -> None:
        assert dict(self.claims.holders) == self.holders
        assert dict(self.claims.waiting) == self.waiting
        holders = [each.address for each in self.holders.values()]
        assert len(set(holders)) == len(holders)


TestFleet = FleetModel.TestCase
TestFleet.settings = settings()  # the profile's; the default was fixed when hypothesis was imported
