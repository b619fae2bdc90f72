"""What was seen from outside against what arrived: the figures of the demo, the bench and the tests."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

STEADY_AFTER = 15
"""Updates of a VM that are not counted: the agent is still learning its rhythm."""

PROMISED_MS = 500
"""An update that stays visible for so long is read: docs/limits.md. A shorter one may be."""

_UNSET_FROM = 1 << 63


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


def update_in(line: str) -> tuple[Path, Shown]:
    """Read one line of an observer's log, or a simulated hypervisor's: a monitor's path, and its update."""
    path, seen_ns, last_update_s, stats = cast(tuple[str, int, int, dict[str, int]], json.loads(line))
    return Path(path), Shown(last_update_s, seen_ns / 1e6, decoded(stats))


def updates_in(log: Path) -> dict[Path, list[Shown]]:
    """Return the updates that such a log has so far, by monitor, in order."""
    text = log.read_text()
    shown: dict[Path, list[Shown]] = {}
    for line in text[: text.rfind("\n") + 1].splitlines():
        path, update = update_in(line)
        shown.setdefault(path, []).append(update)
    return shown


def decoded(stats: Mapping[str, int]) -> dict[str, int]:
    """Return wire statistics as the contract names them, without the unset ones."""
    return {
        name.removeprefix("stat-").replace("-", "_"): value
        for name, value in stats.items()
        if 0 <= value < _UNSET_FROM
    }


def short_lived(shown: Sequence[Shown], ends_ms: Sequence[float]) -> frozenset[int]:
    """Return the last-update of what the agent need not have read.

    It did not stand for `PROMISED_MS`: another update came, or at one of `ends_ms` something was done to the
    VM that may have taken it away.
    """
    stood: set[int] = set()
    for at, update in enumerate(shown):
        following = [each.first_seen_ms for each in shown[at + 1 : at + 2]]
        ends = [end_ms for end_ms in (*following, *ends_ms) if end_ms >= update.first_seen_ms]
        if min(ends, default=float("inf")) - update.first_seen_ms >= PROMISED_MS:
            stood.add(update.last_update_s)
    return frozenset(update.last_update_s for update in shown) - stood


def compare(
    shown: Sequence[Shown],
    arrived: Sequence[Arrived],
    *,
    until_ms: float,
    steady_after: int = STEADY_AFTER,
    some_left_out: bool = False,
) -> Comparison:
    """Compare what was shown until `until_ms` with what arrived, from the first sample on.

    Several updates within one second are one advance: any of their values is right. With `some_left_out`
    statistics may be missing, as impossible ones are; those that are there must be right.
    """

    def right(given: Mapping[str, int], truth: Mapping[str, int]) -> bool:
        return given == truth or (some_left_out and given.items() <= truth.items())

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
            if sample.last_update_s in values
            and not any(right(sample.statistics, truth) for truth in values[sample.last_update_s])
        ),
        lags_ms=tuple(lags),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of `values` lie; NaN of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")
