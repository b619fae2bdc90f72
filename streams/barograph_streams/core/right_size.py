"""How much memory a VM needs: a target and bounds, from its daily peaks of used memory.

The method is that of Kubernetes' Vertical Pod Autoscaler: peaks of a day, weights that halve with each day of
age, the 90th percentile and a margin as the target, the 50th and 95th as bounds.
Source: kubernetes/autoscaler, vertical-pod-autoscaler/pkg/recommender.
"""

from collections.abc import Sequence

from msgspec import Struct

from barograph_streams.core.daily import Day

DAYS_KEPT = 8
MARGIN = 1.15
OOM_FACTOR = 1.2
OOM_BYTES = 100 << 20


class RightSize(Struct, frozen=True):
    """What a VM needs, in bytes as the guest counts them (`total_memory`)."""

    target: int
    lower: int
    upper: int
    confidence: float  # from 0 to 1: the share of eight days
    days: int


def after_oom(used: int) -> int:
    """Return the peak that an OOM kill at a use shows."""
    return max(int(used * OOM_FACTOR), used + OOM_BYTES)


def right_size_of(days: Sequence[Day]) -> RightSize | None:
    """Return what daily peaks show; `None`: there is none."""
    if not days:
        return None
    newest = days[-1].day
    weighted = sorted((day.value, 0.5 ** max(0, newest - day.day)) for day in days)
    return RightSize(
        target=int(_percentile(weighted, 0.9) * MARGIN),
        lower=_percentile(weighted, 0.5),
        upper=int(_percentile(weighted, 0.95) * MARGIN),
        confidence=min(1.0, len(days) / DAYS_KEPT),
        days=len(days),
    )


def _percentile(weighted: Sequence[tuple[int, float]], share: float) -> int:
    """Return the least value at or below which there is this share of the weight."""
    total, below = sum(weight for _, weight in weighted), 0.0
    for value, weight in weighted:
        below += weight
        if below >= share * total:
            return value
    return weighted[-1][0]
