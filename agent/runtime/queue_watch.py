"""Reads the queues and the spool every ten seconds, for the outlook on the page."""

from collections.abc import Mapping

import anyio

from agent.core import outlook
from agent.core.outlook import Outlook, QueueReading, Reading, Readings
from agent.runtime import clock
from agent.spool.disk import DiskSpool
from agent.spool.record_queue import RecordQueue
from agent.telemetry import Count, Counters


class QueueWatch:
    """Owned by the event loop's thread."""

    def __init__(
        self,
        queues: Mapping[str, RecordQueue],
        counters: Counters,
        spool: DiskSpool | None,
        spool_limit_bytes: int | None,
    ) -> None:
        self._queues = queues  # by sink
        self._counters = counters
        self._spool = spool
        self._readings = Readings(spool_limit_bytes)

    async def run(self) -> None:
        """Read until canceled."""
        while True:
            self._readings.add(self._read())
            await anyio.sleep(outlook.EVERY_S)

    def outlook(self) -> Outlook:
        """Return the outlook now."""
        return self._readings.outlook(self._read())

    def _read(self) -> Reading:
        queues = {
            sink: QueueReading(
                queue.held,
                self._counters.total(Count.QUEUED, sink),
                self._counters.total(Count.DELIVERED, sink),
                queue.oldest_ms,
            )
            for sink, queue in self._queues.items()
        }
        used = None if self._spool is None else self._spool.totals.used_bytes
        return Reading(clock.now().mono_ns, queues, used)
