"""Tests of when a monitor sends more than a VM would, and of how that is reported."""

from collections.abc import Callable

import pytest

from agent.core.read_budget import TURN_COST, TURN_S, UNUSED_FACTOR, Budget
from agent.qmp.flood import FloodingError, FloodWindow


def window_of(messages_per_s_max: int) -> FloodWindow:
    return FloodWindow(messages_per_s_max, Budget[object]())


def test_more_messages_than_the_bound_in_one_second_are_a_flood() -> None:
    window = window_of(3)
    for _ in range(3):
        window.add(None, 100, 5.0)

    with pytest.raises(
        FloodingError,
        match=r"^more than 3 messages in one second \(a message counts once, and once more for each KiB\)$",
    ):
        window.add(None, 100, 5.9)


def test_each_second_is_counted_separately() -> None:
    window = window_of(3)
    for second in range(10):
        for _ in range(3):
            window.add("STOP", 100, float(second + 1))


def test_a_long_message_counts_once_more_for_each_kib() -> None:
    window = window_of(3)
    window.add(None, 2 * 1024, 1.0)

    with pytest.raises(FloodingError):
        window.add(None, 0, 1.0)


def test_events_that_are_not_used_have_a_bound_of_their_own_and_the_most_frequent_is_named() -> None:
    window = window_of(3)
    for _ in range(3 * UNUSED_FACTOR - 1):
        window.add_unused("BLOCK_IO_ERROR", 100, 1.0)
    window.add_unused("JOB_STATUS_CHANGE", 100, 1.0)
    window.add(None, 100, 1.0)

    with pytest.raises(FloodingError, match=r"more than 30 .* event: BLOCK_IO_ERROR; a disk of the VM fails"):
        window.add_unused("BLOCK_IO_ERROR", 100, 1.0)


SENDINGS: dict[str, Callable[[FloodWindow], object]] = {
    "event": lambda window: window.add("STOP", 100, 7.0),
    "answer to nothing": lambda window: window.add(None, 100, 7.0),
    "events that are not used": lambda window: [window.add_unused("JOB", 100, 7.0) for _ in range(10)],
    "reads": lambda window: [window.add_read() for _ in range(2)],
    "each KiB of an answer": lambda window: window.add(None, 1024, 7.0, asked_for=True),
}


@pytest.mark.parametrize("send", SENDINGS.values(), ids=SENDINGS)
def test_what_else_a_monitor_sends_uses_the_shared_budget(send: Callable[[FloodWindow], object]) -> None:
    budget = Budget[object](messages_per_s=50)
    noisy, other = (FloodWindow(500, budget) for _ in range(2))
    assert not other.needs_turn(7.0)

    send(noisy)

    assert noisy.needs_turn(7.0)
    assert other.needs_turn(7.0)


def test_requested_answers_use_none_of_the_budget() -> None:
    window = FloodWindow(500, Budget[object](messages_per_s=50))
    for _ in range(100):
        window.add(None, 900, 7.0, asked_for=True)

    assert not window.needs_turn(7.0)


def test_a_turn_ends_once_it_is_used_up_or_its_time_has_passed() -> None:
    budget = Budget[object]()
    window = FloodWindow(500, budget)
    budget.use(0, None, 1_000_000)
    assert window.needs_turn(7.0)

    window.begin_turn(7.0)
    for _ in range(TURN_COST):
        assert not window.needs_turn(7.0)
        window.add_unused("JOB", 100, 7.0)
    assert window.needs_turn(7.0)

    window.begin_turn(8.0)
    assert not window.needs_turn(8.0)
    assert window.needs_turn(8.0 + TURN_S)
