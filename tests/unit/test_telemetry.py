import random
import time

import pytest

from agent.contract.metrics import VM_STATE
from agent.core.health import Health
from agent.core.reading import State
from agent.errors import LinkFault
from agent.telemetry import (
    COMPONENT,
    HEALTH,
    INSTRUMENTS,
    LAG,
    OTHER,
    REASON,
    SINK,
    Count,
    Counters,
    Histogram,
    Levels,
    Point,
    Snapshot,
    snapshot,
)

SINKS = {"kafka.samples": 3, "kafka.states": 0}


def taken(counters: Counters, levels: Levels | None = None) -> Snapshot:
    return snapshot(counters, levels or Levels(waiting=SINKS))


def series(found: Snapshot) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (name, tuple(each.attributes.items())) for name, points in found.points.items() for each in points
    }


def test_every_instrument_has_points_and_a_name_of_its_own() -> None:
    found = taken(Counters(), Levels(waiting=SINKS, spool_used_bytes=1, spool_limit_bytes=9, dead_letters=2))

    names = [each.metric.name for each in INSTRUMENTS]
    assert len(set(names)) == len(names)
    assert {*found.points, LAG.metric.name} == set(names)


def test_totals_become_points_by_sink_and_reason_and_what_was_never_counted_is_0() -> None:
    counters = Counters()
    counters.add(Count.READINGS, 5)
    counters.add(Count.LINK_FAILURES, reason=LinkFault.SILENT)
    counters.add(Count.DROPPED, 7, reason="kafka.samples:full")

    points = taken(counters).points

    assert points["barograph.readings"] == (Point(5),)
    silent = {each.attributes[REASON]: each.value for each in points["barograph.link_failures"]}
    assert (silent["silent"], silent["refused"], len(silent)) == (1, 0, len(LinkFault))
    dropped = {
        (each.attributes[SINK], each.attributes[REASON]): each.value for each in points["barograph.dropped"]
    }
    assert dropped["kafka.samples", "full"] == 7
    assert dropped["kafka.states", "expired"] == 0


def test_the_series_do_not_depend_on_the_vms() -> None:
    chance = random.Random(1)
    counters = Counters()
    before = series(taken(counters))

    for _ in range(2_000):
        counters.add(chance.choice([Count.SAMPLES, Count.REPEATS, Count.LINKS_OPENED, Count.STATE_EVENTS]))
        counters.add(Count.LINK_FAILURES, reason=chance.choice([*LinkFault]))
    levels = Levels(waiting=SINKS, vms={state: chance.randrange(1000) for state in State})

    assert series(taken(counters, levels)) == before
    assert len(before) < 150


def test_unknown_reasons_are_counted_in_one_series() -> None:
    counters = Counters()
    for number in range(1_000):
        counters.add(Count.DROPPED, reason=f"kafka.samples:{number}")

    rest = [each for each in taken(counters).points["barograph.dropped"] if each.attributes[REASON] == OTHER]

    assert rest == [Point(1_000, {SINK: OTHER, REASON: OTHER})]


def test_the_health_of_a_component_is_1_for_the_present_one_and_0_for_the_others() -> None:
    levels = Levels(waiting={}, components={"spool": Health.DEGRADED})

    points = taken(Counters(), levels).points["barograph.component.health"]

    assert {(each.attributes[COMPONENT], each.attributes[HEALTH]): each.value for each in points} == {
        ("spool", health.value): int(health is Health.DEGRADED) for health in Health
    }


def test_vms_are_counted_in_every_state() -> None:
    points = taken(Counters(), Levels(waiting={}, vms={State.STALLED: 2})).points["barograph.vms"]

    assert {each.attributes[VM_STATE]: each.value for each in points} == {
        state.value: 2 * (state is State.STALLED) for state in State
    }


@pytest.mark.parametrize(
    ("value", "place"), [(0.0, 0), (1.0, 0), (1.1, 1), (2.0, 1), (2.1, 2)], ids=lambda each: str(each)
)
def test_a_bound_is_in_the_bucket_below_it(value: float, place: int) -> None:
    histogram = Histogram((1.0, 2.0))

    histogram.record(value)

    found = histogram.distribution()
    assert found.counts == tuple(int(number == place) for number in range(3))
    assert found.sum == value


def test_counting_costs_next_to_nothing() -> None:
    counters = Counters()
    rounds = 20_000
    took_s = min(timed(counters, rounds) for _ in range(5))

    # A sample counts four times, and there are 1,000 samples a second.
    assert took_s / rounds < 10e-6


def timed(counters: Counters, rounds: int) -> float:
    began_s = time.thread_time()
    for _ in range(rounds):
        counters.add(Count.SAMPLES)
        counters.lag.record(0.004)
    return time.thread_time() - began_s
