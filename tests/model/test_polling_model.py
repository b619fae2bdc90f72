"""Model test of the poller: random histories of one VM against simple counts."""

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from agent.core.address import MonitorPath
from agent.core.events import (
    Answered,
    Ask,
    Asking,
    Away,
    ClaimContested,
    ClaimFreed,
    CloseLink,
    Displaced,
    EmitSample,
    EmitState,
    Idle,
    LinkFailed,
    MonitorEventKind,
    OpenLink,
    OthersUnseen,
    OthersWait,
    PathMissing,
    PathRefused,
    PathSeen,
    Question,
    Retired,
    StateWanted,
    Tick,
)
from agent.core.memory import Memory
from agent.core.poller import SECOND_NS, PollSettings, begin, remember
from agent.core.reading import Access, IntervalPolicy, Reading, SocketMark, State
from agent.errors import LinkFault
from tests.unit.core.driving import Story, reading

SECONDS = st.one_of(st.sampled_from((0.0, 0.001, 0.999, 1.0, 1.001, 6.0, 31.0, 61.0)), st.floats(0, 30))


class PollingModel(RuleBasedStateMachine):
    @initialize(
        access=st.sampled_from(Access),
        policy=st.sampled_from(IntervalPolicy),
        interval_s=st.sampled_from((0, 1, 2, 10)),
    )
    def begin(self, access: Access, policy: IntervalPolicy, interval_s: int) -> None:
        settings = PollSettings(interval_s=1, policy=policy)
        self.story = Story(settings=settings, access=access, interval_s=interval_s)
        self.updates = 0
        self.marks = 3
        self.checked = 0
        self.link_open = False
        self.remembered = False
        self.run_begins = 0  # index of the first effect of the agent's current run
        self.committed: list[tuple[int, Memory]] = []  # number of effects, and the VM's memory
        self.story.start()

    # --- what happens in the world ---

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.story.pass_s(seconds)

    @rule(counter=st.integers(0, 3), known=st.booleans())
    def the_guest_updates(self, counter: int, known: bool) -> None:
        self.updates += 1
        before = self.story.reading.statistics.get("minor_faults", 0)
        statistics = {"free_memory": self.updates, "minor_faults": before + counter}
        self.story.reading = Reading(self.story.unix_s, statistics if known else {})

    @rule()
    def the_guest_reboots(self) -> None:
        self.updates += 1
        self.story.update(minor_faults=0, free_memory=self.updates)
        if self.story.access is Access.HOLD:
            self.story.hear(MonitorEventKind.RESET)

    @rule()
    def qemu_ten_resets_the_time(self) -> None:
        self.story.reading = reading(0)
        self.story.hear(MonitorEventKind.RESET)

    @rule(running=st.booleans())
    def the_vm_stops_or_goes_on(self, running: bool) -> None:
        self.story.run_state = "running" if running else "paused"
        self.story.hear(MonitorEventKind.RESUME if running else MonitorEventKind.STOP)

    @rule(by_s=st.sampled_from((-3600, -5, -1, 1, 3600)))
    def the_wall_clock_steps(self, by_s: int) -> None:
        self.story.wall_ms += by_s * 1000

    @rule(interval_s=st.sampled_from((0, 1, 5)))
    def somebody_sets_the_interval(self, interval_s: int) -> None:
        self.story.interval_s = interval_s

    @rule(there=st.booleans())
    def the_balloon_goes_or_comes(self, there: bool) -> None:
        self.story.balloon_path = "/machine/peripheral/balloon0" if there else None
        self.story.hear(MonitorEventKind.DEVICE_DELETED)

    @rule()
    def qemu_falls_silent(self) -> None:
        self.story.mute = True

    @rule()
    def qemu_answers_again(self) -> None:
        self.story.mute = False
        phase = self.story.poller.phase
        if isinstance(phase, Asking):
            last = self.story.asked[-1]
            answer = self.story.answer(replace(last, question=phase.question))
            if answer is not None:
                self.story.feed(answer)
        elif not isinstance(phase, Away | Idle | Retired):
            answer = self.story.answer(OpenLink())
            if answer is not None:
                self.story.feed(answer)

    @rule(fault=st.sampled_from(LinkFault))
    def the_link_ends(self, fault: LinkFault) -> None:
        self.link_open = False
        self.story.feed(LinkFailed(fault, "ended"))

    @rule(seen=st.booleans())
    def others_wait_or_cannot_be_seen(self, seen: bool) -> None:
        self.story.feed(OthersWait() if seen else OthersUnseen())

    @rule(
        event=st.sampled_from((Displaced(MonitorPath("/run/vm/other.qmp")), ClaimContested(), ClaimFreed()))
    )
    def another_address_takes_the_id_or_wants_it_or_lets_it_go(
        self, event: Displaced | ClaimContested | ClaimFreed
    ) -> None:
        self.story.feed(event)

    @rule(run_state=st.sampled_from(("prelaunch", "inmigrate", "finish-migrate", "postmigrate")))
    def the_vm_migrates_or_has_yet_to_start(self, run_state: str) -> None:
        self.story.run_state = run_state
        self.story.hear(MonitorEventKind.STOP)

    @rule()
    def another_process_takes_the_path(self) -> None:
        self.marks += 1
        self.story.mark = SocketMark(1, 2, self.marks)
        self.story.reading = reading(0)
        self.the_link_ends(LinkFault.HUNG_UP)
        self.story.feed(PathSeen(self.story.mark))

    @rule(lost=st.integers(0, 2), away_s=SECONDS)
    def the_agent_is_killed_and_started_again(self, lost: int, away_s: float) -> None:
        """Lose what was emitted after a commit, and continue with the memory of that commit."""
        del self.committed[max(len(self.committed) - lost, 1) :]
        count, memory = self.committed[-1]
        del self.story.effects[count:]
        self.checked = self.run_begins = count
        self.link_open = self.remembered = False
        self.story.now_ns += int(away_s * SECOND_NS)
        address, path_id = self.story.poller.endpoint.address, self.story.poller.endpoint.path_id
        before = replace(memory, sequence=0)
        self.story.poller = begin(address, path_id, self.story.access, mark=self.story.mark, before=before)
        self.story.start()

    @precondition(lambda self: self.marks % 3 == 0)
    @rule(refused=st.booleans())
    def the_path_goes(self, refused: bool) -> None:
        self.story.feed(PathRefused() if refused else PathMissing())

    @rule()
    def somebody_wants_the_state(self) -> None:
        before = self.story.poller.reported
        is_retired = isinstance(self.story.poller.phase, Retired)
        effects = self.story.feed(StateWanted())
        if before is None or is_retired:
            return
        repeated, *rest = effects
        assert isinstance(repeated, EmitState)
        assert repeated.event.heartbeat
        assert not [each for each in rest if not isinstance(each, EmitState)], "the VM was touched"
        after = self.story.poller.reported
        assert after is not None
        if not rest:
            assert after.heartbeat_at_ns == before.heartbeat_at_ns

    @rule()
    def a_stray_answer(self) -> None:
        if not isinstance(self.story.poller.phase, Asking):
            before = self.story.poller
            self.story.feed(Answered(reading(self.story.unix_s + 7)))
            assert self.story.poller == before

    @rule()
    def a_wake_up_changes_something(self) -> None:
        # `pass_s` asserts this for each wake-up.
        self.story.pass_s(70)

    # --- what must hold ---

    @invariant()
    def what_is_emitted_is_committed_with_its_memory(self) -> None:
        count = len(self.story.effects)
        since = self.committed[-1][0] if self.committed else 0
        if any(isinstance(each, EmitSample | EmitState) for each in self.story.effects[since:]):
            self.committed.append((count, remember(self.story.poller)))

    @invariant()
    def each_epoch_counts_from_one_without_a_gap_and_only_forward(self) -> None:
        newest: dict[str, tuple[int, int]] = {}
        order: list[str] = []
        for sample in self.story.samples:
            sequence, last_update_s = newest.get(sample.epoch, (0, 0))
            assert sample.sequence == sequence + 1
            assert sample.last_update_s > last_update_s
            newest[sample.epoch] = (sample.sequence, sample.last_update_s)
            if sample.epoch not in order:
                assert (sample.previous is None) == (not order)
                if sample.previous is not None:
                    assert sample.previous.epoch == order[-1]
                    assert sample.previous.sequence == newest[order[-1]][0]
                order.append(sample.epoch)
            assert sample.epoch == order[-1], "an epoch that ended never continues"

    @invariant()
    def nothing_is_emitted_twice_in_a_row(self) -> None:
        for one, other in pairwise(self.story.samples):
            if one.statistics:  # without statistics, two boots within a second look alike
                assert (one.last_update_s, one.statistics) != (other.last_update_s, other.statistics)

    @invariant()
    def one_question_at_a_time_and_only_on_an_open_link(self) -> None:
        for effect in self.story.effects[self.checked :]:
            match effect:
                case OpenLink():
                    assert not self.link_open
                    self.link_open = True
                case CloseLink():
                    self.link_open = False
                case Ask(question=question):
                    if question is Question.SET_INTERVAL:
                        assert self.remembered, "set before it was recorded"
                    self.remembered = question is Question.REMEMBER
                case _:
                    pass
        self.checked = len(self.story.effects)

    @invariant()
    def states_are_numbered_without_a_gap_and_change(self) -> None:
        said = self.story.effects[self.run_begins :]
        events = [effect.event for effect in said if isinstance(effect, EmitState)]
        assert [each.sequence for each in events] == list(range(1, len(events) + 1))
        for one, other in pairwise(events):
            assert other.heartbeat == ((one.state, one.reason) == (other.state, other.reason))

    @invariant()
    def a_vm_that_is_not_running_is_never_stalled(self) -> None:
        said = self.story.poller.reported
        if self.story.poller.process.run_state not in ("running", None) and said is not None:
            assert said.verdict.state is not State.STALLED

    @invariant()
    def nothing_is_set_where_we_only_observe(self) -> None:
        if self.story.settings.policy is IntervalPolicy.OBSERVE:
            assert not any(ask.question is Question.SET_INTERVAL for ask in self.story.asked)

    @invariant()
    def nobody_fights_over_the_interval(self) -> None:
        assert self.story.poller.interval.ownership.times_set <= 2

    @invariant()
    def a_monitor_is_left_to_others(self) -> None:
        poller = self.story.poller
        if not isinstance(poller.phase, Idle):
            return
        may_hold = (
            poller.endpoint.access is Access.HOLD and not poller.others.waited and not poller.others.unseen
        )
        if not may_hold or poller.process.run_state in ("prelaunch", "inmigrate"):
            ends_ns = poller.link.visit_ends_ns
            assert ends_ns is not None
            assert ends_ns <= self.story.now_ns + self.story.settings.visit_ns

    @invariant()
    def every_wait_is_bounded(self) -> None:
        phase = self.story.poller.phase
        if isinstance(phase, Away) and phase.retry_at_ns is not None:
            assert phase.retry_at_ns - self.story.now_ns <= 900 * 10**9


def test_each_wake_up_over_an_hour_changes_something() -> None:
    story = Story()
    story.update()
    story.feed(Tick())
    story.run_s(60)
    story.pass_s(3600)


TestPolling = PollingModel.TestCase
TestPolling.settings = settings()  # the profile's; the default was fixed when hypothesis was imported
