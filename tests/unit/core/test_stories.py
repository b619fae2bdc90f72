"""Tests of each state and of what the design promises for it, as stories of one VM."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from msgspec import structs

from agent.core.address import MonitorPath
from agent.core.events import (
    Ask,
    Asking,
    Checked,
    CloseLink,
    Counted,
    CountReading,
    Done,
    Duplicate,
    Effect,
    EmitState,
    Event,
    Forget,
    FoundNoCounters,
    LinkFailed,
    MonitorEventKind,
    OpenLink,
    OthersWait,
    PathMissing,
    PathSeen,
    Question,
    Refused,
    Retire,
    StateWanted,
    Tick,
)
from agent.core.falling import WRAPS
from agent.core.poller import SECOND_NS, PollSettings, begin, remember
from agent.core.polling import wakeup_at
from agent.core.reading import Access, EpochEnd, IntervalPolicy, Origin, SocketMark, State, VmId
from agent.errors import LinkFault
from tests.unit.core.driving import MARK, Story, reading, reporting

OBSERVE = PollSettings(interval_s=1, policy=IntervalPolicy.OBSERVE)


def questions(story: Story) -> list[Question]:
    return [ask.question for ask in story.asked]


def test_a_guest_without_a_driver_is_waiting_and_reports_once_it_answers() -> None:
    story = Story().start()
    story.pass_s(29.5)
    assert story.words == [("connecting", "first_attempt"), ("waiting", "no_update_yet")]

    story.run_s(3)

    assert story.words[-1] == ("reporting", "advancing")
    assert [each.origin for each in story.samples] == [Origin.UNSOLICITED, Origin.POLL, Origin.POLL]


def test_each_advance_is_one_sample_with_a_sequence_without_gaps() -> None:
    story = reporting()

    assert [each.sequence for each in story.samples] == [1, 2, 3, 4, 5]
    assert len({each.epoch for each in story.samples}) == 1
    assert all(each.missed_at_most == 0 for each in story.samples)


def test_silence_is_stalled_after_its_deadline_and_the_first_update_back_is_unsolicited() -> None:
    story = reporting()
    story.pass_s(4.5)
    assert story.words[-1][0] == "reporting"

    story.pass_s(2)
    assert story.words[-1] == ("stalled", "no_advance")
    story.pass_s(100)
    story.run_s(3)

    assert story.words[-1] == ("reporting", "advancing")
    assert [each.origin for each in story.samples[5:7]] == [Origin.UNSOLICITED, Origin.POLL]


def test_a_vm_whose_last_update_is_old_is_settling_until_its_deadline() -> None:
    story = Story()
    story.reading = reading(story.unix_s - 60)
    story.start()
    story.pass_s(3)
    assert story.words == [("connecting", "first_attempt"), ("connecting", "settling")]

    story.pass_s(4)

    assert story.words[-1] == ("stalled", "no_advance")


def test_a_silent_guest_is_read_about_once_an_interval() -> None:
    story = reporting(settings=PollSettings(interval_s=10), interval_s=10)
    story.pass_s(60)
    before = len(story.asked)

    story.pass_s(1_000)

    reads = questions(story)[before:].count(Question.READ)
    assert 100 <= reads <= 125


def test_a_pause_longer_than_the_deadline_is_paused_and_nothing_is_missed() -> None:
    story = reporting()

    story.run_state = "paused"
    story.hear(MonitorEventKind.STOP)
    story.pass_s(600)
    story.run_state = "running"
    story.hear(MonitorEventKind.RESUME)
    story.run_s(3)

    assert [state for state, _ in story.words[-2:]] == ["paused", "reporting"]
    after = story.samples[5]
    assert (after.missed_at_most, after.origin) == (0, Origin.UNSOLICITED)


def test_a_guest_suspended_to_memory_is_paused_at_once_and_never_stalled() -> None:
    story = reporting()

    story.run_state = "suspended"
    story.hear(MonitorEventKind.SUSPEND)
    assert story.words[-1] == ("paused", "suspended")
    story.pass_s(600)
    story.run_state = "running"
    story.hear(MonitorEventKind.WAKEUP)
    story.run_s(3)

    assert [state for state, _ in story.words[-2:]] == ["paused", "reporting"]
    after = story.samples[5]
    assert (after.missed_at_most, after.origin) == (0, Origin.UNSOLICITED)


def test_the_vms_clock_stands_still_from_the_stop_event_on() -> None:
    story = reporting()
    story.mute = True  # the run state is being asked for

    story.hear(MonitorEventKind.STOP)
    before_ns = story.poller.running.read(story.now_ns)
    story.now_ns += 500_000_000

    assert story.poller.running.read(story.now_ns) == before_ns


@pytest.mark.parametrize("answer", ["paused", "refused"])
def test_a_vm_that_resumes_while_a_check_is_in_flight_is_checked_again(answer: str) -> None:
    story = reporting(run_state="running")
    story.run_state = "paused"
    story.hear(MonitorEventKind.STOP)
    story.pass_s(1)
    before = Checked("paused", story.balloon_path, story.interval_s)

    story.mute = True
    story.hear(MonitorEventKind.STOP)
    assert story.asked[-1].question is Question.CHECK
    story.now_ns += 5_000_000
    story.hear(MonitorEventKind.RESUME)
    story.now_ns += 5_000_000
    story.mute, story.run_state = False, "running"
    story.feed(before if answer == "paused" else Refused("busy"))
    story.pass_s(0.1)

    assert story.words[-1] == ("reporting", "advancing")


def test_a_migration_names_qemus_own_word() -> None:
    story = reporting()

    story.run_state = "postmigrate"
    story.hear(MonitorEventKind.STOP)

    assert story.words[-1] == ("paused", "postmigrate")


def test_a_reset_is_waiting_in_a_new_epoch_although_the_time_goes_on() -> None:
    story = reporting()
    first = story.samples[-1]

    story.hear(MonitorEventKind.RESET)
    story.hear(MonitorEventKind.RESET)
    assert story.words[-1] == ("waiting", "rebooted")
    story.pass_s(8)
    story.run_s(2)

    assert [state for state, _ in story.words[-2:]] == ["waiting", "reporting"]
    second = story.samples[5]
    assert second.epoch != first.epoch
    assert second.previous is not None
    assert (second.previous.epoch, second.previous.sequence) == (first.epoch, first.sequence)
    assert (second.sequence, second.origin) == (1, Origin.UNSOLICITED)


def test_a_counter_that_falls_ends_the_epoch_without_a_reset_event() -> None:
    story = Story(access=Access.SHARE)
    story.update(minor_faults=1_000)
    story.start()
    story.pass_s(1)
    story.update(minor_faults=10)
    story.pass_s(1)

    assert [each.sequence for each in story.samples] == [1, 1]
    assert story.samples[0].epoch != story.samples[1].epoch


def epochs_of(story: Story, updates: Sequence[Mapping[str, int]]) -> list[int]:
    """Send these updates, one each second; return the sequences of all samples."""
    for number, statistics in enumerate(updates):
        story.update(**statistics)
        story.pass_s(1)
        if not number:
            story.start()
            story.pass_s(0.5)
    return [each.sequence for each in story.samples]


RATES = (40, 12, 33, 7, 25, 40, 12, 33, 7, 25)


def test_a_statistic_that_is_not_a_counter_is_found_once_and_ends_no_epoch() -> None:
    story = Story()

    sequences = epochs_of(story, [{"minor_faults": each, "major_faults": 5} for each in RATES])

    assert sequences == list(range(1, 11))
    found = [effect for effect in story.effects if isinstance(effect, FoundNoCounters)]
    assert found == [FoundNoCounters(frozenset({"minor_faults"}))]
    assert [each.statistics["minor_faults"] for each in story.samples] == list(RATES)


@pytest.mark.parametrize("access", list(Access))
def test_rates_without_a_witness_end_one_epoch_at_most(access: Access) -> None:
    story = Story(access=access)

    epochs_of(story, [{"minor_faults": each} for each in RATES])

    assert len({each.epoch for each in story.samples}) == 2


def test_a_boot_after_a_statistic_that_is_not_a_counter_is_another_epoch() -> None:
    story = Story()
    before = [{"minor_faults": each, "major_faults": 500} for each in (40, 12, 33)]
    after = [{"minor_faults": 50, "major_faults": major} for major in (3, 4)]

    assert epochs_of(story, [*before, *after]) == [1, 2, 3, 1, 2]


def test_a_restart_that_one_counter_does_not_show_is_another_epoch() -> None:
    story = Story()
    before = {"major_faults": 5, "minor_faults": 9_000, "swap_in": 8_192}
    after = {"major_faults": 5, "minor_faults": 70, "swap_in": 0}

    assert epochs_of(story, [before, before | {"free_memory": 1}, after]) == [1, 2, 1]
    assert not [effect for effect in story.effects if isinstance(effect, FoundNoCounters)]


@pytest.mark.parametrize(("others", "sequences"), [(False, [1, 2, 3]), (True, [1, 2, 1])])
def test_a_monitor_that_the_agent_leaves_to_others_has_no_events(others: bool, sequences: list[int]) -> None:
    story = Story()
    story.update(minor_faults=40, major_faults=5)
    story.start()
    if others:
        story.feed(OthersWait())
    for faults in (50, 12):
        story.pass_s(1)
        story.update(minor_faults=faults, major_faults=100 - faults)
    story.pass_s(1)

    assert [each.sequence for each in story.samples] == sequences


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_wrap_at_32_bits_ends_no_epoch_if_another_counter_goes_on(wrap: int) -> None:
    story = Story()
    before, after = wrap - 4096, 8192

    sequences = epochs_of(
        story, [{"swap_in": swapped, "minor_faults": 77} for swapped in (before, after, after + 4096)]
    )

    assert sequences == [1, 2, 3]
    assert not [effect for effect in story.effects if isinstance(effect, FoundNoCounters)]


def test_counters_that_all_fall_are_another_boot() -> None:
    story = Story()

    sequences = epochs_of(
        story,
        [{"swap_in": (1 << 44) - 4096, "minor_faults": 7_000}, {"swap_in": 0, "minor_faults": 500}],
    )

    assert sequences == [1, 1]


def test_a_time_that_goes_back_ends_the_epoch_and_repeats_nothing() -> None:
    story = reporting()
    count = len(story.samples)

    story.wall_ms -= 3_600_000
    story.run_s(3)

    after = story.samples[count:]
    assert [each.sequence for each in after] == [1, 2, 3]
    assert after[0].epoch != story.samples[0].epoch


def test_two_updates_within_a_second_are_one_sample_and_a_count() -> None:
    story = reporting()
    count = len(story.samples)

    story.reading = structs.replace(story.reading, statistics={"free_memory": 1})
    story.pass_s(0.9)

    assert len(story.samples) == count
    assert CountReading(Counted.COALESCED) in story.effects


def test_overwritten_updates_are_counted_on_the_next_sample() -> None:
    story = reporting()
    story.mute = True
    story.pass_s(1.5)
    asked = story.poller.phase
    story.now_ns += 5_000_000_000
    story.mute = False
    story.update()
    assert asked == story.poller.phase
    story.feed(story.answer(Ask(Question.READ)))  # pyrefly: ignore[bad-argument-type]

    assert 4 <= story.samples[-1].missed_at_most <= 6


def test_a_reading_past_its_deadline_is_unreachable_and_the_late_answer_ends_it() -> None:
    story = reporting()
    story.mute = True
    story.pass_s(2.2)
    assert story.words[-1] == ("unreachable", "no_answer")
    asked = len(story.asked)
    story.pass_s(60)
    assert len(story.asked) == asked  # one reading in flight, never a second

    story.mute = False
    story.update()
    story.feed(story.answer(Ask(Question.READ)))  # pyrefly: ignore[bad-argument-type]

    assert story.words[-1] == ("reporting", "advancing")
    assert "stalled" not in dict(story.words)


@pytest.mark.parametrize("since", [None, MonitorEventKind.RESET, MonitorEventKind.RESUME])
def test_the_detail_shows_whether_a_qemu_hangs_at_its_exit(since: MonitorEventKind | None) -> None:
    story = reporting()
    story.hear(MonitorEventKind.SHUTDOWN)
    if since is not None:  # under -no-shutdown the VM is started again
        story.hear(since)
        story.update()
        story.pass_s(1)

    story.mute = True
    story.pass_s(2.2)

    assert story.words[-1] == ("unreachable", "no_answer")
    assert ("hangs at its exit" in story.states[-1].detail) == (since is None)


@pytest.mark.parametrize("access", [Access.HOLD, Access.SHARE])
def test_an_agent_that_got_no_cpu_reads_what_arrived_before_it_calls_qemu_silent(access: Access) -> None:
    story = reporting(access=access)
    answer = story.answer
    story.answer = lambda effect: None if isinstance(effect, Ask) else answer(effect)
    count = len(story.words)
    for _ in range(200):
        if isinstance(story.poller.phase, Asking):
            break
        story.pass_s(0.01)
    assert isinstance(story.poller.phase, Asking)

    story.now_ns += 5 * SECOND_NS  # the reading's deadline passes meanwhile
    story.feed(Tick())
    assert len(story.words) == count

    story.pass_s(1)
    assert story.words[count:] == [("unreachable", "no_answer")]


def test_a_killed_qemu_is_gone_without_a_flap_and_the_next_one_a_new_epoch() -> None:
    story = reporting()
    story.mute = True

    story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))
    story.feed(LinkFailed(LinkFault.HUNG_UP, "its listener is still there"))
    story.pass_s(0.1)
    story.feed(LinkFailed(LinkFault.REFUSED, "refused"))
    assert [state for state, _ in story.words[-2:]] == ["reporting", "gone"]

    story.mute, story.mark = False, SocketMark(1, 2, 99)
    story.reading = reading(0)
    story.feed(PathSeen(story.mark))
    assert story.words[-1] == ("waiting", "no_update_yet")
    story.run_s(1)
    assert story.samples[-1].sequence == 1
    assert story.samples[-1].previous is not None
    assert Forget(MARK) in story.effects


def test_a_peer_that_hangs_up_again_and_again_is_unreachable() -> None:
    story = reporting()
    story.mute = True
    for _ in range(6):
        story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))
        story.pass_s(0.25)

    assert story.words[-1] == ("unreachable", "hung_up")


def test_a_removed_socket_changes_nothing_while_the_link_is_open_and_then_retires_the_vm() -> None:
    story = reporting()
    words = list(story.words)

    story.feed(PathMissing())
    assert story.words == words
    story.mute = True
    story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))

    assert story.words[-1] == ("gone", "missing")
    assert Retire() in story.effects
    assert wakeup_at(story.poller, story.settings) is None


def test_sequences_continue_when_a_vm_returns_to_its_path() -> None:
    story = reporting()
    story.feed(PathMissing())
    story.mute = True
    story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))
    last = story.states[-1].sequence

    again = Story(mark=SocketMark(1, 2, 99))
    again.poller = begin(
        MonitorPath("/run/vm/a.qmp"), VmId("path-id"), Access.HOLD, before=remember(story.poller)
    )
    again.update()
    again.start()

    assert again.states[0].sequence == last + 1
    assert again.samples[0].previous is not None


def restarted(story: Story, *, away_s: int = 0) -> Story:
    """Return a new run of the agent, `away_s` later, with what the previous run recorded last."""
    again = replace(story, now_ns=story.now_ns + away_s * SECOND_NS, effects=[], asked=[])
    memory = structs.replace(remember(story.poller), sequence=0)
    again.poller = begin(
        MonitorPath("/run/vm/a.qmp"), VmId("path-id"), Access.HOLD, mark=story.mark, before=memory
    )
    return again


def test_a_restart_emits_nothing_twice_and_continues_the_epoch() -> None:
    before = reporting()
    after = restarted(before)
    after.start()
    assert after.samples == []

    after.update()
    after.run_s(2)

    last, first = before.samples[-1], after.samples[0]
    assert (first.epoch, first.sequence) == (last.epoch, last.sequence + 1)
    assert first.epoch_start_s == last.epoch_start_s
    assert first.previous is None
    assert first.origin is Origin.UNSOLICITED
    assert after.states[0].previous_state is State.REPORTING
    assert after.states[0].sequence == 1


def test_a_restart_emits_the_newest_update_of_the_downtime_and_counts_those_overwritten() -> None:
    before = reporting()
    after = restarted(before, away_s=10)
    after.update()
    after.start()

    assert [(each.sequence, each.missed_at_most) for each in after.samples] == [
        (before.samples[-1].sequence + 1, 9)
    ]
    assert CountReading(Counted.MISSED, 9) in after.effects


def test_a_restart_finds_a_new_qemu_and_names_the_previous_epoch() -> None:
    before = reporting()
    after = restarted(before, away_s=10)
    after.mark = SocketMark(1, 2, 99)
    after.update()
    after.start()

    last, first = before.samples[-1], after.samples[0]
    assert first.epoch != last.epoch
    assert (first.sequence, first.missed_at_most) == (1, 0)
    assert first.previous == EpochEnd(last.epoch, last.sequence)
    assert Forget(before.mark) in after.effects


def test_a_restart_finds_no_listener_on_the_socket() -> None:
    after = restarted(reporting())
    after.mute = True
    after.start()
    after.feed(LinkFailed(LinkFault.REFUSED, "refused"))

    assert after.words[-1] == ("gone", "refused")


def test_the_memory_of_a_vm_is_kept_until_the_first_link() -> None:
    before = reporting()
    after = restarted(before)
    after.mute = True
    after.start()

    assert remember(after.poller).history == before.poller.history


def test_a_missing_balloon_is_looked_for_again() -> None:
    story = Story(balloon_path=None).start()
    assert story.words[-1] == ("no-balloon", "no_device")

    story.balloon_path = "/machine/peripheral/balloon0"
    story.run_s(31)

    assert story.words[-1] == ("reporting", "advancing")


def test_a_vm_with_every_statistic_unset_is_empty_and_its_sample_has_none() -> None:
    story = Story()
    story.reading = structs.replace(reading(story.unix_s), statistics={}, unset=frozenset({"free_memory"}))
    story.start()

    assert story.words[-1] == ("empty", "all_unset")
    assert [dict(each.statistics) for each in story.samples] == [{}]


def test_a_statistic_given_before_and_not_now_is_missing() -> None:
    story = Story()
    story.update(free_memory=1, disk_caches=2)
    story.start()
    story.pass_s(1)
    story.update(free_memory=1)
    story.pass_s(1)

    assert story.samples[-1].missing == {"disk_caches"}


def test_polling_off_under_observe_is_off_and_the_old_reading_comes_once() -> None:
    story = Story(settings=OBSERVE, interval_s=0)
    story.reading = reading(story.unix_s - 5_000)
    story.start()
    story.pass_s(300)

    assert story.words[-1] == ("off", "polling_disabled")
    assert len(story.samples) == 1
    assert questions(story).count(Question.READ) <= 12
    assert Question.SET_INTERVAL not in questions(story)


def test_fill_remembers_before_it_sets_and_leaves_another_value_alone() -> None:
    filled = Story(interval_s=0).start()
    left = Story(interval_s=7).start()

    asked = questions(filled)
    assert asked.index(Question.READ) < asked.index(Question.REMEMBER) < asked.index(Question.SET_INTERVAL)
    assert Question.SET_INTERVAL not in questions(left)
    assert left.poller.process.interval_s == 7


def test_polling_is_switched_on_at_another_time_for_each_vm_after_another_check() -> None:
    settings = PollSettings(interval_s=10, spread_ns=800_000_000)
    set_at_ns: list[int] = []
    for number in range(50):
        story = Story(settings=settings, interval_s=0)
        story.poller = begin(MonitorPath(f"/run/vm/{number}.qmp"), VmId("path-id"), Access.HOLD)
        begun_ns = story.now_ns
        story.start()
        while story.interval_s == 0:
            story.pass_s(0.01)
        questions = [ask.question for ask in story.asked]
        switched = questions.index(Question.SET_INTERVAL)
        assert questions[switched - 2 : switched] == [Question.CHECK, Question.REMEMBER]
        assert story.words[0][0] == "connecting"
        assert "off" not in dict(story.words)  # it will be set
        set_at_ns.append(story.now_ns - begun_ns)

    places = sorted(set_at_ns)
    assert places[-1] < 820_000_000
    assert max(later - earlier for earlier, later in pairwise(places)) < 200_000_000
    assert len(set(places)) > 30


def test_an_interval_that_another_client_sets_first_is_kept() -> None:
    story = Story(settings=PollSettings(interval_s=10, spread_ns=800_000_000), interval_s=0).start()
    story.interval_s = 7

    story.pass_s(2)

    assert story.interval_s == 7
    assert Question.SET_INTERVAL not in [ask.question for ask in story.asked]


def test_an_interval_that_cannot_be_remembered_is_not_set() -> None:
    story = Story(interval_s=0)
    answer = story.answer

    def refuse(effect: object) -> object:
        if isinstance(effect, Ask) and effect.question is Question.REMEMBER:
            return Refused("disk full")
        return answer(effect)  # pyrefly: ignore[bad-argument-type]

    story.answer = refuse  # pyrefly: ignore[bad-assignment]
    story.update()
    story.start()

    assert Question.SET_INTERVAL not in questions(story)
    assert story.words[-1] == ("off", "cannot_set")


@pytest.mark.parametrize("policy", [IntervalPolicy.FILL, IntervalPolicy.ENFORCE])
def test_an_interval_set_back_is_set_once_more_and_then_contended(policy: IntervalPolicy) -> None:
    story = Story(settings=PollSettings(interval_s=1, policy=policy), interval_s=0)
    story.update()
    story.start()
    assert questions(story).count(Question.SET_INTERVAL) == 1

    story.interval_s = 0
    story.pass_s(31)
    assert story.words[-1] == ("off", "set_back")
    story.pass_s(61)
    asked = questions(story)
    assert asked.count(Question.SET_INTERVAL) == 2
    again = max(place for place, each in enumerate(asked) if each is Question.SET_INTERVAL)
    assert Question.CHECK not in asked[again:]  # it is not checked again at once
    story.interval_s = 0
    story.pass_s(1_000)

    assert questions(story).count(Question.SET_INTERVAL) == 2
    assert story.words[-1] == ("off", "contended")
    assert Forget(MARK) in story.effects


def test_an_interval_that_another_client_set_is_not_restored() -> None:
    story = Story(interval_s=0)
    story.update()
    story.start()

    story.interval_s = 5
    story.pass_s(31)

    assert Forget(MARK) in story.effects
    assert story.poller.process.interval_s == 5


def test_a_longer_interval_of_another_client_is_followed_and_is_not_a_stall() -> None:
    story = reporting()

    story.interval_s = 30
    story.pass_s(28)
    assert story.poller.process.interval_s == 30
    story.update()
    story.pass_s(30)
    story.run_s(90, step_s=30)

    assert "stalled" not in dict(story.words)
    assert [each.missed_at_most for each in story.samples[5:]] == [0] * 4
    story.pass_s(100)
    assert story.words[-1] == ("stalled", "no_advance")


def test_a_shorter_interval_of_another_client_is_noticed_at_the_next_reading_and_its_losses_are_counted() -> (
    None
):
    settings = PollSettings(interval_s=10, recheck_ns=3600 * SECOND_NS)
    story = Story(settings=settings, interval_s=10)
    story.start()
    story.run_s(50, step_s=10)
    count = len(story.samples)

    story.interval_s = 2
    story.pass_s(1)
    for _ in range(12):
        story.update()
        story.pass_s(2)

    assert story.poller.process.interval_s == 2
    after = story.samples[count:]
    assert len(after) >= 7
    overwritten = 12 - len(after)
    assert (
        overwritten <= sum(each.missed_at_most for each in after) <= overwritten + 22
    )  # since the last check: 22 intervals of 2 s
    assert [each.missed_at_most for each in after[-5:]] == [0] * 5


def test_share_leaves_between_readings_and_asks_the_run_state_at_each_visit() -> None:
    story = reporting(access=Access.SHARE)

    opened = sum(type(effect).__name__ == "OpenLink" for effect in story.effects)
    closed = sum(isinstance(effect, CloseLink) for effect in story.effects)
    assert opened >= 5
    assert closed == opened
    assert questions(story).count(Question.CHECK) >= opened - 1
    assert dict(story.words).keys() == {"connecting", "reporting"}


@pytest.mark.parametrize("access", Access)
def test_a_state_is_repeated_on_request_and_the_vm_is_left_alone(access: Access) -> None:
    story = reporting(access=access)
    before = story.states[-1]
    due_at_ns = story.poller.reported and story.poller.reported.heartbeat_at_ns

    effects = story.feed(StateWanted())

    (repeated,) = (effect.event for effect in effects if isinstance(effect, EmitState))
    assert len(effects) == 1
    assert (repeated.heartbeat, repeated.sequence) == (True, before.sequence + 1)
    assert (repeated.state, repeated.reason, repeated.since_ms) == (
        before.state,
        before.reason,
        before.since_ms,
    )
    period_ms = story.settings.heartbeat_ns // 1_000_000
    assert repeated.next_heartbeat_by_ms == story.now.unix_ms + period_ms * 11 // 10
    assert story.poller.reported is not None
    assert story.poller.reported.heartbeat_at_ns == due_at_ns


def test_a_shared_monitor_that_others_use_for_a_moment_changes_nothing() -> None:
    story = reporting(access=Access.SHARE)
    words = list(story.words)
    story.mute = True
    story.pass_s(1)

    story.feed(LinkFailed(LinkFault.SILENT, "no greeting"))
    opened = len(story.effects)
    story.pass_s(3.5)
    assert OpenLink(look_first=True) in story.effects[opened:]
    story.feed(LinkFailed(LinkFault.BUSY, "another client waits"))
    story.mute = False
    story.update()
    story.pass_s(1.5)
    story.run_s(3)

    assert story.words == words
    assert OpenLink() in story.effects[opened:]
    assert 3 <= story.samples[5].missed_at_most <= 6


def test_a_shared_monitor_that_others_keep_is_no_greeting_and_never_stalled() -> None:
    story = reporting(access=Access.SHARE)
    story.mute = True
    story.pass_s(1)
    story.feed(LinkFailed(LinkFault.SILENT, "no greeting"))
    for _ in range(60):
        story.pass_s(1)
        story.feed(LinkFailed(LinkFault.BUSY, "another client waits"))

    assert story.words[-2:] == [("reporting", "advancing"), ("no-greeting", "busy")]
    story.mute = False
    story.run_s(33)
    assert story.words[-1] == ("reporting", "advancing")
    assert "stalled" not in dict(story.words)


def test_a_shared_monitor_that_loses_its_path_during_a_visit_is_gone() -> None:
    story = reporting(access=Access.SHARE)
    story.mute = True
    story.pass_s(1)

    story.feed(PathMissing())
    story.feed(LinkFailed(LinkFault.SILENT, "no greeting"))

    assert story.words[-1] == ("gone", "missing")
    assert Retire() in story.effects


def test_a_visit_that_takes_too_long_ends_and_the_next_one_continues() -> None:
    story = Story(access=Access.SHARE, interval_s=0)
    answer = story.answer

    def slow_disk(effect: object) -> object:
        said = answer(effect)  # pyrefly: ignore[bad-argument-type]
        return None if isinstance(effect, Ask) and effect.question is Question.REMEMBER else said

    story.answer = slow_disk  # pyrefly: ignore[bad-assignment]
    story.update()
    story.start()
    assert questions(story)[-1] is Question.REMEMBER

    story.now_ns += 150_000_000
    left = story.feed(Done())
    assert CloseLink() in left
    story.pass_s(1)

    assert questions(story).count(Question.REMEMBER) == 1
    assert questions(story).count(Question.SET_INTERVAL) == 1
    assert questions(story).count(Question.CHECK) <= 2  # but not between the two


def test_a_silent_visit_is_left_at_its_deadline() -> None:
    story = reporting(access=Access.SHARE)
    answer = story.answer
    story.answer = lambda effect: None if isinstance(effect, Ask) else answer(effect)
    story.effects.clear()  # every visit before this one has closed its link too
    story.pass_s(3)

    assert story.words[-1] == ("unreachable", "no_answer")
    assert story.closed


def test_a_duplicate_names_the_other_path_and_takes_over_when_it_is_free() -> None:
    story = Story()
    answer = story.answer
    taken = True

    def claim(effect: object) -> object:
        if isinstance(effect, Ask) and effect.question is Question.CLAIM and taken:
            return Duplicate(MonitorPath("/run/vm/first.qmp"))
        return answer(effect)  # pyrefly: ignore[bad-argument-type]

    story.answer = claim  # pyrefly: ignore[bad-assignment]
    story.update()
    story.start()
    assert story.words[-1] == ("duplicate", "uuid_in_use")
    assert "/run/vm/first.qmp" in story.states[-1].detail
    assert story.states[-1].vm is None
    story.pass_s(200)
    assert story.words[-1] == ("duplicate", "uuid_in_use")

    taken = False
    story.run_s(61)
    assert story.words[-1] == ("reporting", "advancing")


def test_a_held_monitor_is_no_greeting_and_tried_ever_more_rarely() -> None:
    story = Story(mute=True).start()
    waits: list[float] = []
    for _ in range(8):
        story.feed(LinkFailed(LinkFault.SILENT, "no greeting"))
        at_ns = story.poller.phase.retry_at_ns or 0  # pyrefly: ignore[missing-attribute]
        waits.append((at_ns - story.now_ns) / 1e9)
        story.pass_s(waits[-1] + 0.001)

    assert story.words[-1] == ("no-greeting", "silent")
    assert 48 <= waits[0] <= 60
    assert 720 <= waits[-1] <= 900


@pytest.mark.parametrize("fault", [LinkFault.NOT_QMP, LinkFault.NOT_A_VM])
def test_a_peer_that_is_not_a_vms_monitor_is_left_alone_until_its_socket_changes(fault: LinkFault) -> None:
    story = Story(mute=True).start()
    story.feed(PathSeen(MARK))
    story.feed(LinkFailed(fault, "SSH-2.0"))
    opened = len(story.effects)
    story.pass_s(250)
    assert "OpenLink" not in {type(effect).__name__ for effect in story.effects[opened:]}

    story.mute = False
    story.update()
    story.feed(PathSeen(SocketMark(1, 2, 9)))

    assert story.words[-1] == ("reporting", "advancing")


def test_another_reason_of_the_same_state_has_its_own_since() -> None:
    story = Story(mute=True).start()
    story.feed(LinkFailed(LinkFault.SILENT, ""))
    story.pass_s(70)
    story.feed(LinkFailed(LinkFault.BUSY, ""))

    silent, busy = story.states[-2:]
    assert [(each.state, each.reason) for each in (silent, busy)] == [
        (State.NO_GREETING, "silent"),
        (State.NO_GREETING, "busy"),
    ]
    assert busy.since_ms == busy.observed_at_ms > silent.since_ms + 48_000
    assert (silent.previous_state, busy.previous_state) == (State.CONNECTING, State.CONNECTING)


def test_an_unchanged_state_is_repeated_and_has_the_time_when_it_is_void() -> None:
    story = reporting(settings=PollSettings(interval_s=1, heartbeat_ns=10_000_000_000))
    story.run_s(18)

    beats = [each for each in story.states if each.heartbeat]
    assert [each.state for each in beats] == [State.REPORTING] * 2
    assert all(each.next_heartbeat_by_ms == each.observed_at_ms + 11_000 for each in beats)
    assert all(each.since_ms == story.states[1].since_ms for each in beats)
    assert questions(story).count(Question.ACTUAL) == 2
    assert [each.sequence for each in story.states] == list(range(1, len(story.states) + 1))


def test_heartbeats_of_vms_that_were_found_together_are_spread_over_the_last_tenth_of_the_period() -> None:
    settings = PollSettings(interval_s=1, heartbeat_ns=300 * SECOND_NS)
    addresses = [MonitorPath(f"/run/vm/{number}.qmp") for number in range(100)]
    due_s: list[float] = []
    for address in addresses:
        story = Story(settings=settings)
        story.poller = begin(address, VmId("path-id"), Access.HOLD)
        story.start()
        assert story.poller.reported is not None
        due_s.append((story.poller.reported.heartbeat_at_ns - story.now_ns) / SECOND_NS)

    assert all(270 <= each <= 300 for each in due_s)
    for tenth in range(10):
        assert sum(270 + 3 * tenth <= each < 273 + 3 * tenth for each in due_s) <= 25


def test_a_restart_knows_what_an_earlier_run_set() -> None:
    from agent.core.events import Opened
    from agent.core.ownership import IntervalChange

    change = IntervalChange(MonitorPath("/run/vm/a.qmp"), MARK, "/machine/peripheral/balloon0", 0, 1, 5)
    story = Story(settings=PollSettings(interval_s=2), interval_s=1)
    answer = story.answer
    story.answer = lambda effect: Opened(MARK, change) if isinstance(effect, OpenLink) else answer(effect)
    story.update()
    story.start()

    # The earlier run set an interval and the setting is another one now: it is set again, and the interval to
    # restore is still the first one.
    asks = [ask for ask in story.asked if ask.question in (Question.REMEMBER, Question.SET_INTERVAL)]
    assert asks[0].change is not None
    assert asks[0].change.interval_before_s == 0
    assert asks[1].interval_s == 2


def test_a_peer_that_greets_answers_and_hangs_up_is_not_asked_in_a_loop() -> None:
    story = reporting()
    opened = sum(type(effect).__name__ == "OpenLink" for effect in story.effects)

    for _ in range(50):
        story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))
        story.pass_s(0.2)

    again = sum(type(effect).__name__ == "OpenLink" for effect in story.effects) - opened
    assert again <= 15
    assert story.words[-1] == ("unreachable", "hung_up")


def test_the_first_sample_of_an_epoch_is_unsolicited_although_we_have_just_asked() -> None:
    story = Story(interval_s=0).start()
    story.update()
    story.pass_s(1)

    assert [each.origin for each in story.samples] == [Origin.UNSOLICITED]


def test_events_are_checked_within_50_ms_25_times_and_then_once_a_second() -> None:
    story = reporting()
    first = len(story.asked)

    story.hear(MonitorEventKind.STOP)
    assert questions(story)[first:] == [Question.CHECK]
    for number in range(500):
        story.pass_s(0.002)
        story.run_state = "paused" if number % 2 else "running"
        story.hear(MonitorEventKind.STOP if number % 2 else MonitorEventKind.RESUME)
    story.pass_s(1)

    assert 20 <= questions(story)[first:].count(Question.CHECK) <= 28
    assert story.words[-1] == ("paused", "paused")

    first = len(story.asked)
    for number in range(5000):
        story.pass_s(0.002)
        story.hear(MonitorEventKind.STOP if number % 2 else MonitorEventKind.RESUME)
    assert 9 <= questions(story)[first:].count(Question.CHECK) <= 12

    story.pass_s(60)  # without events
    first = len(story.asked)
    story.hear(MonitorEventKind.RESUME)
    assert questions(story)[first] is Question.CHECK


class _Fickle(Story):
    """A QEMU that refuses every reading and has another interval at each check."""

    def answer(self, effect: Effect) -> Event | None:
        if isinstance(effect, Ask) and effect.question is Question.READ:
            self.asked.append(effect)
            return Refused("guest-stats is list, not an object")
        if isinstance(effect, Ask) and effect.question is Question.CHECK:
            self.interval_s = 5 - self.interval_s
        return super().answer(effect)


def test_refused_readings_and_another_interval_at_each_check_cause_no_loop() -> None:
    story = _Fickle(interval_s=2).start()
    story.pass_s(10)

    assert len(story.asked) <= 10 * 55
