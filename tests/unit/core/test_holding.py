"""Tests of when the agent holds a monitor, which serves one client, visits it, or leaves it to others."""

import pytest
from msgspec.structs import replace

from agent.core.address import Domain, MonitorPath
from agent.core.events import (
    Ask,
    ClaimContested,
    ClaimFreed,
    CloseLink,
    Displaced,
    Duplicate,
    Effect,
    Event,
    LinkFailed,
    MonitorEventKind,
    Opened,
    OpenLink,
    OthersUnseen,
    OthersWait,
    PathMissing,
    PathRefused,
    PathSeen,
    Question,
    Retire,
)
from agent.core.poller import SECOND_NS, PollSettings, begin
from agent.core.reading import Access, SocketMark, VmId
from agent.errors import LinkFault
from tests.unit.core.driving import MARK, Story, reporting

OTHER = MonitorPath("/run/vm/other.qmp")
TEN = PollSettings(interval_s=10)


def stays_s(story: Story, seconds: float) -> list[float]:
    """Let time pass; return the duration in seconds of each link that ended meanwhile."""
    stays: list[float] = []
    opened_ns, feed = story.now_ns, story.feed

    def watched(event: Event) -> list[Effect]:
        nonlocal opened_ns
        if isinstance(event, Opened):
            opened_ns = story.now_ns
        effects = feed(event)
        if any(isinstance(each, CloseLink) for each in effects):
            stays.append((story.now_ns - opened_ns) / SECOND_NS)
        return effects

    story.feed = watched
    story.pass_s(seconds)
    story.feed = feed
    return stays


def opens(story: Story) -> int:
    return sum(isinstance(each, OpenLink) for each in story.effects)


# --- before the start ---


@pytest.mark.parametrize("run_state", ["prelaunch", "inmigrate", "paused"])
def test_nothing_is_held_before_the_vm_runs_and_its_start_is_seen_soon(run_state: str) -> None:
    story = Story(run_state=run_state, interval_s=0).start()
    stays = stays_s(story, 60)
    assert story.words[-1] == ("paused", run_state)
    assert len(stays) >= 5
    assert max(stays) < 0.1

    story.run_state, started_ns = "running", story.now_ns
    story.update()
    while story.words[-1][0] != "reporting":
        story.update()
        story.pass_s(0.1)

    assert story.now_ns - started_ns <= (1 if run_state == "inmigrate" else 11) * SECOND_NS
    before = opens(story)
    story.run_s(100)
    assert opens(story) == before, "a running VM is held"


def test_a_vm_that_starts_within_seconds_is_seen_within_a_second() -> None:
    story = Story(run_state="prelaunch", interval_s=0).start()
    story.pass_s(4)

    story.run_state = "running"
    story.update()
    story.pass_s(1)

    assert story.words[-1][0] != "paused"


def test_a_manager_in_the_monitor_before_the_start_does_not_make_it_no_greeting() -> None:
    story = Story(run_state="prelaunch").start()
    story.mute = True
    story.pass_s(0.6)
    story.feed(LinkFailed(LinkFault.SILENT, "no greeting within 1 s"))
    story.mute, story.run_state = False, "running"
    story.update()
    story.pass_s(5)

    assert story.words[-1][0] == "reporting"
    assert {state for state, _ in story.words} == {"connecting", "paused", "waiting", "reporting"}


def test_a_vm_paused_while_we_held_it_is_still_held() -> None:
    story = reporting()
    story.run_state = "paused"
    story.hear(MonitorEventKind.STOP)
    story.pass_s(100)

    assert not story.closed


def test_a_vm_reset_to_before_its_start_is_not_held_any_more() -> None:
    story = reporting()
    story.run_state = "prelaunch"
    story.hear(MonitorEventKind.STOP)
    story.pass_s(1)

    assert story.closed


def test_a_domain_of_libvirt_is_held_whatever_it_does() -> None:
    story = Story(run_state="prelaunch")
    story.poller = begin(Domain("qemu:///system", "id"), VmId("path-id"), Access.HOLD)
    story.start().pass_s(60)

    assert not story.closed


