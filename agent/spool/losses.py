"""The log lines about records that the spool dropped: at most one a minute for each table and reason."""

import math
from collections import Counter
from collections.abc import Mapping

import anyio
import structlog

from agent.spool.queues import DEAD_LETTERS, Queue
from agent.spool.store import Dropped, Loss

log = structlog.get_logger("barograph.spool")

_LOG_EVERY_S = 60.0

_WHAT_TO_DO: Mapping[str, str] = {
    Queue.LOGS: "restore the OTLP backend, or raise spool.size or spool.age",
    DEAD_LETTERS: "requeue or drop dead letters, or raise spool.size",
}


class LossLog:
    """Collects what commits dropped."""

    def __init__(self) -> None:
        self._losses: Counter[tuple[str, Loss]] = Counter()  # not logged yet
        self._logged_at_s = -math.inf
        self._dropped_at_s = -math.inf

    @property
    def is_losing(self) -> bool:
        """Whether records were dropped within the last minute."""
        return anyio.current_time() < self._dropped_at_s + _LOG_EVERY_S

    def add(self, dropped: Dropped) -> None:
        """Take what one commit dropped."""
        if not dropped:
            return
        now_s = self._dropped_at_s = anyio.current_time()
        self._losses.update(dropped)
        if now_s < self._logged_at_s + _LOG_EVERY_S:
            return
        for (table, loss), count in self._losses.items():
            detail = _WHAT_TO_DO.get(table, "restore Kafka, or raise spool.size or spool.age")
            log.error("oldest records dropped", table=table, reason=loss.value, records=count, detail=detail)
        self._losses.clear()
        self._logged_at_s = now_s
