"""The memory pressure of a VM, as docs/pressure.md defines it; schemas/pressure/vectors.json has the cases.

Time is the `last_update` of the samples, so that a backlog gives the same levels as live samples.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    """How short of memory the guest is, in rising order."""

    NONE = "none"
    LOW = "low"
    PRESSURE = "pressure"
    OOM = "oom"


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

COUNTERS = (
    "major_faults",
    "swap_in",
    "swap_out",
    "alloc_stalls",
    "async_scans",
    "direct_scans",
    "async_reclaims",
    "direct_reclaims",
    "oom_kills",
)
"""The statistics that the next sample is compared with, in the order of `PressureState.counters`."""


class Run(Struct, array_like=True, frozen=True):
    """An unbroken run of samples with, or without, the condition of a level."""

    holds: bool = False
    since_s: int = 0  # the run's first sample
    reached: bool = False  # the level


class PressureState(Struct, array_like=True, frozen=True):
    """What is kept of a VM for its next sample. Times are `last_update`."""

    level: Level
    since_s: int  # the sample that changed the level to this one
    last_update_s: int
    epoch: str
    counters: tuple[int | None, ...]
    low: Run
    pressure: Run
    oom_at_s: int | None  # the last sample that showed an OOM kill


class Pressure(Struct, frozen=True):
    """The pressure of a VM after a sample."""

    state: PressureState
    score: float | None  # from 0 to 1; None: no component is available
    components: Mapping[str, float]  # those that are available


_NEVER = Run()


def advance(
    before: PressureState | None, *, epoch: str, last_update_s: int, statistics: Mapping[str, int]
) -> Pressure | None:
    """Return the pressure after a sample with origin `poll`; `None`: it is no newer than the one before.

    Args:
        before: the state after the sample before; `None`: this is the first.
        epoch: of the sample.
        last_update_s: in Unix seconds.
        statistics: by name, in the units of schemas/sample.
    """
    if before is not None and last_update_s <= before.last_update_s:
        if epoch == before.epoch:
            return None
        before = None  # the host's clock was set back, so no duration is known
    counters = tuple(map(statistics.get, COUNTERS))
    components = _headroom(statistics)
    low = pressure = _NEVER
    oom_at_s = None
    if before is not None:
        low, pressure, oom_at_s = before.low, before.pressure, before.oom_at_s
        elapsed_s = last_update_s - before.last_update_s
        is_gap = elapsed_s > GAP_MAX_S
        if epoch == before.epoch:
            *rises, kills = map(_rise, before.counters, counters)
            if not is_gap:
                _add_rates(components, rises, elapsed_s)
            if kills is not None:
                components["oom_kill"] = 0.0
                oom_at_s = last_update_s if kills else oom_at_s
        if is_gap:
            low, pressure = _broken(low, last_update_s), _broken(pressure, last_update_s)
    headroom = components.get("headroom", 0.0)
    suffers = headroom > 0 and (components.get("major_faults", 0.0) >= 1 or components.get("swap", 0.0) >= 1)
    low = _continued(low, holds=headroom > HEADROOM_LOW_SCORE, now_s=last_update_s, after_s=LOW_AFTER_S)
    pressure = _continued(pressure, holds=suffers, now_s=last_update_s, after_s=PRESSURE_AFTER_S)
    level = _level(low, pressure)
    if oom_at_s is not None and last_update_s - oom_at_s < CALM_AFTER_S:
        components["oom_kill"] = 1.0
        level = Level.OOM
    since_s = before.since_s if before is not None and before.level is level else last_update_s
    state = PressureState(level, since_s, last_update_s, epoch, counters, low, pressure, oom_at_s)
    return Pressure(state, max(components.values(), default=None), components)


def _level(low: Run, pressure: Run) -> Level:
    if pressure.reached:
        return Level.PRESSURE
    return Level.LOW if low.reached else Level.NONE


def _headroom(statistics: Mapping[str, int]) -> dict[str, float]:
    available, total = statistics.get("available_memory"), statistics.get("total_memory")
    if available is None or not total:
        return {}
    # In this order of operations, a share of exactly 3 % gives exactly HEADROOM_LOW_SCORE.
    return {"headroom": _limited(1 - available / total / HEADROOM_SHORT)}


def _rise(start: int | None, end: int | None) -> int | None:
    """Return how far a counter rose; `None`: it is missing on one side, or fell."""
    return None if start is None or end is None or end < start else end - start


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


def _add_rates(components: dict[str, float], rises: Sequence[int | None], elapsed_s: int) -> None:
    """Add the components that are rates; `rises`: of `COUNTERS` without the last."""
    faults, swap_in, swap_out, stalls, async_scans, direct_scans, async_reclaims, direct_reclaims = rises
    if faults is not None:
        components["major_faults"] = _limited(faults / elapsed_s / MAJOR_FAULTS_PER_S)
    if (swap := _sum(swap_in, swap_out)) is not None:
        components["swap"] = _limited(swap / elapsed_s / SWAP_BYTES_PER_S)
    if stalls is not None:
        components["allocation_stalls"] = _limited(stalls / elapsed_s / STALLS_PER_S)
    scanned = _sum(async_scans, direct_scans)
    if scanned is None or direct_scans is None:
        return
    is_scanning = scanned >= SCANNED_BYTES_PER_S_MIN * elapsed_s
    components["direct_scans"] = direct_scans / scanned if is_scanning else 0.0
    if (reclaimed := _sum(async_reclaims, direct_reclaims)) is not None:
        components["reclaim"] = _limited(1 - reclaimed / scanned) if is_scanning else 0.0


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