# --- others wait ---


def test_a_waiting_client_gets_the_monitor_at_once_and_it_is_shared_from_then_on() -> None:
    story = reporting(settings=TEN, interval_s=10)
    before = len(story.effects)

    story.feed(OthersWait())

    assert CloseLink() in story.effects[before:]
    said = story.states[-1]
    assert (said.state.value, said.reason, said.heartbeat) == ("reporting", "advancing", True)
    assert "shares the monitor now, because another client waited for it" in said.detail
    stays = stays_s(story, 0.99)
    assert (stays, opens(story)) == ([], 1)
    for _ in range(6):
        story.update()
        stays += stays_s(story, 10)
    assert OpenLink(look_first=True) in [
        replace(each, mark=None) for each in story.effects if isinstance(each, OpenLink)
    ]
    assert max(stays) < 0.1
    assert {state for state, _ in story.words} == {"connecting", "reporting"}
    assert [each.sequence for each in story.samples][-6:] == list(
        range(len(story.samples) - 5, len(story.samples) + 1)
    )


@pytest.mark.parametrize("question", [Question.READ, Question.CHECK, Question.INTRODUCE])
def test_a_question_in_flight_does_not_delay_a_waiting_client(question: Question) -> None:
    story = Story() if question is Question.INTRODUCE else reporting()
    story.mute = True
    if question is Question.INTRODUCE:
        story.start()
        story.feed(Opened(MARK))
    elif question is Question.CHECK:
        story.hear(MonitorEventKind.STOP)
    else:
        story.pass_s(1.2)
    assert story.asked[-1].question is question

    assert CloseLink() in story.feed(OthersWait())


def test_a_visit_ends_by_itself() -> None:
    story = Story(access=Access.SHARE)
    story.mute = True
    story.start()
    story.feed(Opened(MARK))

    assert story.feed(OthersWait()) == []


def test_a_monitor_that_another_client_keeps_after_we_left_it_ends_as_no_greeting() -> None:
    story = reporting()
    story.feed(OthersWait())
    story.mute = True
    for _ in range(40):
        story.pass_s(0.5)
        story.feed(LinkFailed(LinkFault.BUSY, "connections are already queued"))

    assert story.words[-1] == ("no-greeting", "busy")
    assert "stalled" not in {state for state, _ in story.words}


def test_where_others_cannot_be_seen_the_monitor_is_shared() -> None:
    story = reporting(settings=TEN, interval_s=10)

    story.feed(OthersUnseen())
    stays: list[float] = []
    for _ in range(6):
        story.update()
        stays += stays_s(story, 10)

    assert len(stays) >= 5
    assert max(stays) < 0.2
    assert {state for state, _ in story.words} == {"connecting", "reporting"}
    assert "shares" not in story.states[-1].detail


def test_where_others_cannot_be_seen_a_monitor_is_held_if_that_is_configured() -> None:
    story = Story()
    story.poller = begin(MonitorPath("/run/vm/a.qmp"), VmId("path-id"), Access.HOLD, holds_unseen=True)
    story.start()
    story.feed(OthersUnseen())
    story.run_s(10)
    assert not story.closed

    story.feed(OthersWait())
    assert story.closed


# --- what is opened ---


def test_only_the_socket_that_discovery_judged_is_opened() -> None:
    judged = SocketMark(7, 7, 7)
    story = Story(mark=judged)
    story.poller = begin(MonitorPath("/run/vm/a.qmp"), VmId("path-id"), Access.HOLD, mark=judged)
    story.start()
    again = SocketMark(8, 8, 8)
    story.mute = True
    story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))
    story.feed(LinkFailed(LinkFault.HUNG_UP, "another socket is at the path now"))
    story.mark = again
    story.feed(PathSeen(again))

    assert [each.mark for each in story.effects if isinstance(each, OpenLink)] == [judged, judged, again]


@pytest.mark.parametrize("access", Access)
def test_a_link_is_closed_when_its_path_is_refused(access: Access) -> None:
    story = reporting(access=access)

    effects = story.feed(PathRefused())

    assert CloseLink() in effects
    assert Retire() in effects
    assert story.words[-1] == ("gone", "not_observed")


