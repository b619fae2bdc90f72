"""Scans come and go; the fleet's decisions against sets that only count. And who may have an id."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.core.address import Address, Domain, MonitorPath
from agent.core.events import PathSeen
from agent.core.fleet import Claims, Notify, Start, compare
from agent.core.reading import SocketMark, VmId

ADDRESSES = st.sampled_from(
    [MonitorPath("/run/vm/a.qmp"), MonitorPath("/run/vm/b.qmp"), Domain("qemu:///system", "a")]
)
MARKS = st.builds(SocketMark, st.just(1), st.integers(1, 3), st.just(5))


class FleetModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.reported: dict[Address, SocketMark | None] = {}
        self.started: list[Address] = []
        self.claims = Claims()
        self.holders: dict[str, Address] = {}  # by id

    @rule(seen=st.dictionaries(ADDRESSES, MARKS))
    def scan(self, seen: dict[Address, SocketMark]) -> None:
        before = dict(self.reported)

        changes = compare(before, seen)

        assert [change.address for change in changes] == sorted({each.address for each in changes}, key=str)
        for change in changes:
            match change:
                case Start(address):
                    assert address in seen
                    assert address not in before
                    self.reported[address] = seen[address]
                case Notify(address, PathSeen(mark)):
                    assert seen[address] == mark != before[address]
                    self.reported[address] = mark
                case Notify(address, _):
                    assert address not in seen
                    assert before[address] is not None
                    self.reported[address] = None
        assert {address: mark for address, mark in self.reported.items() if mark is not None} == seen
        assert compare(self.reported, seen) == ()

    @rule(address=ADDRESSES)
    def retire(self, address: Address) -> None:
        if self.reported.get(address, ...) is None:
            del self.reported[address]

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
