"""When a monitor sends more than a VM can, and how that is reported."""

import pytest

from agent.qmp.flood import UNUSED_FACTOR, FloodingError, FloodWindow


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
