"""When a monitor sends more than a VM can, and how that is reported."""

import pytest

from agent.qmp.flood import (
    NEVER_PAUSED_PER_S,
    READ_COST,
    UNUSED_FACTOR,
    Budget,
    FloodingError,
    FloodWindow,
)


def test_more_messages_than_the_bound_in_one_second_are_a_flood() -> None:
    window = FloodWindow(3)
    for _ in range(3):
        window.add(None, 100, 5.0)

    with pytest.raises(
        FloodingError, match=r"^more than 3 messages in one second \(each KiB counts as one\)$"
    ):
        window.add(None, 100, 5.9)


def test_each_second_is_counted_anew() -> None:
    window = FloodWindow(3)
    for second in range(10):
        for _ in range(3):
            window.add("STOP", 100, float(second + 1))


def test_a_long_message_counts_once_more_for_each_kib() -> None:
    window = FloodWindow(3)
    window.add(None, 2 * 1024, 1.0)

    with pytest.raises(FloodingError):
        window.add(None, 0, 1.0)


def test_events_that_are_not_used_have_a_bound_of_their_own_and_the_most_frequent_is_named() -> None:
    window = FloodWindow(3)
    for _ in range(3 * UNUSED_FACTOR - 1):
        window.add_unused("BLOCK_IO_ERROR", 100, 1.0)
    window.add_unused("JOB_STATUS_CHANGE", 100, 1.0)
    window.add(None, 100, 1.0)

    with pytest.raises(FloodingError, match=r"more than 30 .* events BLOCK_IO_ERROR; a disk of the VM fails"):
        window.add_unused("BLOCK_IO_ERROR", 100, 1.0)


def test_while_the_budget_of_all_is_used_up_only_those_that_send_much_are_not_read() -> None:
    budget = Budget(messages_per_s=1000)
    noisy, quiet = (FloodWindow(500, budget) for _ in range(2))
    for _ in range(100):
        assert noisy.pause_s(7.0) == 0.0
        noisy.add("STOP", 100, 7.0)
    for _ in range(NEVER_PAUSED_PER_S):
        quiet.add("STOP", 100, 7.02)

    assert noisy.pause_s(7.02) == pytest.approx(0.08)
    assert quiet.pause_s(7.02) == 0.0
    assert noisy.pause_s(7.1) == 0.0
    assert noisy.pause_s(9.0) == 0.0


def test_an_event_that_is_not_used_costs_a_tenth_of_the_budget_of_others() -> None:
    budget = Budget(messages_per_s=1000)
    noisy = FloodWindow(500, budget)
    for _ in range(999):
        noisy.add_unused("JOB", 100, 7.0)
    assert noisy.pause_s(7.0) == 0.0

    noisy.add_unused("JOB", 100, 7.0)

    assert noisy.pause_s(7.0) > 0.0


def test_a_read_that_completes_no_message_uses_the_budget_too() -> None:
    budget = Budget(messages_per_s=1000)
    trickling = FloodWindow(500, budget)
    for _ in range(100 * UNUSED_FACTOR // READ_COST - 1):
        trickling.add_read(7.0)
    assert trickling.pause_s(7.0) == 0.0

    trickling.add_read(7.0)

    assert trickling.pause_s(7.0) == pytest.approx(0.1)


def test_many_monitors_of_one_owner_that_send_little_each_do_not_use_up_the_budget_of_others() -> None:
    budget = Budget(messages_per_s=1000)
    many = [FloodWindow(500, budget, owner=1001) for _ in range(100)]
    other = FloodWindow(500, budget, owner=107)
    for _ in range(6):
        for each in (*many, other):
            each.add("STOP", 100, 7.0)

    assert all(each.pause_s(7.0) > 0.0 for each in many)
    assert other.pause_s(7.0) == 0.0


def test_of_each_of_the_many_monitors_of_an_owner_some_messages_are_read() -> None:
    budget = Budget(messages_per_s=10)
    many = [FloodWindow(500, budget, owner=1001) for _ in range(100)]
    FloodWindow(500, budget, owner=107).add("STOP", 100, 7.0)
    for each in many:
        each.add("STOP", 100, 7.0)

    assert all(each.pause_s(7.0) == 0.0 for each in many)


def test_the_monitors_of_the_only_owner_are_read_whatever_their_number() -> None:
    budget = Budget(messages_per_s=1000)
    many = [FloodWindow(500, budget, owner=107) for _ in range(100)]
    for _ in range(NEVER_PAUSED_PER_S):
        for each in many:
            each.add("STOP", 100, 7.0)

    assert all(each.pause_s(7.0) == 0.0 for each in many)
