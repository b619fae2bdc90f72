"""Compare the updates that an observer saw with the samples that arrived."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

STEADY_AFTER = 15
"""The first updates of a VM are left out of the steady lags: the agent is still learning its cadence."""

PROMISED_MS = 500
"""The agent reads every update that stays visible this long (docs/limits.md); it may miss a shorter one."""

_UNSET_FROM = 1 << 63


@dataclass(frozen=True, slots=True)
class Arrived:
    """A received sample: the time that identifies its update, and when the agent read it."""

    last_update_s: int
    observed_at_ms: int
    sequence: int
    statistics: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Shown:
    """An update, and when a second monitor first showed it."""

    last_update_s: int
    first_seen_ms: float  # Unix milliseconds
    statistics: Mapping[str, int]  # by decoded name, without unset values


@dataclass(frozen=True, slots=True)
class Comparison:
    """One VM's updates compared with its samples. An update is identified by its `last-update` in seconds."""

    updates: int
    samples: int
    lost: tuple[int, ...]  # last-update of updates without a sample
    invented: tuple[int, ...]  # last-update of samples without an update
    repeated: tuple[int, ...]  # last-update of samples that arrived more than once
    disordered: bool
    wrong: tuple[int, ...]  # last-update of samples with values that no update of that second had
    lags_ms: tuple[float, ...]  # of the samples after the first `steady_after`, in order


def update_in(line: str) -> tuple[Path, Shown]:
    """Parse one line of an observer's or a simulated hypervisor's log into a monitor path and an update."""
    path, seen_ns, last_update_s, stats = cast(tuple[str, int, int, dict[str, int]], json.loads(line))
    return Path(path), Shown(last_update_s, seen_ns / 1e6, decoded(stats))


def updates_in(log: Path) -> dict[Path, list[Shown]]:
    """Return the updates in such a log so far, in order, by monitor path."""
    text = log.read_text()
    shown: dict[Path, list[Shown]] = {}
    for line in text[: text.rfind("\n") + 1].splitlines():
        path, update = update_in(line)
        shown.setdefault(path, []).append(update)
    return shown


def decoded(stats: Mapping[str, int]) -> dict[str, int]:
    """Rename QMP statistics as in the agent's schemas and drop unset values."""
    return {
        name.removeprefix("stat-").replace("-", "_"): value
        for name, value in stats.items()
        if 0 <= value < _UNSET_FROM
    }


def short_lived(shown: Sequence[Shown], ends_ms: Sequence[float]) -> frozenset[int]:
    """Return the last-update of updates that were visible for less than `PROMISED_MS`.

    An update ends when the next one arrives, or at one of `ends_ms`: something was done to the VM that may
    have removed the update.
    """
    long_lived: set[int] = set()
    for index, update in enumerate(shown):
        following = [each.first_seen_ms for each in shown[index + 1 : index + 2]]
        ends = [end_ms for end_ms in (*following, *ends_ms) if end_ms >= update.first_seen_ms]
        if min(ends, default=float("inf")) - update.first_seen_ms >= PROMISED_MS:
            long_lived.add(update.last_update_s)
    return frozenset(update.last_update_s for update in shown) - long_lived


def compare(
    shown: Sequence[Shown],
    arrived: Sequence[Arrived],
    *,
    until_ms: float,
    steady_after: int = STEADY_AFTER,
    some_left_out: bool = False,
) -> Comparison:
    """Compare the updates shown before `until_ms` with the samples that arrived, from the first sample on.

    Updates within the same second count as one; a sample may have the values of any of them.

    Args:
        shown: one VM's updates, in order.
        arrived: its samples, in order of arrival.
        until_ms: later updates are not expected to arrive; Unix milliseconds.
        steady_after: how many samples at the beginning are left out of the lags.
        some_left_out: whether a sample may lack statistics, as the agent drops impossible values; those
            that are present must match.
    """

    def matches(sample: Mapping[str, int], update: Mapping[str, int]) -> bool:
        return sample == update or (some_left_out and sample.items() <= update.items())

    first: dict[int, float] = {}
    values: dict[int, list[Mapping[str, int]]] = {}
    for update in (each for each in shown if each.last_update_s):  # 0: no update yet
        first.setdefault(update.last_update_s, update.first_seen_ms)
        values.setdefault(update.last_update_s, []).append(update.statistics)
    times = [sample.last_update_s for sample in arrived]
    begin_s = times[0] if times else 0
    expected = [at_s for at_s, seen_ms in first.items() if at_s >= begin_s and seen_ms < until_ms]
    lags = [
        sample.observed_at_ms - first[sample.last_update_s]
        for sample in arrived[steady_after:]
        if sample.last_update_s in first
    ]
    return Comparison(
        updates=len(expected),
        samples=len(arrived),
        lost=tuple(at_s for at_s in expected if at_s not in set(times)),
        invented=tuple(at_s for at_s in times if at_s not in first),
        repeated=tuple(sorted({at_s for at_s in times if times.count(at_s) > 1})),
        disordered=times != sorted(times),
        wrong=tuple(
            sample.last_update_s
            for sample in arrived
            if sample.last_update_s in values
            and not any(matches(sample.statistics, update) for update in values[sample.last_update_s])
        ),
        lags_ms=tuple(lags),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which the fraction `share` of `values` lies; NaN if there are no values."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")
