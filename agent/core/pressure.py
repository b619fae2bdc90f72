"""The memory pressure of a VM: a level, a score, and the components that the score is made of.

docs/pressure.md defines it for readers, and schemas/pressure/vectors.json has the cases that every
implementation must agree with. Only samples with origin `poll` count: the values of others have an unknown
age. All durations are differences of `last_update`, so that a backlog gives the same levels as live samples.

The score is the largest component of one sample. The level changes more slowly: its condition must hold for
some time before it is reached, and must not hold for `CALM_AFTER_S` before it is left.

Sources: the conditions of `low` and `pressure` are those of KubeVirt's alerts on the memory of guests
(kubevirt/kubevirt pull request 15237); contract/statistics.py has the sources of the statistics.
"""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct


class PressureLevel(StrEnum):
    """How short of memory the guest is, in rising order."""

    NONE = "none"
    LOW = "low"  # little memory is available
    PRESSURE = "pressure"  # little memory is available, and the guest swaps or waits for its disk
    OOM = "oom"  # the guest's kernel has killed a process because memory ran out

    @property
    def rank(self) -> int:
        """Its place in the order, from 0: the value of the metric."""
        return _RANKS[self]


_RANKS: Mapping[PressureLevel, int] = {level: rank for rank, level in enumerate(PressureLevel)}


class PressureComponent(StrEnum):
    """What the score is made of: each is a number from 0 to 1, or is not available."""

    HEADROOM = "headroom"
    MAJOR_FAULTS = "major_faults"
    SWAP = "swap"
    ALLOCATION_STALLS = "allocation_stalls"
    DIRECT_SCANS = "direct_scans"
    RECLAIM = "reclaim"
    OOM_KILL = "oom_kill"


HEADROOM_SHORT = 0.05
"""Available memory as a share of the total: `headroom` is 0 at this share, and 1 if nothing is available."""

HEADROOM_LOW_SCORE = 0.4
"""`headroom` when 3 % are available: above it, the condition of `low` holds."""

MAJOR_FAULTS_PER_S = 5
SWAP_BYTES_PER_S = 1 << 20
STALLS_PER_S = 1
"""The rates at which `major_faults`, `swap` and `allocation_stalls` are 1."""

SCANNED_BYTES_PER_S_MIN = 1 << 20
"""Below this rate `direct_scans` and `reclaim` are 0, since the shares of a few pages mean nothing."""

LOW_AFTER_S = 1_800
PRESSURE_AFTER_S = 300
"""How long a condition must hold until its level is reached."""

CALM_AFTER_S = 900
"""How long a level is kept without its condition, and `oom` after the last kill."""

GAP_MAX_S = 600
"""Samples further apart have no rates, and a condition is not known to have held between them."""


class Run(Struct, frozen=True):
    """An unbroken run of samples with, or without, the condition of a level."""

    holds: bool = False
    since_s: int = 0  # the run's first sample
    reached: bool = False  # the level


class VmPressure(Struct, frozen=True):
    """The pressure of a VM after a sample, and what is needed for the next. Times are `last_update`."""

    level: PressureLevel
    since_s: int  # the sample that changed the level to this one
    score: float | None  # from 0 to 1; None: no component is available
    components: Mapping[PressureComponent, float]  # those that are available
    last_update_s: int
    epoch: str
    statistics: Mapping[str, int]  # of that sample
    low: Run
    pressure: Run
    oom_at_s: int | None  # the last sample that showed an OOM kill


_NEVER = Run()


def advance(
    before: VmPressure | None, *, epoch: str, last_update_s: int, polled: bool, statistics: Mapping[str, int]
) -> VmPressure | None:
    """Return the pressure after a sample; `None`: no sample had origin `poll` yet.

    Args:
        before: the pressure after the samples before.
        epoch: of the sample, as are the rest.
        last_update_s: in Unix seconds.
        polled: whether the origin is `poll`.
        statistics: by name, in the units of schemas/sample.
    """
    if not polled:
        return before
    if before is not None and last_update_s <= before.last_update_s:
        if epoch == before.epoch:
            return before  # delivered again
        before = None  # the host's clock was set back, so no duration is known
    components = _headroom(statistics)
    if before is None:
        return _judge(components, epoch, last_update_s, statistics, None, _NEVER, _NEVER, None)
    elapsed_s = last_update_s - before.last_update_s
    is_gap = elapsed_s > GAP_MAX_S
    oom_at_s = before.oom_at_s
    if epoch == before.epoch:
        if not is_gap:
            _add_rates(components, before.statistics, statistics, elapsed_s)
        kills = _rise(before.statistics, statistics, "oom_kills")
        if kills is not None:
            components[PressureComponent.OOM_KILL] = 0.0
        if kills:
            oom_at_s = last_update_s
    low, pressure = before.low, before.pressure
    if is_gap:
        low, pressure = _broken(low, last_update_s), _broken(pressure, last_update_s)
    return _judge(components, epoch, last_update_s, statistics, before, low, pressure, oom_at_s)


