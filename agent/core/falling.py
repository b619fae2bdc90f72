"""What it means that counters fell: a new boot, a wrap at 32 bits, or a statistic that is no counter.

A boot sets all counters back, while a wrap or a rate concerns one of several. So a counter that is above 0
and does not fall is a witness that the guest runs on. Old Windows balloon services send rates as counters,
and 32-bit guests count in 32 bits: events, KiB, or pages of 4 KiB.
"""

from collections.abc import Mapping
from dataclasses import dataclass

WRAPS = (1 << 32, 1 << 42, 1 << 44)
"""Where a 32-bit count of events, of KiB, and of pages of 4 KiB starts again from 0."""

FALLS_AGAIN_WITHIN = 10
"""Samples within which a second fall without a witness shows a rate: guests do not boot that often."""


@dataclass(frozen=True, slots=True)
class Fall:
    """What a reading's falls mean. `restarted`: the guest booted, or an older state was loaded."""

    restarted: bool = False
    fell: frozenset[str] = frozenset()
    no_counters: frozenset[str] = frozenset()  # newly found


NO_FALL = Fall()


def judge_fall(
    before: Mapping[str, int],
    after: Mapping[str, int],
    *,
    no_counters: frozenset[str],
    fell_before: frozenset[str],
    sequence: int,
    steady: bool,
    told: bool,
) -> Fall:
    """Judge the counters of a reading.

    Args:
        before: the newest value of each counter in this epoch.
        after: the statistics of the reading.
        no_counters: those known to be none.
        fell_before: those whose fall ended the epoch before this one.
        sequence: of the last sample in this epoch.
        steady: the update came about one cadence after the one before, and no pause between.
        told: resets and loaded snapshots are events of this link.
    """
    fell = frozenset(
        name for name, value in before.items() if after.get(name, value) < value and name not in no_counters
    )
    if not fell:
        return NO_FALL
    witnessed = any(
        value > 0 and after.get(name, -1) >= value
        for name, value in before.items()
        if name not in no_counters
    )
    if witnessed:
        odd = frozenset(name for name in fell if not _wrapped(before[name], after[name]))
        if not odd:
            return NO_FALL
        if steady and told:
            return Fall(fell=fell, no_counters=odd)
    again = fell & fell_before
    if again and again == fell and steady and sequence <= FALLS_AGAIN_WITHIN:
        return Fall(fell=fell, no_counters=again)
    return Fall(restarted=True, fell=fell)


def _wrapped(before: int, after: int) -> bool:
    return any(wrap * 3 // 4 <= before < wrap and after < wrap // 4 for wrap in WRAPS)
