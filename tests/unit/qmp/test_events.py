from collections.abc import Mapping

import pytest

from agent.qmp.events import LISTENED, OVERFLOW, QUEUED_MAX, EventQueue, MonitorEvent, parse_event


def drain(queue: EventQueue) -> list[MonitorEvent]:
    taken: list[MonitorEvent] = []
    while queue:
        taken.append(queue.take())
    return taken


def events(*names: str) -> list[MonitorEvent]:
    return [MonitorEvent(name, {"number": number}) for number, name in enumerate(names)]


@pytest.mark.parametrize("name", sorted(LISTENED))
def test_events_that_decide_something_are_taken(name: str) -> None:
    assert parse_event({"event": name, "data": {"actual": 1}, "timestamp": {}}) == MonitorEvent(
        name, {"actual": 1}
    )


@pytest.mark.parametrize(
    "message",
    [
        {"event": "BLOCK_JOB_COMPLETED"},
        {"event": "stop"},
        {"event": OVERFLOW},
        {"event": None},
        {"event": ["STOP"]},
        {"return": {}},
    ],
)
def test_all_others_are_not(message: Mapping[str, object]) -> None:
    assert parse_event(message) is None


@pytest.mark.parametrize("message", [{"event": "STOP"}, {"event": "STOP", "data": [1]}])
def test_data_that_are_no_object_are_none(message: Mapping[str, object]) -> None:
    event = parse_event(message)

    assert event is not None
    assert event.data == {}


def test_events_leave_in_their_order() -> None:
    queue = EventQueue()
    expected = events("STOP", "RESUME", "STOP")

    for event in expected:
        queue.put(event)

    assert drain(queue) == expected


def test_at_the_bound_what_happened_is_still_told_in_its_order() -> None:
    queue = EventQueue()
    many = events("RESET", *["STOP", "RESUME"] * QUEUED_MAX, "SHUTDOWN")

    for event in many:
        queue.put(event)

    taken = drain(queue)
    assert len(taken) <= QUEUED_MAX
    assert taken[0].name == OVERFLOW
    assert [event.name for event in taken].count(OVERFLOW) == 1
    assert [event.name for event in taken[-3:]] == ["STOP", "RESUME", "SHUTDOWN"]
    assert many[0] in taken
    assert many[-1] == taken[-1]


def test_the_queue_stays_bounded() -> None:
    queue = EventQueue()

    for event in events(*sorted(LISTENED) * 1000):
        queue.put(event)

    assert len(drain(queue)) <= QUEUED_MAX
