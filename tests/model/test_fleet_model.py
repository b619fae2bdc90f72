"""Scans and tasks that end: the fleet's decisions against sets. And which address may hold an id."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.core.address import Address, Domain, MonitorPath
from agent.core.events import PathSeen
from agent.core.fleet import (
    PAUSE_AFTER_FAILURE_NS,
    Change,
    Claims,
    Fleet,
    Full,
    Notify,
    Start,
    ended,
    scanned,
)
from agent.core.reading import SocketMark, VmId

ADDRESSES = st.sampled_from(
    [*(MonitorPath(f"/run/vm/{name}.qmp") for name in "abc"), *(Domain("qemu:///system", id) for id in "ab")]
)
MARKS = st.builds(SocketMark, st.just(1), st.integers(1, 3), st.just(5))


WATCHED_MAX = 2


class FleetModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.reported: dict[Address, SocketMark | None] = {}  # of each task that runs
        self.seen: dict[Address, SocketMark] = {}
        self.claims = Claims()
        self.holders: dict[str, Address] = {}  # by id

    @rule(seen=st.dictionaries(ADDRESSES, MARKS))
    def scan(self, seen: dict[Address, SocketMark]) -> None:
        before, left_out_before = dict(self.reported), self.fleet.left_out
        self.seen = seen

        change = scanned(self.fleet, seen, watched_max=WATCHED_MAX)

        self.fleet = change.fleet
        addresses = [effect.address for effect in change.effects]
        assert addresses == sorted(set(addresses), key=str)
        for effect in change.effects:
            match effect:
                case Start(address, pause_ns):
                    assert pause_ns == 0
                    assert address not in before
                    self.reported[address] = seen[address]
                case Notify(address, PathSeen(mark)):
                    assert seen[address] == mark != before[address]
                    self.reported[address] = mark
                case Notify(address, _):
                    assert address not in seen
                    assert before[address] is not None
                    self.reported[address] = None
                case Full(address):
                    assert not left_out_before
                    assert next(iter(self.fleet.left_out)) == address
        assert any(isinstance(each, Full) for each in change.effects) == bool(
            self.fleet.left_out and not left_out_before
        )
        # Whatever is seen has a task that knows of it, or waits for room.
        known = {address: mark for address, mark in self.reported.items() if mark is not None}
        assert known | dict(self.fleet.left_out) == seen
        assert not known.keys() & self.fleet.left_out.keys()
        assert not self.fleet.left_out or len(self.reported) == WATCHED_MAX
        assert scanned(self.fleet, seen, watched_max=WATCHED_MAX).effects == ()

    @rule(address=ADDRESSES)
    def retire(self, address: Address) -> None:
        if address not in self.reported:
            return
        del self.reported[address]
        waiting = list(self.fleet.left_out)

        change = ended(self.fleet, address, failed=False)

        self.fleet = change.fleet
        assert change.effects == tuple(Start(each) for each in waiting[:1])
        self.reported.update({each: self.seen[each] for each in waiting[:1]})
        assert list(self.fleet.left_out) == waiting[1:]

    @rule(address=ADDRESSES)
    def fail(self, address: Address) -> None:
        if address in self.reported:
            change = ended(self.fleet, address, failed=True)

            assert change == Change(self.fleet, (Start(address, PAUSE_AFTER_FAILURE_NS),))

    @invariant()
    def what_is_watched_is_bounded_and_known(self) -> None:
        assert dict(self.fleet.watched) == self.reported
        assert len(self.reported) <= WATCHED_MAX

    @rule(address=ADDRESSES, id=st.sampled_from("xyz"))
    def claim(self, address: Address, id: str) -> None:
        expected = self.holders.get(id)

        self.claims, other = self.claims.claim(VmId(id), address)

        if expected is None or expected == address:
            assert other is None
            self.holders = {each: holder for each, holder in self.holders.items() if holder != address}
            self.holders[id] = address
        else:
            assert other == expected

    @rule(address=ADDRESSES)
    def disclaim(self, address: Address) -> None:
        self.claims = self.claims.disclaim(address)
        self.holders = {each: holder for each, holder in self.holders.items() if holder != address}

    @invariant()
    def every_id_has_one_holder_and_every_address_one_id(self) -> None:
        assert dict(self.claims.holders) == self.holders
        assert len(set(self.holders.values())) == len(self.holders)


TestFleet = FleetModel.TestCase
TestFleet.settings = settings()  # the profile's: the class took its own when hypothesis was imported
