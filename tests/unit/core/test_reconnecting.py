"""Tests of one connection to libvirt and the links to its domains."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core import reconnecting
from agent.core.reconnecting import FIRST_PAUSE_NS, LASTING_NS, LONGEST_PAUSE_NS, Opening, Reconnecting

CHANCE = st.integers(0, (1 << 128) - 1)


def test_a_link_waits_for_the_first_attempt() -> None:
    state, opening = reconnecting.open_link(Reconnecting(), "a")

    assert opening is Opening.WAIT
    assert reconnecting.open_link(reconnecting.connected(state), "a")[1] is Opening.OPEN


def test_a_link_fails_once_while_there_is_no_connection_and_waits_from_then_on() -> None:
    state = reconnecting.lost(Reconnecting(), lasted_ns=0, links=())

    state, first = reconnecting.open_link(state, "a")
    state, second = reconnecting.open_link(state, "a")
    state, other = reconnecting.open_link(state, "b")

    assert (first, second, other) == (Opening.FAIL, Opening.WAIT, Opening.FAIL)


def test_a_link_that_ended_with_the_connection_has_reported_that() -> None:
    state = reconnecting.connected(Reconnecting())
    state = reconnecting.lost(state, lasted_ns=0, links=["a"])

    assert reconnecting.open_link(state, "a")[1] is Opening.WAIT
    assert reconnecting.open_link(state, "b")[1] is Opening.FAIL


def test_each_loss_is_reported_again() -> None:
    state = reconnecting.lost(Reconnecting(), lasted_ns=0, links=["a"])
    state = reconnecting.lost(reconnecting.connected(state), lasted_ns=0, links=())

    assert reconnecting.open_link(state, "a")[1] is Opening.FAIL


@given(st.lists(st.integers(0, LASTING_NS), min_size=1, max_size=30), CHANCE)
def test_attempts_become_rarer_up_to_a_bound_until_a_connection_lasts(lasted: list[int], chance: int) -> None:
    state, waits = Reconnecting(), list[int]()
    for lasted_ns in lasted:
        state = reconnecting.lost(state, lasted_ns=lasted_ns, links=())
        waits.append(reconnecting.retry_after_ns(state, chance))

    assert waits == sorted(waits)
    assert all(FIRST_PAUSE_NS < wait_ns <= LONGEST_PAUSE_NS for wait_ns in waits)
    state = reconnecting.lost(state, lasted_ns=LASTING_NS + 1, links=())
    assert reconnecting.retry_after_ns(state, chance) <= FIRST_PAUSE_NS


@given(CHANCE)
def test_a_pause_is_jittered_by_a_fifth(chance: int) -> None:
    assert FIRST_PAUSE_NS * 4 // 5 <= reconnecting.retry_after_ns(Reconnecting(), chance) <= FIRST_PAUSE_NS
