"""Tests of counters that fall: a restart, a wrap, or a statistic that is not a counter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import pytest

from agent.core import epochs
from agent.core.epochs import History, Seen
from agent.core.falling import WRAPS, judge_fall
from agent.core.reading import Reading

NONE: frozenset[str] = frozenset()


class Verdict(Enum):
    NOTHING = "nothing"
    RESTART = "restart"
    RATE = "rate"


@dataclass(frozen=True)
class Case:
    before: Mapping[str, int]
    after: Mapping[str, int]
    verdict: Verdict
    rates: frozenset[str] = NONE  # newly found
    no_counters: frozenset[str] = NONE
    fell_before: frozenset[str] = NONE
    sequence: int = 5
    steady: bool = True
    told: bool = True


def named(*names: str) -> frozenset[str]:
    return frozenset(names)


BUSY = {"major_faults": 5, "minor_faults": 9000, "swap_in": 8192}
NEARLY_WRAPPED = {f"before {wrap:#x}": wrap - 4096 for wrap in WRAPS}

CASES = {
    "nothing fell": Case({"minor_faults": 5}, {"minor_faults": 5}, Verdict.NOTHING),
    "a counter is missing": Case({"minor_faults": 5, "swap_in": 3}, {"minor_faults": 5}, Verdict.NOTHING),
    "all fell": Case(BUSY, {"major_faults": 3, "minor_faults": 70, "swap_in": 0}, Verdict.RESTART),
    "one of three keeps its value by chance": Case(
        BUSY, {"major_faults": 5, "minor_faults": 70, "swap_in": 0}, Verdict.RESTART
    ),
    "one of three rises by chance": Case(
        BUSY, {"major_faults": 6, "minor_faults": 70, "swap_in": 0}, Verdict.RESTART
    ),
    "a witness is missing": Case(BUSY, {"minor_faults": 70}, Verdict.RESTART),
    "a counter at 0 is no witness": Case(
        {"minor_faults": 9000, "swap_in": 0}, {"minor_faults": 70, "swap_in": 0}, Verdict.RESTART
    ),
    "what is the same at each boot is no witness": Case(
        {"minor_faults": 9000, "htlb_pgalloc": 512, "htlb_pgfail": 1, "oom_kills": 2},
        {"minor_faults": 70, "htlb_pgalloc": 512, "htlb_pgfail": 1, "oom_kills": 2},
        Verdict.RESTART,
    ),
    "a rate is no witness": Case(
        {"minor_faults": 40, "major_faults": 5},
        {"minor_faults": 50, "major_faults": 3},
        Verdict.RESTART,
        no_counters=named("minor_faults"),
    ),
    "a known rate falls": Case(
        {"minor_faults": 40, "major_faults": 5},
        {"minor_faults": 12, "major_faults": 5},
        Verdict.NOTHING,
        no_counters=named("minor_faults"),
    ),
    "a rate beside a counter that keeps its value": Case(
        {"minor_faults": 40, "major_faults": 5},
        {"minor_faults": 12, "major_faults": 5},
        Verdict.RATE,
        named("minor_faults"),
    ),
    "two rates beside two that rise": Case(
        {"minor_faults": 40, "major_faults": 5, "swap_in": 8192, "swap_out": 4096},
        {"minor_faults": 12, "major_faults": 9, "swap_in": 0, "swap_out": 8192},
        Verdict.RATE,
        named("minor_faults", "swap_in"),
    ),
    "not on the cadence": Case(
        {"minor_faults": 40, "major_faults": 5},
        {"minor_faults": 12, "major_faults": 9},
        Verdict.RESTART,
        steady=False,
    ),
    "without events": Case(
        {"minor_faults": 40, "major_faults": 5},
        {"minor_faults": 12, "major_faults": 9},
        Verdict.RESTART,
        told=False,
    ),
    "without events, again": Case(
        {"minor_faults": 40, "major_faults": 5},
        {"minor_faults": 12, "major_faults": 9},
        Verdict.RATE,
        named("minor_faults"),
        fell_before=named("minor_faults", "swap_in"),
        told=False,
    ),
    "without events, a state is loaded twice": Case(
        BUSY,
        {"major_faults": 5, "minor_faults": 70, "swap_in": 0},
        Verdict.RESTART,
        fell_before=named("minor_faults", "swap_in"),
        told=False,
    ),
    "the only counter falls again": Case(
        {"minor_faults": 40},
        {"minor_faults": 12},
        Verdict.RATE,
        named("minor_faults"),
        fell_before=named("minor_faults"),
    ),
    "the only counter falls again, late": Case(
        {"minor_faults": 40},
        {"minor_faults": 12},
        Verdict.RESTART,
        fell_before=named("minor_faults"),
        sequence=11,
    ),
    "the last counter of a guest that sends rates falls again, late": Case(
        {"minor_faults": 40, "swap_in": 4096},
        {"minor_faults": 50, "swap_in": 0},
        Verdict.RATE,
        named("swap_in"),
        no_counters=named("minor_faults"),
        fell_before=named("swap_in"),
        sequence=300,
    ),
    "the only counter falls again, not on the cadence": Case(
        {"minor_faults": 40},
        {"minor_faults": 12},
        Verdict.RESTART,
        fell_before=named("minor_faults"),
        steady=False,
    ),
    "two that fall again, of a guest that sends rates": Case(
        {"minor_faults": 40, "swap_in": 4096, "major_faults": 1},
        {"minor_faults": 50, "swap_in": 0, "major_faults": 0},
        Verdict.RATE,
        named("swap_in", "major_faults"),
        no_counters=named("minor_faults"),
        fell_before=named("swap_in", "major_faults"),
    ),
    "a guest that boots again and again": Case(
        {"minor_faults": 9000, "major_faults": 300},
        {"minor_faults": 4000, "major_faults": 200},
        Verdict.RESTART,
        fell_before=named("minor_faults", "major_faults"),
        sequence=3,
    ),
    **{
        f"a wrap {name}": Case(
            {"swap_in": before, "major_faults": 7}, {"swap_in": 8192, "major_faults": 7}, Verdict.NOTHING
        )
        for name, before in NEARLY_WRAPPED.items()
    },
    "a wrap off the cadence, without events": Case(
        {"minor_faults": (1 << 32) - 9, "major_faults": 7},
        {"minor_faults": 80, "major_faults": 7},
        Verdict.NOTHING,
        steady=False,
        told=False,
    ),
    "a wrap beside a rate: one witness is enough for both": Case(
        {"minor_faults": (1 << 32) - 9, "swap_in": 8192, "major_faults": 7},
        {"minor_faults": 80, "swap_in": 0, "major_faults": 7},
        Verdict.RATE,
        named("swap_in"),
    ),
    "a wrap without a witness": Case({"minor_faults": (1 << 32) - 9}, {"minor_faults": 80}, Verdict.RESTART),
    "a wrap beside what is the same at each boot": Case(
        {"minor_faults": (1 << 32) - 9, "oom_kills": 2}, {"minor_faults": 80, "oom_kills": 2}, Verdict.RESTART
    ),
    "far below a wrap": Case(
        {"swap_in": 1 << 31, "minor_faults": 900, "major_faults": 7},
        {"swap_in": 4096, "minor_faults": 70, "major_faults": 7},
        Verdict.RESTART,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fall_is_judged(case: Case) -> None:
    fall = judge_fall(
        case.before,
        case.after,
        no_counters=case.no_counters,
        fell_before=case.fell_before,
        sequence=case.sequence,
        steady=case.steady,
        told=case.told,
    )

    assert fall.restarted is (case.verdict is Verdict.RESTART)
    assert fall.no_counters == case.rates


def seen_of(
    updates: Sequence[Mapping[str, int]], *, told: bool = True, history: History | None = None
) -> list[Seen]:
    """Return the result of each update; there is one each second, on the cadence."""
    history = History() if history is None else history
    start_s = 100 if history.last is None else history.last.last_update_s
    seen: list[Seen] = []
    for number, statistics in enumerate(updates, 1):
        reading = Reading(start_s + number, statistics)
        seen.append(epochs.see(history, reading, on_time=True, unix_ms=1, chance=number << 70, told=told))
        history = seen[-1].history
    return seen


def lengths(seen: Sequence[Seen]) -> list[int]:
    """Return the number of samples in each epoch."""
    counted: dict[str | None, int] = {}
    for each in seen:
        counted[each.history.epoch] = each.history.sequence
    return list(counted.values())


def found(seen: Sequence[Seen]) -> list[str]:
    return [name for each in seen for name in sorted(each.no_counters)]


RATES = (
    {"swap_in": 4096, "swap_out": 0, "major_faults": 9, "minor_faults": 40},
    {"swap_in": 0, "swap_out": 4096, "major_faults": 2, "minor_faults": 12},
    {"swap_in": 8192, "swap_out": 0, "major_faults": 4, "minor_faults": 33},
    {"swap_in": 4096, "swap_out": 8192, "major_faults": 7, "minor_faults": 7},
    {"swap_in": 0, "swap_out": 0, "major_faults": 3, "minor_faults": 25},
)


@pytest.mark.parametrize("told", [True, False])
def test_a_guest_that_sends_rates_is_found_once(told: bool) -> None:
    seen = seen_of(RATES * 30, told=told)

    assert sorted(found(seen)) == ["major_faults", "minor_faults", "swap_in", "swap_out"]
    assert len(lengths(seen)) <= 5
    assert lengths(seen)[-1] > 130


@pytest.mark.parametrize("told", [True, False])
def test_two_rates_that_fall_in_turn_end_few_epochs(told: bool) -> None:
    turns = [{"major_faults": 5, "minor_faults": 40}, {"major_faults": 9, "minor_faults": 12}] * 20

    assert len(lengths(seen_of(turns, told=told))) <= 3


def test_a_rate_that_is_mostly_0_ends_few_epochs_of_a_guest_that_sends_rates() -> None:
    quiet = [{"minor_faults": each, "swap_in": 0} for each in (40, 12, 33, 7, 25)] * 4
    burst = {"minor_faults": 50, "swap_in": 4096}

    seen = seen_of([*quiet, burst] * 10)

    assert sorted(found(seen)) == ["minor_faults", "swap_in"]
    assert len(lengths(seen)) <= 3


def test_learned_rates_outlive_an_epoch_that_a_fall_ended() -> None:
    before = [{"minor_faults": each, "major_faults": 500} for each in (40, 12, 33)]
    after = [{"minor_faults": each, "major_faults": 3} for each in (50, 20, 60, 10)]

    seen = seen_of([*before, *after])

    assert lengths(seen) == [3, 4]
    assert found(seen) == ["minor_faults"]


def test_a_reset_clears_the_learned_rates() -> None:
    seen = seen_of([{"minor_faults": each, "major_faults": 500} for each in (40, 12, 33)])

    by_event = epochs.end_epoch(seen[-1].history, guest_reset=True)
    by_time = epochs.see(seen[-1].history, Reading(0, {}), on_time=True, unix_ms=1, chance=1).history
    other_device = epochs.end_epoch(seen[-1].history, guest_reset=False)

    assert (set(by_event.no_counters), set(by_time.no_counters)) == (set(), set())
    assert set(other_device.no_counters) == {"minor_faults"}


def test_the_counters_of_another_system_are_trusted_again() -> None:
    """A reboot into another system is not detected if all counters of the first system are rates."""
    rates = seen_of([{"minor_faults": each} for each in (40, 12, 33, 7, 25)], told=False)
    counters = [{"minor_faults": 1000 * (each // 2)} for each in range(1, 60)]

    seen = seen_of(counters, told=False, history=rates[-1].history)
    rebooted = seen_of([{"minor_faults": 70}], told=False, history=seen[-1].history)

    assert rebooted[-1].history.epoch != seen[-1].history.epoch
    assert found([*seen, *rebooted]) == []


def test_a_restart_that_was_taken_for_rates_does_not_hide_a_later_one() -> None:
    hidden = [{"minor_faults": 9000, "major_faults": 5}] * 2 + [{"minor_faults": 70, "major_faults": 5}]
    later = [{"minor_faults": 100 * each, "major_faults": 5, "swap_in": 4096} for each in range(1, 40)]

    seen = seen_of([*hidden, *later, {"minor_faults": 70, "major_faults": 5, "swap_in": 0}])

    assert found(seen) == ["minor_faults"]
    assert lengths(seen) == [42, 1]


def test_guests_that_give_the_same_statistics_share_one_set_of_their_names() -> None:
    one, other = (
        epochs.see(History(), Reading(1_000, {"free_memory": number}), on_time=False, unix_ms=1, chance=1)
        for number in range(2)
    )

    assert one.history.given == {"free_memory"}
    assert one.history.given is other.history.given