def test_an_open_link_outlives_its_path() -> None:
    story = reporting()

    assert story.feed(PathMissing()) == []


def test_a_vm_that_has_yet_to_start_and_loses_its_path_is_gone_after_the_visit() -> None:
    story = Story(run_state="prelaunch")
    story.mute = True
    story.start()
    story.feed(Opened(MARK))
    story.feed(PathMissing())
    story.mute = False
    answer = story.answer(Ask(Question.INTRODUCE))
    assert answer is not None
    story.feed(answer)
    story.pass_s(1)

    assert story.words[-1] == ("gone", "missing")
    assert Retire() in story.effects


# --- the twin ---


class Twin(Story):
    """A story in which another address holds the VM's id while `taken`."""

    taken = True

    def answer(self, effect: Effect) -> Event | None:
        if isinstance(effect, Ask) and effect.question is Question.CLAIM and self.taken:
            self.asked.append(effect)
            return Duplicate(OTHER)
        return super().answer(effect)


def test_a_migration_destination_claims_its_id_within_a_second_after_it_runs() -> None:
    story = Twin(settings=PollSettings(interval_s=1, spread_ns=600 * SECOND_NS), interval_s=0)
    story.run_state = "inmigrate"
    story.start().pass_s(100)
    assert story.words[-1] == ("duplicate", "uuid_in_use")
    assert {ask.active for ask in story.asked if ask.question is Question.CLAIM} == {False}

    story.run_state, story.taken = "running", False
    story.pass_s(0.6)
    assert story.interval_s == 1, "it was set at once"
    assert story.words[-1][0] != "duplicate"
    story.run_s(2)

    assert story.words[-1][0] == "reporting"
    assert [ask.active for ask in story.asked if ask.question is Question.CLAIM][-1] is True


def test_a_socket_that_stays_a_migration_destination_is_visited_more_and_more_rarely() -> None:
    story = Twin(run_state="inmigrate")
    story.start().pass_s(400)
    before = opens(story)

    story.pass_s(100)
    assert opens(story) - before <= 11
    story.feed(ClaimFreed())
    before = opens(story)
    story.pass_s(10)

    assert opens(story) - before >= 19


def test_a_running_clone_is_visited_rarely_and_at_once_when_its_id_is_free() -> None:
    story = Twin()
    story.start().pass_s(59)
    assert opens(story) == 1

    story.taken = False
    story.update()
    story.feed(ClaimFreed())

    assert story.words[-1][0] == "reporting"


def test_a_migration_source_is_read_once_more_and_then_gives_up_its_id() -> None:
    story = reporting()
    begun = len(story.asked)
    story.update()
    story.run_state = "finish-migrate"
    story.hear(MonitorEventKind.STOP)

    questions = [ask.question for ask in story.asked[begun:]]
    assert questions == [Question.CHECK, Question.READ, Question.CLAIM]
    assert story.asked[-1].active is False
    assert story.words[-1] == ("paused", "finish-migrate")

    effects = story.feed(Displaced(OTHER))

    assert CloseLink() in effects
    assert story.words[-1] == ("duplicate", "uuid_in_use")
    assert str(OTHER) in story.states[-1].detail


def test_a_shared_source_is_checked_at_once_when_another_vm_wants_its_id() -> None:
    story = reporting(access=Access.SHARE, settings=TEN, interval_s=10)
    story.pass_s(1)
    story.run_state = "postmigrate"

    story.feed(ClaimContested())

    assert story.words[-1] == ("paused", "postmigrate")
    assert [ask.active for ask in story.asked if ask.question is Question.CLAIM] == [True, False]


def test_a_source_whose_migration_fails_claims_again() -> None:
    story = reporting()
    story.run_state = "finish-migrate"
    story.hear(MonitorEventKind.STOP)
    story.run_state = "running"
    story.hear(MonitorEventKind.RESUME)
    story.run_s(3)

    assert [ask.active for ask in story.asked if ask.question is Question.CLAIM] == [True, False, True]
    assert story.words[-1] == ("reporting", "advancing")
