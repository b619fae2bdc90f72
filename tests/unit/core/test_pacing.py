"""Tests of pacing: its figures on cadences of guests, and its bounds on any cadence."""

import itertools
import math
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import pacing

MS = 1_000_000
SECOND = 1_000 * MS
STEADY_AFTER = 15


@dataclass(frozen=True, slots=True)
class Figures:
    readings_per_sample: float
    lag_p50_ms: float
    lag_p99_ms: float
    missed: int
    worst_from_the_start_ms: float  # after the first reading that showed an update
    readings_while_learning: int


def run(
    interval_s: float,
    response_ms: Callable[[], float],
    updates: int,
    rng: random.Random,
    steady_after: int = STEADY_AFTER,
) -> Figures:
    """Drive the pace against a guest that answers `response_ms` after each request."""
    interval_ns = int(interval_s * SECOND)

    def after(update_ns: int) -> int:
        return update_ns + interval_ns + int(max(response_ms(), 0.2) * MS)

    update_ns = rng.randrange(interval_ns)
    following_ns = after(update_ns)
    pace = pacing.start(interval_ns, interval_ns)
    now_ns, seen, done, readings, lags, missed = interval_ns, -1, 0, 0, list[float](), 0
    worst_ms, learning = 0.0, 0
    while done < updates:
        now_ns = max(now_ns, pace.due_ns) + int(rng.uniform(0.1, 1.2) * MS)
        asked_ns, now_ns = now_ns, now_ns + int(rng.uniform(0.3, 0.8) * MS)
        while following_ns <= asked_ns:
            update_ns, following_ns = following_ns, after(following_ns)
            done += 1
        readings += done > steady_after
        learning += done <= steady_after
        if done == seen:
            pace = pacing.miss(pace, asked_ns=asked_ns, answered_ns=now_ns)
        else:
            if seen >= 0:
                missed += done - seen - 1
                worst_ms = max(worst_ms, (now_ns - update_ns) / MS)
            seen = done
            if done > steady_after:
                lags.append((now_ns - update_ns) / MS)
            pace = pacing.hit(
                pace,
                asked_ns=asked_ns,
                answered_ns=now_ns,
                not_before_ns=update_ns // SECOND * SECOND,
                missed=0,
            )
        assert pace.due_ns > now_ns - interval_ns
    lags.sort()
    p50_ms, p99_ms = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    return Figures(readings / len(lags), p50_ms, p99_ms, missed, worst_ms, learning)


RHYTHMS: dict[str, tuple[Callable[[random.Random], float], int, float, int, int]] = {
    "quiet": (lambda rng: 2.0, 1, 1.035, 10, 20),
    "usual": (lambda rng: rng.gauss(4, 1.5), 1, 1.045, 14, 40),
    "emulated": (lambda rng: abs(rng.gauss(6, 3)), 1, 1.05, 22, 65),
    "every ten seconds": (lambda rng: rng.gauss(4, 1.5), 10, 1.045, 14, 40),
    "outliers": (lambda rng: 4 if rng.random() < 0.98 else 80, 1, 1.12, 24, 80),
    "strong jitter": (lambda rng: abs(rng.gauss(10, 8)), 1, 1.1, 35, 120),
}


@pytest.mark.parametrize("name", RHYTHMS)
def test_one_reading_per_update_and_just_after_it(name: str) -> None:
    response_ms, interval_s, readings_max, p50_ms, p99_ms = RHYTHMS[name]
    found: list[Figures] = []
    for seed in range(5):
        rng = random.Random(seed)
        found.append(run(interval_s, lambda rng=rng: response_ms(rng), 400, rng))

    assert sorted(each.readings_per_sample for each in found)[2] <= readings_max
    assert sorted(each.lag_p50_ms for each in found)[2] <= p50_ms
    assert sorted(each.lag_p99_ms for each in found)[2] <= p99_ms
    assert sum(each.missed for each in found) == 0


def test_learning_after_fifteen_updates_costs_little() -> None:
    def guest(rng: random.Random) -> Callable[[], float]:
        least_ms = rng.uniform(1.5, 8)
        return lambda: min(least_ms + rng.expovariate(1 / 1.5), 14)

    found: list[Figures] = []
    for seed in range(100):
        rng = random.Random(seed)
        found.append(run(1, guest(rng), 65, rng))

    assert sum(each.readings_per_sample for each in found) / len(found) <= 1.039
    assert sorted(each.lag_p50_ms for each in found)[50] <= 12


