"""Every event in every phase changes something, or is listed as ignored, or is a tick too early."""

import typing
from collections.abc import Mapping

import pytest

from agent.core import events
from agent.core.address import MonitorPath
from agent.core.events import (
    ActualRead,
    Answered,
    Asking,
    Away,
    BalloonChanged,
    Checked,
    Done,
    Duplicate,
    Event,
    Idle,
    Introduced,
    LinkFailed,
    MonitorEvent,
    MonitorEventKind,
    Opened,
    Opening,
    PathMissing,
    PathSeen,
    Phase,
    Question,
    Refused,
    Retired,
    Tick,
)
from agent.core.poller import Poller
from agent.core.polling import ANSWERS, IGNORED, step
from agent.core.reading import SocketMark
from agent.errors import LinkFault
from tests.unit.core.driving import MARK, Story, reading

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
        Duplicate(MonitorPath("/run/vm/other.qmp")),
        Tick(),
    )
}


def in_phase(phase: type[Phase], question: Question = Question.READ) -> Story:
    """A story that has come to a phase by itself."""
    story = Story()
    story.update()
    if phase is Away:
        story.mute = True
        story.start()
        story.feed(LinkFailed(LinkFault.DENIED, "denied"))
    elif phase is Opening:
        story.mute = True
        story.start()
    elif phase is Idle:
        story.start()
    elif phase is Retired:
        story.mute = True
        story.start()
        story.feed(PathMissing())
        story.feed(LinkFailed(LinkFault.MISSING, "missing"))
    else:
        story.start()
        story.mute = True
        for _ in range(100_000):
            if isinstance(story.poller.phase, Asking) and story.poller.phase.question is question:
                break
            if isinstance(story.poller.phase, Asking):
                story.mute = False
                story.feed(story.answer(events.Ask(story.poller.phase.question)) or Tick())
                story.mute = True
            story.pass_s(0.01)
        else:
            raise AssertionError(f"never asked {question}")
    assert isinstance(story.poller.phase, phase)
    return story


def test_the_tables_of_phases_and_events_are_complete() -> None:
    assert set(EVENTS) == set(typing.get_args(Event))
    phases = set(typing.get_args(Phase))
    assert {phase for _, phase in IGNORED} <= phases
    assert {event for event, _ in IGNORED} <= set(EVENTS)
    assert {question for asked in ANSWERS.values() for question in Question if question in asked} == set(
        Question
    )


@pytest.mark.parametrize("phase", typing.get_args(Phase), ids=lambda phase: phase.__name__)
@pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: type(event).__name__)
def test_every_event_in_every_phase_changes_something_or_is_ignored(phase: type[Phase], event: Event) -> None:
    story = in_phase(phase)
    before: Poller = story.poller

    done = step(before, event, now=story.now, chance=1 << 100, settings=story.settings)

    changed = done.poller != before or done.effects
    ignored = phase is Retired or (type(event), phase) in IGNORED
    stray = phase is Asking and Question.READ not in ANSWERS.get(type(event), Question)
    idle_tick = isinstance(event, Tick) and phase in (Away, Opening, Idle, Asking)
    assert bool(changed) != (ignored or stray) or idle_tick


@pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("question", [Question.READ, Question.CHECK], ids=lambda each: each.name)
def test_an_answer_to_another_question_is_of_a_link_we_left(event: Event, question: Question) -> None:
    story = in_phase(Asking, question)

    done = step(story.poller, event, now=story.now, chance=5, settings=story.settings)

    if type(event) in ANSWERS and question not in ANSWERS[type(event)]:
        assert (done.poller, done.effects) == (story.poller, ())
