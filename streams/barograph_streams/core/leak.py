"""Whether a guest leaks memory: the slope of its daily minimum of used memory, within an epoch.

The minimum of a day leaves out what programs use for a time. The slope is that of Theil and Sen: the median
of the slopes of all pairs of days, which single odd days do not change. Source: P. K. Sen, Estimates of the
Regression Coefficient Based on Kendall's Tau, 1968.
"""

from collections.abc import Sequence
from itertools import combinations
from statistics import median, quantiles

from msgspec import Struct

from barograph_streams.core.daily import Day

DAYS_KEPT = 14
DAYS_MIN = 3
"""Complete days, below which there is no slope."""

CONFIDENT_DAYS = 7
"""With so many days and all pairs rising, the confidence is 1."""

RISE_MIN = 0.01
"""A slope is a leak if it adds up to this share of the total over the days seen: less is noise."""

HOURS_MAX = 87_600.0
"""Ten years: a forecast beyond has no hours."""


class Leak(Struct, frozen=True):
    """What the days of an epoch show."""

    leaking: bool  # three quarters of the pairs rise, by enough
    bytes_per_h: float  # the slope; negative: use falls
    hours_left: float | None  # until nothing is available; None: not leaking, or more than ten years
    confidence: float  # from 0 to 1
    days: int


def leak_of(days: Sequence[Day], available: int, total: int) -> Leak | None:
    """Return the leak that complete days show; `None`: they are too few.

    Args:
        days: the daily minimum of used memory, in bytes.
        available: now, in bytes.
        total: of the guest, in bytes.
    """
    if len(days) < DAYS_MIN:
        return None
    pairs = combinations(days, 2)
    slopes = [(late.value - early.value) * 3600 / (late.at_s - early.at_s) for early, late in pairs]
    slope = median(slopes)
    rise = slope * (days[-1].at_s - days[0].at_s) / 3600
    leaking = rise >= RISE_MIN * total and quantiles(slopes, n=4, method="inclusive")[0] > 0
    hours = available / slope if leaking and slope > 0 else None
    rising = sum(each > 0 for each in slopes) / len(slopes)
    return Leak(
        leaking=leaking,
        bytes_per_h=slope,
        hours_left=hours if hours is not None and hours <= HOURS_MAX else None,
        confidence=rising * min(1.0, len(days) / CONFIDENT_DAYS),
        days=len(days),
    )
