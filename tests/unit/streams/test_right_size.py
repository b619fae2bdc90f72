"""Tests of the right-size job: targets from daily peaks."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from barograph_streams.core.daily import DAY_S, Day
from barograph_streams.core.right_size import DAYS_KEPT, OOM_BYTES, after_oom, right_size_of
from barograph_streams.core.right_size_job import JOB
from tests.unit.streams.making import T0_S, Made, make

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


def at(day: int, sequence: int, used: int, *, kills: int = 0, epoch: int = 0, hour: int = 0) -> Made:
    return make(
        sequence,
        epoch=epoch,
        last_update_s=START_S + day * DAY_S + hour * 3600 + sequence,
        statistics={"total_memory": 8 * GIB, "available_memory": 8 * GIB - used, "oom_kills": kills},
    )


def test_a_steady_peak_is_the_target_with_a_margin() -> None:
    samples = [at(n // 2, n + 1, (1 + n % 2) * GIB) for n in range(24)]

    documents = run(samples)

    assert [each["days"] for each in documents] == [*range(1, 9), 8, 8, 8]
    assert documents[-1]["target_bytes"] == pytest.approx(2 * GIB * 1.15, rel=1e-6)
    assert documents[-1]["lower_bytes"] == 2 * GIB
    assert [each["confidence"] for each in documents[:2]] == [1 / 8, 2 / 8]


def test_newer_days_count_more() -> None:
    rising = [Day(n, n * GIB, n) for n in range(1, 9)]
    falling = [Day(n, (9 - n) * GIB, n) for n in range(1, 9)]

    up, down = right_size_of(rising), right_size_of(falling)

    assert up is not None
    assert down is not None
    assert (up.lower, down.lower) == (8 * GIB, 1 * GIB)
    assert up.lower <= up.target <= up.upper * 1.0001


def test_an_oom_kill_raises_the_peak_of_its_day() -> None:
    calm = run([at(0, 1, GIB), at(0, 2, GIB), at(1, 3, GIB)])
    killed = run([at(0, 1, GIB), at(0, 2, GIB, kills=1), at(1, 3, GIB, kills=1)])

    assert killed[0]["lower_bytes"] == after_oom(GIB) > calm[0]["lower_bytes"] == GIB
    assert after_oom(1) == 1 + OOM_BYTES


def test_a_reboot_or_a_migration_keeps_the_days() -> None:
    """This holds even around midnight, on a host with a clock that is behind."""
    samples = [at(n, n + 1, GIB) for n in range(4)]
    behind = make(
        1,
        epoch=1,
        host=1,
        last_update_s=START_S + 3 * DAY_S - 5,
        statistics={"total_memory": 8 * GIB, "available_memory": 7 * GIB},
    )

    documents = run([*samples, behind, at(4, 2, GIB, epoch=1)])

    assert documents[-1]["days"] == 4


def test_a_clock_that_went_back_by_days_starts_the_days_again() -> None:
    documents = run([*(at(n, n + 1, GIB) for n in range(5)), at(1, 1, GIB, epoch=1), at(2, 2, GIB, epoch=1)])

    assert documents[-1]["days"] == 1


def test_the_days_are_bounded() -> None:
    assert run(at(n, n + 1, GIB) for n in range(3 * DAYS_KEPT))[-1]["days"] == DAYS_KEPT
