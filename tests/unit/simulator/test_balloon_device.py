"""The balloon device alone: its timer, its buffer and its values, as in hw/virtio/virtio-balloon.c."""

import pytest

from simulator.balloon_device import NAMES, UNSET, BadInterval, Balloon

MEMORY = 1 << 30


def started(*, clears_on_reset: bool = False) -> Balloon:
    balloon = Balloon(NAMES[:10], MEMORY, clears_on_reset=clears_on_reset)
    balloon.start_driver()
    balloon.receive({4: 100}, 0, 1000)
    return balloon


def test_the_drivers_first_buffer_is_an_update_even_without_polling() -> None:
    balloon = started()

    assert (balloon.last_update_s, balloon.values[4], balloon.values[5]) == (1000, 100, UNSET)
    assert balloon.due_ms is None


def test_a_device_that_is_switched_on_asks_at_once_and_again_only_after_the_answer() -> None:
    balloon = started()
    balloon.set_interval(5, 200)

    assert balloon.due_ms == 200
    assert balloon.expire(201)
    assert balloon.due_ms is None
    balloon.receive({4: 101}, 214, 1001)
    assert balloon.due_ms == 5214


def test_a_timer_without_a_buffer_is_rearmed_without_a_request() -> None:
    balloon = started()
    balloon.set_interval(1, 0)
    assert balloon.expire(0)

    balloon.set_interval(2, 500)  # rearmed while the request is unanswered

    assert balloon.due_ms == 2500
    assert not balloon.expire(2500)
    assert balloon.due_ms == 4500


def test_the_same_interval_leaves_the_timer_and_another_one_restarts_it() -> None:
    balloon = started()
    balloon.set_interval(5, 0)
    balloon.expire(0)
    balloon.receive({}, 10, 1000)

    balloon.set_interval(5, 3000)
    assert balloon.due_ms == 5010
    balloon.set_interval(4, 3000)
    assert balloon.due_ms == 7000


def test_an_answer_after_polling_is_switched_off_is_an_update() -> None:
    balloon = started()
    balloon.set_interval(1, 0)
    balloon.expire(0)
    balloon.set_interval(0, 5)

    balloon.receive({4: 7}, 10, 1001)

    assert (balloon.values[4], balloon.last_update_s, balloon.due_ms) == (7, 1001, None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "timer value must be greater than zero"),
        (2**32, "timer value is too big"),
        (1.0, "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
        (True, "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
        (2**63, "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
    ],
)
def test_an_invalid_interval_is_refused_with_qemus_message(value: object, message: str) -> None:
    balloon = started()

    with pytest.raises(BadInterval, match=f"^{message}$"):
        balloon.set_interval(value, 0)

    assert balloon.interval_s == 0


@pytest.mark.parametrize("clears", [False, True])
def test_a_system_reset_clears_the_statistics_from_qemu_10_on(clears: bool) -> None:
    balloon = started(clears_on_reset=clears)
    balloon.set_interval(3, 0)

    balloon.reset_system()

    assert (balloon.last_update_s, balloon.values[4]) == ((0, UNSET) if clears else (1000, 100))
    assert balloon.interval_s == 3
    assert not balloon.expire(0)


def test_unloading_the_driver_clears_nothing() -> None:
    balloon = started(clears_on_reset=True)

    balloon.reset()

    assert (balloon.last_update_s, balloon.values[4]) == (1000, 100)


def test_a_transferred_buffer_is_reread_at_resume_with_a_new_time() -> None:
    source, destination = started(), Balloon(NAMES, MEMORY, clears_on_reset=True)
    source.set_interval(1, 0)

    destination.load(source.save(), 0)

    assert (destination.interval_s, destination.last_update_s) == (0, 0)
    assert destination.resume(0, 1007)
    assert (destination.last_update_s, destination.values[4], destination.due_ms) == (1007, 100, None)


def test_a_request_in_flight_leaves_no_buffer_to_reread() -> None:
    source, destination = started(), Balloon(NAMES, MEMORY, clears_on_reset=True)
    source.set_interval(1, 0)
    source.expire(0)

    destination.load(source.save(), 0)

    assert not destination.resume(0, 1007)


def test_tags_unknown_to_this_qemu_are_ignored() -> None:
    balloon = started()

    balloon.receive({4: 1, 10: 2, 65535: 3}, 0, 1001)

    assert [value for value in balloon.values if value != UNSET] == [1]
