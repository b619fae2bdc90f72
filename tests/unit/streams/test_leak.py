"""Tests of the leak job: leaks of a known slope, and growth that is not a leak."""

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from barograph_streams.core.daily import DAY_S, Day, add
from barograph_streams.core.leak import DAYS_KEPT, leak_of
from barograph_streams.core.leak_job import JOB
from tests.unit.streams.making import T0_S, Made, make

HOUR_S = 3_600
GIB = 1 << 30
START_S = T0_S - T0_S % DAY_S


def run(arrived: Iterable[Made]) -> list[dict[str, Any]]:
    kept: bytes | None = None
    documents: list[dict[str, Any]] = []
    for made in arrived:
        stepped = JOB.step(kept, made.key, made.value)
        kept = stepped.state or kept
        documents += [json.loads(record.value) for record in stepped.records]
    return documents


def hourly(days: int, used: Callable[[int], float], *, epoch: int = 0, start_h: int = 0) -> list[Made]:
    """Return hourly samples of a guest of 8 GiB; `used` returns the bytes in use after so many hours."""
    return [
        make(
            hour + 1,
            epoch=epoch,
            last_update_s=START_S + (start_h + hour) * HOUR_S,
            statistics={"total_memory": 8 * GIB, "available_memory": 8 * GIB - int(used(hour))},
        )
        for hour in range(24 * days)
    ]


@pytest.mark.parametrize("mib_per_h", [1, 5, 20])
def test_a_leak_of_a_known_slope_is_forecast_within_a_tenth(mib_per_h: int) -> None:
    """The guest has a daily load and noise too, and on one day its cache was dropped."""
    noise = random.Random(mib_per_h)
    slope = mib_per_h << 20

    def used(hour: int) -> float:
        load = 500 * (hour % 24 in range(9, 18)) + noise.uniform(0, 20) - 100 * (hour // 24 == 4)
        return GIB + slope * hour + load * (1 << 20)

    documents = run(hourly(10, used))

    last = documents[-1]
    assert [each["days"] for each in documents] == list(range(3, 10))
    assert last["leaking"]
    assert last["bytes_per_hour"] == pytest.approx(slope, rel=0.1)
    assert last["hours_left"] == pytest.approx(last["available_bytes"] / slope, rel=0.1)
    assert last["confidence"] > 0.8


def test_a_daily_load_is_not_a_leak() -> None:
    noise = random.Random(1)

    documents = run(hourly(10, lambda hour: GIB * (1 + (hour % 24 in range(9, 18))) + noise.uniform(0, 5e6)))

    assert documents
    assert not any(each["leaking"] for each in documents)
    assert not any("hours_left" in each for each in documents)


def test_a_reboot_starts_the_days_again() -> None:
    before = hourly(5, lambda hour: GIB + hour * 10e6)
    after = hourly(3, lambda hour: GIB, epoch=1, start_h=120)

    assert len(run([*before, *after])) == len(run(before))


def test_repeats_and_a_time_that_stands_still_change_nothing() -> None:
    samples = hourly(6, lambda hour: GIB + hour * 10e6)
    stuck = make(999, last_update_s=START_S, statistics={"total_memory": 9, "available_memory": 9})

    assert run([*(each for made in samples for each in (made, made)), stuck]) == run(samples)


def test_samples_without_the_two_statistics_or_with_impossible_ones_are_left_out() -> None:
    odd = [{}, {"total_memory": 3}, {"available_memory": 3}, {"total_memory": 3, "available_memory": 4}]

    assert run(make(n + 1, statistics=each) for n, each in enumerate(odd)) == []


def test_a_forecast_beyond_ten_years_has_no_hours() -> None:
    days = [Day(n, 10 * n, n * DAY_S) for n in range(5)]

    leak = leak_of(days, 8 * GIB, 100)

    assert leak is not None
    assert (leak.leaking, leak.hours_left) == (True, None)


def test_the_newest_days_are_kept() -> None:
    days: tuple[Day, ...] = ()
    for hour in range(24 * (DAYS_KEPT + 5)):
        days = add(days, START_S + hour * HOUR_S, hour, choose=min, kept=DAYS_KEPT)

    assert len(days) == DAYS_KEPT
    assert [day.value % 24 for day in days] == [0] * DAYS_KEPT
