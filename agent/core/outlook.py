"""How fast each queue drains, and when the spool will be full: from readings some seconds apart. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

READINGS_MAX = 31
"""At `EVERY_S`, five minutes: rates over less would jump with each batch."""

EVERY_S = 10


@dataclass(frozen=True, slots=True)
class QueueReading:
    """One queue at one instant."""

    size: int  # records queued
    added: int  # since the start, delivered or not
    delivered: int  # since the start
    oldest_ms: int | None  # when its next record was observed; None: there is none, or it is on disk


@dataclass(frozen=True, slots=True)
class Reading:
    """All queues at one instant."""

    at_ns: int  # of the monotonic clock
    queues: Mapping[str, QueueReading]  # by sink
    spool_used_bytes: int | None  # None: no spool


@dataclass(frozen=True, slots=True)
class QueueOutlook:
    """One queue now. Rates are `None` before the second reading."""

    size: int
    oldest_ms: int | None
    added_per_s: float | None
    delivered_per_s: float | None
    empty_in_s: float | None  # None: it does not shrink, or nothing is queued


@dataclass(frozen=True, slots=True)
class SpoolOutlook:
    """The spool now."""

    used_bytes: int
    limit_bytes: int
    growth_bytes_per_s: float | None
    full_in_s: float | None  # None: it does not grow


@dataclass(frozen=True, slots=True)
class Outlook:
    """All queues and the spool now."""

    queues: Mapping[str, QueueOutlook]
    spool: SpoolOutlook | None


class Readings:
    """The readings of the last minutes. Owned by the event loop's thread."""

    def __init__(self, spool_limit_bytes: int | None) -> None:
        self._spool_limit_bytes = spool_limit_bytes
        self._readings: deque[Reading] = deque(maxlen=READINGS_MAX)

    def __len__(self) -> int:
        return len(self._readings)

    def add(self, reading: Reading) -> None:
        """Add a reading; the oldest is forgotten."""
        self._readings.append(reading)

    def outlook(self, now: Reading) -> Outlook:
        """Return the outlook from the oldest reading to `now`, which is not kept."""
        first = self._readings[0] if self._readings else now
        elapsed_s = (now.at_ns - first.at_ns) / 1e9
        queues = {sink: _queue(first.queues.get(sink), each, elapsed_s) for sink, each in now.queues.items()}
        return Outlook(queues, self._spool(first, now, elapsed_s))

    def _spool(self, first: Reading, now: Reading, elapsed_s: float) -> SpoolOutlook | None:
        used, limit = now.spool_used_bytes, self._spool_limit_bytes
        if used is None or limit is None:
            return None
        before = first.spool_used_bytes
        growth = None if before is None or elapsed_s < EVERY_S else (used - before) / elapsed_s
        full_in_s = None if growth is None or growth <= 0 else max(0, limit - used) / growth
        return SpoolOutlook(used, limit, growth, full_in_s)


def _queue(before: QueueReading | None, now: QueueReading, elapsed_s: float) -> QueueOutlook:
    if before is None or elapsed_s < EVERY_S:
        return QueueOutlook(now.size, now.oldest_ms, None, None, None)
    added = (now.added - before.added) / elapsed_s
    delivered = (now.delivered - before.delivered) / elapsed_s
    falls = delivered - added
    empty_in_s = now.size / falls if now.size and falls > 0 else None
    return QueueOutlook(now.size, now.oldest_ms, added, delivered, empty_in_s)