@pytest.mark.parametrize(("before_ms", "after_ms", "p50_ms"), [(30, 3, 60), (14, 4, 60), (2, 8, 12)])
def test_a_guest_that_answers_sooner_or_later_than_it_did_is_followed(
    before_ms: float, after_ms: float, p50_ms: float
) -> None:
    """A guest that answers sooner has an update at each reading; only `last-update` shows how old it is."""

    def guest(rng: random.Random) -> Callable[[], float]:
        answers = itertools.count()
        return lambda: rng.gauss(before_ms if next(answers) < 200 else after_ms, 1)

    found: list[Figures] = []
    for seed in range(40):
        rng = random.Random(seed)
        found.append(run(1, guest(rng), 300, rng, steady_after=200))

    assert sorted(each.lag_p50_ms for each in found)[20] <= p50_ms
    assert sorted(each.lag_p99_ms for each in found)[20] <= 375


def test_the_phase_is_found_within_fifteen_updates_of_a_start_at_any_moment() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        found = run(10, lambda rng=rng: rng.gauss(4, 1), 40, rng)
        assert found.lag_p50_ms < 60, seed


@pytest.mark.parametrize("interval_s", [1, 10, 300])
def test_an_update_is_read_soon_even_while_its_phase_is_unknown(interval_s: int) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        found = run(interval_s, lambda rng=rng: rng.gauss(4, 1), 20, rng)
        assert found.worst_from_the_start_ms < 300, seed
        assert found.readings_while_learning <= 2 * STEADY_AFTER, seed


@pytest.mark.parametrize("sooner_ms", [0, 190, 500, 900])
def test_an_update_without_a_request_does_not_mislead(sooner_ms: int) -> None:
    """The driver's probe sends an update, and the running timer another one in less than an interval."""
    for seed in range(20):
        rng = random.Random(seed)
        update_ns = SECOND * 100 + rng.randrange(SECOND)
        pace = pacing.start(SECOND, 80 * SECOND)
        now_ns, seen, lags = 80 * SECOND, -1, list[float]()
        coming_ns = [update_ns, update_ns + SECOND - sooner_ms * MS]
        while len(lags) < 40:
            now_ns = max(now_ns, pace.due_ns) + int(rng.uniform(0.1, 1.2) * MS)
            asked_ns, now_ns = now_ns, now_ns + int(rng.uniform(0.3, 0.8) * MS)
            while coming_ns[-1] <= asked_ns:
                coming_ns.append(coming_ns[-1] + SECOND + int(rng.uniform(0.2, 4) * MS))
            newest = sum(each <= asked_ns for each in coming_ns) - 1
            if newest == seen:
                pace = pacing.miss(pace, asked_ns=asked_ns, answered_ns=now_ns)
                continue
            seen, at_ns = newest, coming_ns[newest]
            lags.append((now_ns - at_ns) / MS)
            second_ns = at_ns // SECOND * SECOND
            pace = pacing.hit(pace, asked_ns=asked_ns, answered_ns=now_ns, not_before_ns=second_ns, missed=0)
        assert max(lags[12:]) < 60, (seed, lags)


@pytest.mark.parametrize("interval_s", [1, 2, 10, 60])
@pytest.mark.parametrize("share", [0.3, 0.9, 1.0, 1.4])
def test_the_first_update_after_the_interval_has_changed_is_read_within_a_tenth_of_it(
    interval_s: int, share: float
) -> None:
    """QEMU restarts its timer, at a time that the agent does not know."""
    interval_ns = interval_s * SECOND
    pace = pacing.start(interval_ns, 0)
    readings = 0
    while (asked_ns := pace.due_ns) < interval_ns * share:
        pace = pacing.miss(pace, asked_ns=asked_ns, answered_ns=asked_ns + MS)
        readings += 1

    assert asked_ns - interval_ns * share <= interval_ns / 10 + 2 * MS
    assert readings <= 25


@dataclass
class Changing:
    """A guest with a response time that changes once."""

    before_ms: float
    after_ms: float
    asked: int = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.before_ms if self.asked < 220 else self.after_ms


