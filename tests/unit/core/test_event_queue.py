from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agent.core.event_queue import OVERFLOW, QUEUED_MAX, EventQueue, newest_of_each_kind
from agent.core.events import BalloonChanged, LinkEvent, MonitorEvent, MonitorEventKind

KINDS = [kind for kind in MonitorEventKind if kind is not MonitorEventKind.LOST]
EVENTS = st.sampled_from([MonitorEvent(kind) for kind in KINDS]) | st.builds(
    BalloonChanged, st.integers(0, 1 << 40)
)


def drain(queue: EventQueue) -> list[LinkEvent]:
    taken: list[LinkEvent] = []
    while queue:
        taken.append(queue.take())
    return taken


def kind(event: LinkEvent) -> object:
    return event.kind if isinstance(event, MonitorEvent) else BalloonChanged


def newest(events: Sequence[LinkEvent]) -> list[LinkEvent]:
    """Return the newest event of each kind, in order."""
    by_kind: dict[object, LinkEvent] = {}
    for event in events:
        if event != OVERFLOW:
            by_kind.pop(kind(event), None)
            by_kind[kind(event)] = event
    return list(by_kind.values())


@given(st.lists(EVENTS, max_size=QUEUED_MAX))
def test_up_to_the_bound_events_are_returned_as_they_came(events: list[LinkEvent]) -> None:
    queue = EventQueue()

    for event in events:
        queue.put(event)

    assert drain(queue) == events


@given(st.lists(EVENTS, min_size=QUEUED_MAX + 1, max_size=5 * QUEUED_MAX))
def test_past_the_bound_an_overflow_comes_first_and_the_newest_of_each_kind_is_kept(
    events: list[LinkEvent],
) -> None:
    queue = EventQueue()

    for event in events:
        queue.put(event)

    taken = drain(queue)
    assert len(taken) <= QUEUED_MAX
    assert taken[0] == OVERFLOW
    assert OVERFLOW not in taken[1:]
    assert newest(taken) == newest(events)


@given(st.lists(EVENTS | st.just(OVERFLOW), max_size=2 * QUEUED_MAX))
def test_a_queue_is_reduced_to_an_overflow_and_the_newest_of_each_kind_in_their_order(
    events: list[LinkEvent],
) -> None:
    assert newest_of_each_kind(events) == [OVERFLOW, *newest(events)]
