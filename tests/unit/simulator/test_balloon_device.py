"""The device alone: what hw/virtio/virtio-balloon.c does with its timer, its buffer and its values."""

import pytest

from simulator.balloon_device import NAMES, UNSET, BadInterval, Balloon

MEMORY = 1 << 30


def started(*, forgets_at_reset: bool = False) -> Balloon:
    balloon = Balloon(NAMES[:10], MEMORY, forgets_at_reset=forgets_at_reset)
    balloon.start_driver()
    balloon.receive({4: 100}, 0, 1000)
    return balloon


def test_the_drivers_first_buffer_is_an_update_even_where_polling_is_off() -> None:
    balloon = started()

    assert (balloon.last_update_s, balloon.values[4], balloon.values[5]) == (1000, 100, UNSET)
    assert balloon.due_ms is None


def test_from_0_the_guest_is_asked_at_once_and_again_only_after_its_answer() -> None:
    balloon = started()
    balloon.set_interval(5, 200)

    assert balloon.due_ms == 200
    assert balloon.expire(201)
    assert balloon.due_ms is None
    balloon.receive({4: 101}, 214, 1001)
    assert balloon.due_ms == 5214


def test_a_timer_that_finds_no_buffer_comes_again_and_asks_nothing() -> None:
    balloon = started()
    balloon.set_interval(1, 0)
    assert balloon.expire(0)

    balloon.set_interval(2, 500)  # armed again while the guest still owes its answer

    assert balloon.due_ms == 2500
    assert not balloon.expire(2500)
    assert balloon.due_ms == 4500


def test_the_same_interval_touches_nothing_and_another_one_begins_anew() -> None:
    balloon = started()
    balloon.set_interval(5, 0)
    balloon.expire(0)
    balloon.receive({}, 10, 1000)

    balloon.set_interval(5, 3000)
    assert balloon.due_ms == 5010
    balloon.set_interval(4, 3000)
    assert balloon.due_ms == 7000


def test_switched_off_an_answer_on_its_way_still_counts() -> None:
    balloon = started()
    balloon.set_interval(1, 0)
    balloon.expire(0)
    balloon.set_interval(0, 5)

    balloon.receive({4: 7}, 10, 1001)

    assert (balloon.values[4], balloon.last_update_s, balloon.due_ms) == (7, 1001, None)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "timer value must be greater than zero"),
        (2**32, "timer value is too big"),
        (1.0, "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
        (True, "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
        (2**63, "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
    ],
)
def test_what_is_no_interval_is_refused_in_qemus_words(value: object, words: str) -> None:
    balloon = started()

    with pytest.raises(BadInterval, match=f"^{words}$"):
        balloon.set_interval(value, 0)

    assert balloon.interval_s == 0


@pytest.mark.parametrize("forgets", [False, True])
def test_the_machines_reset_clears_the_statistics_from_qemu_10_on(forgets: bool) -> None:
    balloon = started(forgets_at_reset=forgets)
    balloon.set_interval(3, 0)

    balloon.reset_machine()

    assert (balloon.last_update_s, balloon.values[4]) == ((0, UNSET) if forgets else (1000, 100))
    assert balloon.interval_s == 3
    assert not balloon.expire(0)


def test_a_drivers_leaving_clears_nothing() -> None:
    balloon = started(forgets_at_reset=True)

    balloon.reset()

    assert (balloon.last_update_s, balloon.values[4]) == (1000, 100)


def test_what_travels_is_read_again_at_resume_under_a_new_time() -> None:
    source, destination = started(), Balloon(NAMES, MEMORY, forgets_at_reset=True)
    source.set_interval(1, 0)

    destination.load(source.save(), 0)

    assert (destination.interval_s, destination.last_update_s) == (0, 0)
    assert destination.resume(0, 1007)
    assert (destination.last_update_s, destination.values[4], destination.due_ms) == (1007, 100, None)


def test_a_request_on_its_way_leaves_nothing_to_read_again() -> None:
    source, destination = started(), Balloon(NAMES, MEMORY, forgets_at_reset=True)
    source.set_interval(1, 0)
    source.expire(0)

    destination.load(source.save(), 0)

    assert not destination.resume(0, 1007)


def test_tags_that_this_qemu_does_not_know_are_passed_over() -> None:
    balloon = started()

    balloon.receive({4: 1, 10: 2, 65535: 3}, 0, 1001)

    assert [value for value in balloon.values if value != UNSET] == [1]