@pytest.mark.parametrize(("before_ms", "after_ms"), [(12.0, 1.0), (6.0, 2.0), (1.0, 12.0)])
def test_a_cadence_that_changes_is_followed(before_ms: float, after_ms: float) -> None:
    for seed in range(5):
        found = run(1, Changing(before_ms, after_ms), 500, random.Random(seed))
        assert found.missed == 0
        assert found.lag_p50_ms < 30
        # Only a reading that comes too early shows the change, and one of 33 does.
        assert found.worst_from_the_start_ms < max(300, 80 * (before_ms - after_ms))


@pytest.mark.parametrize("cut_ms", [-12.0, -3.0, 0.0, 2.0, 9.0])
def test_a_belief_is_cut_to_the_mean_and_variance_of_what_is_left(cut_ms: float) -> None:
    belief = pacing.Belief(0.0, 1.0 * SECOND, (4.0 * MS) ** 2, (1.0 * MS) ** 2, 2.0 * MS * MS)
    points = [step * 0.01 * MS for step in range(-4000, 4001)]
    for cut, left in (
        (belief.not_before(int(cut_ms * MS)), [each for each in points if each >= cut_ms * MS]),
        (belief.not_after(int(cut_ms * MS)), [each for each in points if each <= cut_ms * MS]),
    ):
        weights = [math.exp(-((each / (4.0 * MS)) ** 2) / 2) for each in left]
        mean = sum(map(operator.mul, weights, left)) / sum(weights)
        variance = sum(w * (each - mean) ** 2 for w, each in zip(weights, left, strict=True)) / sum(weights)
        assert cut.moment == pytest.approx(mean, abs=0.02 * MS)
        assert cut.moment_var == pytest.approx(variance, rel=0.02)


def test_a_belief_far_off_restarts_where_it_was_proven_wrong() -> None:
    belief = pacing.Belief(0.0, 1.0 * SECOND, (1.0 * MS) ** 2, (1.0 * MS) ** 2)

    late = belief.not_before(80 * MS)

    assert late.moment == 80 * MS
    assert late.cadence == belief.cadence


@given(
    interval_s=st.sampled_from((1, 2, 10, 60, 4_294_967_295)),
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 5 * SECOND), st.integers(0, SECOND), st.integers(0, 3)),
        max_size=60,
    ),
)
def test_a_reading_is_due_after_the_last_one_and_within_an_interval(
    interval_s: int, steps: list[tuple[bool, int, int, int]]
) -> None:
    interval_ns = interval_s * SECOND
    pace = pacing.start(interval_ns, 0)
    now_ns = 0
    for is_hit, late_ns, took_ns, missed in steps:
        asked_ns = max(now_ns, pace.due_ns) + late_ns
        now_ns = asked_ns + took_ns
        if is_hit:
            before_ns = asked_ns - min(late_ns, interval_ns)
            pace = pacing.hit(
                pace, asked_ns=asked_ns, answered_ns=now_ns, not_before_ns=before_ns, missed=missed
            )
        else:
            pace = pacing.miss(pace, asked_ns=asked_ns, answered_ns=now_ns)
        assert now_ns < pace.due_ns <= now_ns + 2 * interval_ns + took_ns
        assert interval_ns * 9 // 10 <= pace.cadence_ns <= interval_ns * 3 // 2


def test_a_silent_guest_is_read_once_an_interval_and_never_less() -> None:
    interval_ns = 10 * SECOND
    pace = pacing.start(interval_ns, 0)
    now_ns = 0
    gaps: list[int] = []
    for _ in range(50):
        gaps.append(pace.due_ns - now_ns)
        now_ns = pace.due_ns
        pace = pacing.miss(pace, asked_ns=now_ns, answered_ns=now_ns)

    assert max(gaps) < interval_ns
    assert set(gaps[30:]) == {interval_ns * 9 // 10}


@pytest.mark.parametrize("interval_s", [1, 10])
@pytest.mark.parametrize("age_s", [0, 1, 3, 3600, 10**9])
def test_a_new_sample_at_each_reading_does_not_make_readings_more_frequent(
    interval_s: int, age_s: int
) -> None:
    pace = pacing.start(interval_s * SECOND, SECOND)
    now_ns, readings = SECOND, 0
    while now_ns < 60 * interval_s * SECOND:
        now_ns = max(now_ns, pace.due_ns) + MS // 2
        not_before_ns = now_ns // SECOND * SECOND - age_s * SECOND
        pace = pacing.hit(
            pace, asked_ns=now_ns - MS // 2, answered_ns=now_ns, not_before_ns=not_before_ns, missed=0
        )
        readings += 1

    assert readings <= 2 * 60
