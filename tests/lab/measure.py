"""What the observer saw against what arrived: the figures of the demo, the bench and the tests. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STEADY_AFTER = 15
"""Updates of a VM that are not counted: the agent is still learning its rhythm."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A sample, by what identifies an update, and when the agent had read it."""

    last_update_s: int
    observed_at_ms: int
    sequence: int
    statistics: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Shown:
    """An update when the second monitor first showed it. Statistics as on the wire."""

    last_update_s: int
    first_seen_ms: float  # Unix milliseconds
    statistics: Mapping[str, int]  # decoded names, unset ones left out


@dataclass(frozen=True, slots=True)
class Comparison:
    """One VM's updates against its samples. Updates are told apart by their second."""

    updates: int
    samples: int
    lost: tuple[int, ...]  # last-update of updates that no sample shows
    invented: tuple[int, ...]  # of samples that no update shows
    repeated: tuple[int, ...]  # of samples that came twice
    disordered: bool
    wrong: tuple[int, ...]  # of samples whose values the observer never saw with that time
    lags_ms: tuple[float, ...]  # of steady ones, in order


def compare(
    shown: Sequence[Shown],
    arrived: Sequence[Arrived],
    *,
    until_ms: float,
    steady_after: int = STEADY_AFTER,
) -> Comparison:
    """Compare what was shown until `until_ms` with what arrived, from the first sample on.

    Several updates within one second are one advance: any of their values is right.
    """
    first: dict[int, float] = {}
    values: dict[int, list[Mapping[str, int]]] = {}
    for update in (each for each in shown if each.last_update_s):  # 0: nothing yet
        first.setdefault(update.last_update_s, update.first_seen_ms)
        values.setdefault(update.last_update_s, []).append(update.statistics)
    times = [sample.last_update_s for sample in arrived]
    begin_s = times[0] if times else 0
    owed = [at_s for at_s, seen_ms in first.items() if at_s >= begin_s and seen_ms < until_ms]
    lags = [
        sample.observed_at_ms - first[sample.last_update_s]
        for sample in arrived[steady_after:]
        if sample.last_update_s in first
    ]
    return Comparison(
        updates=len(owed),
        samples=len(arrived),
        lost=tuple(at_s for at_s in owed if at_s not in set(times)),
        invented=tuple(at_s for at_s in times if at_s not in first),
        repeated=tuple(sorted({at_s for at_s in times if times.count(at_s) > 1})),
        disordered=times != sorted(times),
        wrong=tuple(
            sample.last_update_s
            for sample in arrived
            if sample.last_update_s in values and sample.statistics not in values[sample.last_update_s]
        ),
        lags_ms=tuple(lags),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of `values` lie; NaN of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")
