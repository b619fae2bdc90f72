"""Keeps the failure of one sink from ending the agent: whatever it raises, only this sink is degraded.

An unexpected error is logged with the places in the code that it passed, without values, since these may be
secrets.
"""

import asyncio
import math
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

import anyio
import structlog

from agent.core import delivery
from agent.core.delivery import Delivery, DeliverySettings
from agent.core.health import Health, Status
from agent.core.reading import VmView
from agent.runtime import clock
from agent.telemetry import Count, Counters

log = structlog.get_logger("barograph.delivery")

_STEADY_S = 10.0
_PLACES = 6


class Exporting(Protocol):
    """A sink with a task of its own, which takes the newest values instead of records."""

    @property
    def status(self) -> Status:
        """The health of the sink, as it sees it."""
        ...

    async def run(self, views: Callable[[], Sequence[VmView]]) -> None:
        """Export until canceled. It can be called again."""
        ...

    async def finish(self, deadline_s: float) -> None:
        """Export a last time, up to the deadline."""
        ...


class Contained:
    """Runs the task of a sink, and starts it again after a pause if it fails."""

    def __init__(self, name: str, sink: Exporting, counters: Counters) -> None:
        """Start nothing yet."""
        self._name = name
        self._sink = sink
        self._counters = counters
        self._delivery = Delivery()
        self._problem: str | None = None

    @property
    def status(self) -> Status:
        """The health of the sink: degraded from a failure until its task has run for some time again."""
        status = self._sink.status
        if self._problem is None or status.health is Health.DEGRADED:
            return status
        return Status(Health.DEGRADED, self._problem)

    async def run(self, views: Callable[[], Sequence[VmView]]) -> None:
        """Run the task until canceled."""
        while True:
            try:
                async with anyio.create_task_group() as group:
                    if self._problem is not None:
                        group.start_soon(self._recover)
                    await self._sink.run(views)
                    group.cancel_scope.cancel()
                return
            except Exception as error:  # noqa: BLE001 - the boundary of a sink
                self._problem = unexpected(self._name, error)
                self._counters.add(Count.DELIVERY_FAILURES, reason=self._name)
            self._delivery = delivery.unavailable(
                self._delivery,
                now_ns=clock.now().mono_ns,
                retry_after_ns=None,
                chance=clock.chance(),
                settings=DeliverySettings(),
            )
            await anyio.sleep((self._delivery.retry_at_ns - clock.now().mono_ns) / 1e9)

    async def finish(self, deadline_s: float) -> None:
        """Export a last time, up to the deadline."""
        try:
            await self._sink.finish(deadline_s)
        except Exception as error:  # noqa: BLE001 - the boundary of a sink
            unexpected(self._name, error)

    async def _recover(self) -> None:
        await anyio.sleep(_STEADY_S)
        self._problem = None
        self._delivery = delivery.accepted(self._delivery)
        log.info("sink available again", sink=self._name)


def unexpected(sink: str, error: BaseException) -> str:
    """Log an error that no sink should raise, and return it for people."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    places = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in reversed(traceback.extract_tb(cause.__traceback__ or error.__traceback__)[-_PLACES:])
    )
    detail = "a bug in the agent; report it with this log line"
    log.error("sink failed", sink=sink, error=type(cause).__name__, places=places, detail=detail)
    return f"unexpected {type(cause).__name__} in the sink; see the log, and report it"


def is_canceled() -> bool:
    """Whether the current task is being canceled, as opposed to something it waited for."""
    task = asyncio.current_task()
    return (task is not None and task.cancelling() > 0) or anyio.current_effective_deadline() == -math.inf
