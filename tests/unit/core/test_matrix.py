"""Tests of every event in every situation: it has the outcome listed here, or it changes nothing."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from agent.core.address import MonitorPath
from agent.core.events import (
    ActualRead,
    Answered,
    Ask,
    Asking,
    Away,
    BalloonChanged,
    Checked,
    ClaimContested,
    ClaimFreed,
    CloseLink,
    Disclaim,
    Displaced,
    Done,
    Duplicate,
    Effect,
    EmitSample,
    EmitState,
    Event,
    Forget,
    Idle,
    Introduced,
    LinkFailed,
    MonitorEvent,
    MonitorEventKind,
    Opened,
    Opening,
    OpenLink,
    OthersUnseen,
    OthersWait,
    PathMissing,
    PathRefused,
    PathSeen,
    Phase,
    Question,
    Refused,
    Retire,
    Retired,
    StateWanted,
    Tick,
)
from agent.core.poller import SECOND_NS, Poller, PollSettings
from agent.core.polling import ANSWERS, IGNORED, Step, step, wakeup_at
from agent.core.reading import SocketMark
from agent.errors import LinkFault
from tests.unit.core.driving import MARK, Story, reading

Situation = type[Phase] | Question
"""A phase; `Asking` is split by the question in flight."""

SITUATIONS: Sequence[Situation] = (Away, Opening, Idle, *Question, Retired)

EVENTS: Mapping[type[Event], Event] = {
    type(event): event
    for event in (
        Opened(MARK),
        LinkFailed(LinkFault.HUNG_UP, "hung up"),
        Introduced(None, "other", "paused", "/machine/b", 3, 5),
        Answered(reading(1_795_400_900)),
        Checked("paused", "/machine/peripheral/balloon0", 1),
        ActualRead(4096),
        Done(),
        Refused("no"),
        MonitorEvent(MonitorEventKind.RESET),
        BalloonChanged(8192),
        PathSeen(SocketMark(9, 9, 9)),
        PathMissing(),
        PathRefused(),
        OthersWait(),
        OthersUnseen(),
        Duplicate(MonitorPath("/run/vm/other.qmp")),
        Displaced(MonitorPath("/run/vm/other.qmp")),
        ClaimContested(),
        ClaimFreed(),
        StateWanted(),
        Tick(),
    )
}


@dataclass(frozen=True)
class Outcome:
    """The situation after an event, and the effects in order; an `Ask` is listed as its question."""

    after: Situation
    effects: tuple[type[Effect] | Question, ...] = ()


REOPENING = Outcome(Opening, (OpenLink,))
FAILED = Outcome(Away, (EmitState,))
REFUSED = Outcome(Away, (CloseLink, EmitState))
PATH_REFUSED = Outcome(Retired, (CloseLink, EmitState, Disclaim, Retire))
BLOCKED = Outcome(Idle, (Forget, EmitState))

OUTCOMES: Mapping[tuple[Situation, type[Event]], Outcome] = {
    (Away, PathSeen): REOPENING,
    (Away, PathMissing): Outcome(Retired, (EmitState, Disclaim, Retire)),
    (Opening, Opened): Outcome(Question.INTRODUCE, (Question.INTRODUCE,)),
    (Opening, LinkFailed): FAILED,
    (Idle, LinkFailed): REOPENING,
    (Idle, MonitorEvent): Outcome(Question.CHECK, (Question.CHECK, EmitState)),
    # answers
    (Question.INTRODUCE, Introduced): Outcome(Question.CLAIM, (Question.CLAIM,)),
    (Question.READ, Answered): Outcome(Question.REMEMBER, (EmitSample, Question.REMEMBER)),
    (Question.CLAIM, Done): Outcome(Question.READ, (Question.READ,)),
    (Question.CLAIM, Duplicate): REFUSED,
    (Question.CHECK, Checked): Outcome(Question.READ, (Question.READ, EmitState)),
    (Question.ACTUAL, ActualRead): Outcome(Idle),
    (Question.REMEMBER, Done): Outcome(Question.SET_INTERVAL, (Question.SET_INTERVAL,)),
    (Question.SET_INTERVAL, Done): Outcome(Idle),
    (Question.INTRODUCE, Refused): REFUSED,
    (Question.READ, Refused): Outcome(Question.CHECK, (Question.CHECK,)),
    (Question.CLAIM, Refused): REFUSED,
    (Question.CHECK, Refused): Outcome(Question.READ, (Question.READ, EmitState)),
    (Question.ACTUAL, Refused): Outcome(Idle),
    (Question.REMEMBER, Refused): BLOCKED,
    (Question.SET_INTERVAL, Refused): BLOCKED,
    # a link that fails: opened again at once where the VM has answered since the last failure
    (Question.INTRODUCE, LinkFailed): FAILED,
    (Question.READ, LinkFailed): REOPENING,
    (Question.CLAIM, LinkFailed): FAILED,
    (Question.CHECK, LinkFailed): REOPENING,
    (Question.ACTUAL, LinkFailed): Outcome(Away),
    (Question.REMEMBER, LinkFailed): REOPENING,
    (Question.SET_INTERVAL, LinkFailed): REOPENING,
    # a path that must not be used is left
    (Away, PathRefused): PATH_REFUSED,
    **{(each, PathRefused): PATH_REFUSED for each in (Opening, Question.INTRODUCE, Question.CLAIM)},
    **{
        (each, PathRefused): Outcome(Retired, (CloseLink, EmitState, Disclaim, Forget, Retire))
        for each in (Idle, *Question)
    },
    # the monitor is left to a client that waits for it
    **{(each, OthersWait): Outcome(Away, (CloseLink, EmitState)) for each in (Idle, *Question)},
    **{(each, OthersUnseen): Outcome(each) for each in (Idle, *Question)},
    # the VM is observed elsewhere now
    **{(each, Displaced): Outcome(Away, (CloseLink, EmitState)) for each in (Opening, Idle, *Question)},
    (Away, Displaced): Outcome(Away, (CloseLink,)),
    (Away, ClaimFreed): REOPENING,
    (Idle, ClaimContested): Outcome(Question.CHECK, (Question.CHECK,)),
    **{(each, ClaimContested): Outcome(each) for each in (Away, Opening, *Question)},
    # the situation stays; the poller takes note
    **{
        (each, event): Outcome(each)
        for each in (Opening, Idle, *Question)
        for event in (PathSeen, PathMissing)
    },
    # the state is repeated, and nothing else happens
    **{(each, StateWanted): Outcome(each, (EmitState,)) for each in (Away, Opening, Idle, *Question)},
    **{(each, BalloonChanged): Outcome(each) for each in (Idle, *Question)},
    **{(each, MonitorEvent): Outcome(each) for each in Question},
    (Question.CHECK, MonitorEvent): Outcome(Question.CHECK, (EmitState,)),
    (Question.ACTUAL, MonitorEvent): Outcome(Question.ACTUAL, (EmitState,)),
}
"""All pairs that change the poller, except with `Tick`: its outcome depends on the time."""

EXPIRED: Mapping[Situation, Outcome] = {
    Away: REOPENING,
    Opening: REFUSED,
    Idle: Outcome(Question.READ, (Question.READ,)),
    **{each: Outcome(each, (EmitState,)) for each in Question},
}
"""The outcome of a `Tick` at the time when the poller asks to be woken."""


class HaltingStory(Story):
    """A story in which QEMU stops answering once `halt_at` is asked."""

    halt_at: Question | None = None

    def answer(self, effect: Effect) -> Event | None:
        self.mute = self.mute or (isinstance(effect, Ask) and effect.question is self.halt_at)
        return super().answer(effect)


def story_in(situation: Situation) -> Story:
    """Return a story that has reached the situation."""
    # No heartbeat comes before the deadlines.
    story = HaltingStory(interval_s=0, settings=PollSettings(interval_s=1, heartbeat_ns=3_600 * SECOND_NS))
    story.update()
    if isinstance(situation, Question):
        if situation is Question.ACTUAL:  # asked of a VM that was known before its link failed
            story.start().pass_s(5)
            story.halt_at = situation
            story.feed(LinkFailed(LinkFault.HUNG_UP, "hung up"))
        story.halt_at = situation
        story.start()
        while not story.mute:
            story.pass_s(1)
    elif situation is Idle:
        story.start()
    else:
        story.mute = True
        story.start()
    if situation is Away:
        story.feed(LinkFailed(LinkFault.DENIED, "denied"))
    elif situation is Retired:
        story.feed(PathMissing())
        story.feed(LinkFailed(LinkFault.MISSING, "missing"))
    assert situation_of(story.poller) is situation
    return story


def situation_of(poller: Poller) -> Situation:
    return poller.phase.question if isinstance(poller.phase, Asking) else type(poller.phase)


def take(story: Story, event: Event) -> Step:
    return step(story.poller, event, now=story.now, chance=1 << 100, settings=story.settings)


def outcome(step: Step) -> Outcome:
    effects = (effect.question if isinstance(effect, Ask) else type(effect) for effect in step.effects)
    return Outcome(situation_of(step.poller), tuple(effects))


def name(case: type | Question) -> str:
    return case.name if isinstance(case, Question) else case.__name__


def test_all_events_and_phases_are_listed_here() -> None:
    assert set(EVENTS) == set(typing.get_args(Event))
    assert {*SITUATIONS, Asking} == {*typing.get_args(Phase), *Question}


def test_the_tables_of_ignored_events_list_the_pairs_without_an_outcome() -> None:
    unanswered = {
        (question, event)
        for event, answered in ANSWERS.items()
        for question in Question
        if question not in answered
    }
    ignored = {(phase, event) for event, phase in IGNORED if phase is not Asking}
    ignored |= {(question, event) for event, phase in IGNORED if phase is Asking for question in Question}
    ignored |= {(Retired, event) for event in EVENTS}

    assert ignored | unanswered == {
        (situation, event)
        for situation in SITUATIONS
        for event in EVENTS
        if (situation, event) not in OUTCOMES and (event is not Tick or situation is Retired)
    }


@pytest.mark.parametrize("situation", SITUATIONS, ids=name)
@pytest.mark.parametrize("event", [event for event in EVENTS if event is not Tick], ids=name)
def test_an_event_has_its_outcome_or_changes_nothing(situation: Situation, event: type[Event]) -> None:
    story = story_in(situation)

    done = take(story, EVENTS[event])

    if (situation, event) in OUTCOMES:
        assert outcome(done) == OUTCOMES[situation, event]
        assert done.poller != story.poller
    else:
        assert done.effects == ()
        assert done.poller is story.poller


@pytest.mark.parametrize("situation", EXPIRED, ids=name)
def test_a_tick_acts_at_the_wakeup_and_not_before(situation: Situation) -> None:
    story = story_in(situation)
    wakeup_ns = wakeup_at(story.poller, story.settings)
    assert wakeup_ns is not None

    story.now_ns = wakeup_ns - 1
    early = take(story, Tick())
    story.now_ns = wakeup_ns
    due = take(story, Tick())

    assert early == Step(story.poller)
    assert outcome(due) == EXPIRED[situation]
    assert due.poller != story.poller


def test_a_retired_poller_asks_for_no_wakeup_and_ignores_a_tick() -> None:
    story = story_in(Retired)

    done = take(story, Tick())

    assert wakeup_at(story.poller, story.settings) is None
    assert done.effects == ()
    assert done.poller is story.poller
