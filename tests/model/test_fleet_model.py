"""Scans come and go; the fleet's decisions against sets that only count. And who may have an id."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.core.events import PathSeen
from agent.core.fleet import Claims, Start, Tell, compare
from agent.core.reading import SocketMark, VmId

PATHS = st.sampled_from([f"/run/vm/{letter}.qmp" for letter in "abcd"])
MARKS = st.builds(SocketMark, st.just(1), st.integers(1, 3), st.just(5))


class FleetModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, SocketMark | None] = {}
        self.started: list[str] = []
        self.claims = Claims()
        self.holders: dict[str, str] = {}  # id -> path

    @rule(seen=st.dictionaries(PATHS, MARKS))
    def scan(self, seen: dict[str, SocketMark]) -> None:
        before = dict(self.told)

        changes = compare(before, seen)

        assert [change.path for change in changes] == sorted({change.path for change in changes})
        for change in changes:
            match change:
                case Start(path):
                    assert path in seen
                    assert path not in before
                    self.told[path] = seen[path]
                case Tell(path, PathSeen(mark)):
                    assert seen[path] == mark != before[path]
                    self.told[path] = mark
                case Tell(path, _):
                    assert path not in seen
                    assert before[path] is not None
                    self.told[path] = None
        assert {path: mark for path, mark in self.told.items() if mark is not None} == seen
        assert compare(self.told, seen) == ()

    @rule(path=PATHS)
    def retire(self, path: str) -> None:
        if self.told.get(path, ...) is None:
            del self.told[path]

    @rule(path=PATHS, id=st.sampled_from("xyz"))
    def claim(self, path: str, id: str) -> None:
        expected = self.holders.get(id)

        self.claims, other_path = self.claims.claim(VmId(id), path)

        if expected is None or expected == path:
            assert other_path is None
            self.holders = {each: holder for each, holder in self.holders.items() if holder != path}
            self.holders[id] = path
        else:
            assert other_path == expected

    @rule(path=PATHS)
    def disclaim(self, path: str) -> None:
        self.claims = self.claims.disclaim(path)
        self.holders = {each: holder for each, holder in self.holders.items() if holder != path}

    @invariant()
    def every_id_has_one_holder_and_every_path_one_id(self) -> None:
        assert dict(self.claims.holders) == self.holders
        assert len(set(self.holders.values())) == len(self.holders)


TestFleet = FleetModel.TestCase
TestFleet.settings = settings()  # the profile's: the class took its own when hypothesis was imported
