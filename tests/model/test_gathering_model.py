"""Model test of the spool's commits: records arrive at any rate, and the disk fails at any time."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.core import gathering
from agent.core.gathering import Commit, GatherSettings, Wait
from agent.core.poller import SECOND_NS

SETTINGS = GatherSettings()


class GatheringModel(RuleBasedStateMachine):
    """Begins each commit when it is due, as the spool does, or at the end of a commit under way."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 10 * SECOND_NS
        self.gathering = gathering.start(now_ns=self.now_ns, settings=SETTINGS)
        self.records = 0
        self.oldest_ns: int | None = None  # of the pending records
        self.committing: int | None = None  # records in the commit under way
        self.committed_at_ns: int | None = None
        self.failed_at_ns = 0
        self.failures = 0

    def action(self) -> Commit | Wait:
        return gathering.next_action(
            self.gathering, records=self.records, now_ns=self.now_ns, settings=SETTINGS
        )

    def is_due(self) -> bool:
        return self.committing is None and isinstance(self.action(), Commit)

    @precondition(lambda self: not self.is_due())
    @rule(count=st.one_of(st.integers(0, 20), st.integers(0, 600)))
    def records_arrive(self, count: int) -> None:
        """Let records arrive. A count of 0 stands for another change to commit, such as a delivery."""
        self.records += count
        self.oldest_ns = self.now_ns if self.oldest_ns is None else self.oldest_ns
        self.gathering = gathering.arrived(self.gathering, now_ns=self.now_ns)

    @precondition(lambda self: not self.is_due())
    @rule(passed_ns=st.one_of(st.integers(0, SECOND_NS // 10), st.integers(0, 40 * SECOND_NS)))
    def time_passes(self, passed_ns: int) -> None:
        action = self.action()
        until_ns = action.until_ns if isinstance(action, Wait) and self.committing is None else None
        self.now_ns = min(self.now_ns + passed_ns, until_ns or self.now_ns + passed_ns)

    @precondition(lambda self: self.is_due())
    @rule()
    def a_commit_begins(self) -> None:
        assert self.oldest_ns is not None, "nothing to commit"
        if self.failures:
            doubled_ns = SETTINGS.first_retry_ns * 2 ** (self.failures - 1)
            assert self.now_ns - self.failed_at_ns >= min(doubled_ns, SETTINGS.longest_retry_ns), "too soon"
        elif self.records < SETTINGS.enough_records and self.committed_at_ns is not None:
            assert self.now_ns - self.oldest_ns >= SETTINGS.pause_ns, "too many commits"
        self.committing, self.records, self.oldest_ns = self.records, 0, None
        self.gathering = gathering.begun(self.gathering)

    @precondition(lambda self: self.committing is not None)
    @rule()
    def the_commit_succeeds(self) -> None:
        assert self.committing is not None
        self.gathering = gathering.committed(
            self.gathering, records=self.committing, now_ns=self.now_ns, settings=SETTINGS
        )
        self.committing, self.committed_at_ns, self.failures = None, self.now_ns, 0

    @precondition(lambda self: self.committing is not None)
    @rule()
    def the_commit_fails(self) -> None:
        assert self.committing is not None
        self.records += self.committing
        self.committing, self.failures, self.failed_at_ns = None, self.failures + 1, self.now_ns
        self.oldest_ns = self.now_ns if self.oldest_ns is None else self.oldest_ns
        self.gathering = gathering.arrived(self.gathering, now_ns=self.now_ns)
        self.gathering = gathering.failed(self.gathering, now_ns=self.now_ns, settings=SETTINGS)

    @invariant()
    def what_is_pending_has_a_time(self) -> None:
        action = self.action()
        if self.oldest_ns is None:
            assert action == Wait(None)
        elif isinstance(action, Wait):
            assert action.until_ns is not None, "never committed"
            begun_ns = max(
                self.oldest_ns, self.failed_at_ns + SETTINGS.longest_retry_ns * bool(self.failures)
            )
            assert self.now_ns < action.until_ns <= begun_ns + SETTINGS.slow_pause_ns, "committed late"
            assert self.records < SETTINGS.enough_records or self.failures, "enough records, but no commit"


TestGathering = GatheringModel.TestCase
TestGathering.settings = settings()  # the profile's; the default was fixed when hypothesis was imported
