"""What it means that counters fell: a restart, a wrap at 32 bits, or a statistic that is not a counter.

A restart is a boot, or a snapshot that was loaded: it sets all counters back. A wrap or a rate concerns one
of several: 32-bit guests count events, KiB, or pages of 4 KiB in 32 bits, and old Windows balloon services
send rates as counters. So a counter above 0 that did not fall is a witness that the guest runs on. What a
witness proves:

- A counter that kept its value shows an idle guest. But a small count may be the same after a boot by chance,
  and a loaded snapshot keeps each count that has not changed since it was saved.
- A counter that rose shows that the guest counted on. No snapshot of the guest's own past is above the newest
  count. But a snapshot of another course of events may be, and so may a boot after a very short one.
- The counters of `SAME_AT_EACH_BOOT` show nothing.

No single witness is proof, so they are counted. The first of these rules that fits decides:

1. Every fall is a wrap, and there is a witness: no restart.
2. A restart and a loaded snapshot would be events of this link, the update came on the cadence, and the
   witnesses are at least as many as the falls that are no wraps: these are rates. A restart without an event
   (kexec) leaves one count as it was by chance, but not as many as it sets back.
3. Only counters fell whose falls ended an epoch just before, the update came on the cadence, and another
   counter rose, or the guest is known to send rates, or one counter fell alone: rates. Several counters that
   fall together again and again belong to a guest that boots again and again.
4. Otherwise it is a restart.

Where resets and loaded snapshots are no events, a first fall always ends the epoch, even beside counters that
rose: a snapshot of another course of events and a boot after a short one look the same. An epoch too many
costs a reader one difference; an epoch too few gives it a wrong one.

A statistic that is known to be a rate is a counter again once it has only grown for long (`keep_rates`):
another system may have booted unseen, or a restart was taken for a rate.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

WRAPS = (1 << 32, 1 << 42, 1 << 44)
"""Where a 32-bit count of events, of KiB, and of pages of 4 KiB starts again from 0."""

SAME_AT_EACH_BOOT = frozenset({"htlb_pgalloc", "htlb_pgfail", "oom_kills"})
"""Counters that each boot sets to the same value: huge pages are allocated at boot, and kills are few."""

FALLS_AGAIN_WITHIN = 10
"""Samples within which a second fall shows a rate: guests do not boot that often."""

GROWN_AGAIN = 20
"""Rises in a row, without a fall, after which a statistic is a counter: no rate rises for that long."""


@dataclass(frozen=True, slots=True)
class Fall:
    """What a reading's falls mean.

    `restarted`: the guest booted, or a snapshot was loaded. `fell`: then the counters to pass as
    `fell_before`. `no_counters`: those newly found to be rates.
    """

    restarted: bool = False
    fell: frozenset[str] = frozenset()
    no_counters: frozenset[str] = frozenset()


NO_FALL = Fall()


def judge_fall(
    before: Mapping[str, int],
    after: Mapping[str, int],
    *,
    no_counters: Collection[str],
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
        fell_before: those whose falls ended the epochs before this one.
        sequence: of the last sample in this epoch.
        steady: the update came about one cadence after the one before, and no pause between.
        told: resets and loaded snapshots are events of this link.
    """
    fell = frozenset(
        [name for name, value in before.items() if after.get(name, value) < value and name not in no_counters]
    )
    if not fell:
        return NO_FALL
    witnesses = [
        name
        for name, value in before.items()
        if 0 < value <= after.get(name, -1) and name not in no_counters and name not in SAME_AT_EACH_BOOT
    ]
    unexplained = frozenset(name for name in fell if not _wrapped(before[name], after[name]))
    if witnesses and not unexplained:
        return NO_FALL
    if witnesses and steady and told and len(witnesses) >= len(unexplained):
        return Fall(no_counters=unexplained)
    if not no_counters and sequence > FALLS_AGAIN_WITHIN:
        fell_before = frozenset()
    rose = any(after[name] > before[name] for name in witnesses)
    if steady and fell <= fell_before and (rose or no_counters or len(fell) == 1):
        return Fall(no_counters=fell)
    return Fall(restarted=True, fell=fell | fell_before)


def keep_rates(
    no_counters: Mapping[str, int], before: Mapping[str, int], after: Mapping[str, int]
) -> Mapping[str, int]:
    """Return the statistics that are still known to be rates after a reading.

    Args:
        no_counters: those known to be rates, each with its rises since its last fall.
        before: the newest value of each counter in this epoch.
        after: the statistics of the reading.
    """
    if not no_counters:
        return no_counters
    kept: dict[str, int] = {}
    for name, rises in no_counters.items():
        value = before.get(name)
        change = 0 if value is None else after.get(name, value) - value
        kept[name] = 0 if change < 0 else rises + (change > 0)
    return {name: rises for name, rises in kept.items() if rises < GROWN_AGAIN}


def _wrapped(before: int, after: int) -> bool:
    return any(wrap * 3 // 4 <= before < wrap and after < wrap // 4 for wrap in WRAPS)