def _judge(
    components: dict[PressureComponent, float],
    epoch: str,
    now_s: int,
    statistics: Mapping[str, int],
    before: VmPressure | None,
    low: Run,
    pressure: Run,
    oom_at_s: int | None,
) -> VmPressure:
    headroom = components.get(PressureComponent.HEADROOM, 0.0)
    suffers = headroom > 0 and (
        components.get(PressureComponent.MAJOR_FAULTS, 0.0) >= 1
        or components.get(PressureComponent.SWAP, 0.0) >= 1
    )
    low = _continued(low, holds=headroom > HEADROOM_LOW_SCORE, now_s=now_s, after_s=LOW_AFTER_S)
    pressure = _continued(pressure, holds=suffers, now_s=now_s, after_s=PRESSURE_AFTER_S)
    if oom_at_s is not None and now_s - oom_at_s < CALM_AFTER_S:
        components[PressureComponent.OOM_KILL] = 1.0
        level = PressureLevel.OOM
    elif pressure.reached:
        level = PressureLevel.PRESSURE
    else:
        level = PressureLevel.LOW if low.reached else PressureLevel.NONE
    return VmPressure(
        level=level,
        since_s=before.since_s if before is not None and before.level is level else now_s,
        score=score_of(components),
        components=components,
        last_update_s=now_s,
        epoch=epoch,
        statistics=statistics,
        low=low,
        pressure=pressure,
        oom_at_s=oom_at_s,
    )


class Rates(Struct, frozen=True):
    """The rates that people look at first, not limited as the components are. `None`: not available."""

    swap_bytes_per_s: float | None
    major_faults_per_s: float | None


NO_RATES = Rates(None, None)


def rates(before: VmPressure | None, after: VmPressure) -> Rates:
    """Return the rates between two samples in a row, by the rules of the components."""
    if before is None or before.epoch != after.epoch:
        return NO_RATES
    elapsed_s = after.last_update_s - before.last_update_s
    if not 0 < elapsed_s <= GAP_MAX_S:
        return NO_RATES
    swap = _sum_of_rises(before.statistics, after.statistics, "swap_in", "swap_out")
    faults = _rise(before.statistics, after.statistics, "major_faults")
    return Rates(
        None if swap is None else swap / elapsed_s,
        None if faults is None else faults / elapsed_s,
    )


def score_of(components: Mapping[PressureComponent, float]) -> float | None:
    """Return the largest component; `None`: none is available."""
    return max(components.values(), default=None)


def _headroom(statistics: Mapping[str, int]) -> dict[PressureComponent, float]:
    available, total = statistics.get("available_memory"), statistics.get("total_memory")
    if available is None or not total:
        return {}
    # In this order of operations, a share of exactly 3 % gives exactly HEADROOM_LOW_SCORE.
    return {PressureComponent.HEADROOM: _limited(1 - available / total / HEADROOM_SHORT)}


def _add_rates(
    components: dict[PressureComponent, float],
    before: Mapping[str, int],
    after: Mapping[str, int],
    elapsed_s: int,
) -> None:
    faults = _rise(before, after, "major_faults")
    if faults is not None:
        components[PressureComponent.MAJOR_FAULTS] = _limited(faults / elapsed_s / MAJOR_FAULTS_PER_S)
    swap = _sum_of_rises(before, after, "swap_in", "swap_out")
    if swap is not None:
        components[PressureComponent.SWAP] = _limited(swap / elapsed_s / SWAP_BYTES_PER_S)
    stalls = _rise(before, after, "alloc_stalls")
    if stalls is not None:
        components[PressureComponent.ALLOCATION_STALLS] = _limited(stalls / elapsed_s / STALLS_PER_S)
    scanned = _sum_of_rises(before, after, "async_scans", "direct_scans")
    if scanned is None:
        return
    is_scanning = scanned >= SCANNED_BYTES_PER_S_MIN * elapsed_s
    direct = _rise(before, after, "direct_scans") or 0
    components[PressureComponent.DIRECT_SCANS] = direct / scanned if is_scanning else 0.0
    reclaimed = _sum_of_rises(before, after, "async_reclaims", "direct_reclaims")
    if reclaimed is not None:
        components[PressureComponent.RECLAIM] = _limited(1 - reclaimed / scanned) if is_scanning else 0.0


def _rise(before: Mapping[str, int], after: Mapping[str, int], name: str) -> int | None:
    """Return how far a counter rose; `None`: it is missing on one side, or fell."""
    start, end = before.get(name), after.get(name)
    return None if start is None or end is None or end < start else end - start


def _sum_of_rises(before: Mapping[str, int], after: Mapping[str, int], one: str, other: str) -> int | None:
    first, second = _rise(before, after, one), _rise(before, after, other)
    return None if first is None or second is None else first + second


def _limited(value: float) -> float:
    return 0.0 if value < 0 else min(value, 1.0)


def _continued(run: Run, *, holds: bool, now_s: int, after_s: int) -> Run:
    since_s = run.since_s if holds is run.holds else now_s
    if holds:
        reached = run.reached or now_s - since_s >= after_s
    else:
        reached = run.reached and now_s - since_s < CALM_AFTER_S
    return run if holds is run.holds and reached is run.reached else Run(holds, since_s, reached)


def _broken(run: Run, now_s: int) -> Run:
    """Return the run after a gap: it starts again, and its level is kept."""
    return Run(run.holds, now_s, run.reached)
