"""The task of one record sink: takes batches from its queue and performs what core/delivery.py decides.

Whatever a sink raises is its own trouble: the batch stays queued, the sink is degraded and tried again. A
batch that is not accepted yet, for a reason that the sink knows, counts as trouble after a second.
"""

import math
from collections.abc import Callable, Sequence

import anyio
import structlog

from agent.core import delivery
from agent.core.delivery import Delivery, DeliverySettings, Send, Stop, Wait
from agent.core.health import Health, Status
from agent.core.reading import Record
from agent.core.wording import counted
from agent.errors import OutputClosed, SinkUnavailable
from agent.runtime import clock
from agent.runtime.containment import is_canceled, unexpected
from agent.sinks.record_sink import Receipt, RecordSink
from agent.spool.record_queue import DeadLetter, RecordQueue
from agent.telemetry import Count, Counters

log = structlog.get_logger("barograph.delivery")

_PATIENCE_S = 1.0  # before a batch in flight is trouble
_LOOK_EVERY_S = 0.5


class Deliverer:
    """Delivers one queue to one sink, in order, until closed."""

    def __init__(
        self,
        sink: RecordSink,
        queue: RecordQueue,
        counters: Counters,
        settings: DeliverySettings,
        *,
        on_output_closed: Callable[[], None],
    ) -> None:
        self._sink = sink
        self._queue = queue
        self._counters = counters
        self._settings = settings
        self._on_output_closed = on_output_closed  # stops the agent
        self._delivery = Delivery()
        self._settled = 0  # records, since the start
        self._pause: anyio.CancelScope | None = None  # the last wait
        self._problem: str | None = None  # why the last attempt failed, or why the present one lasts
        self._is_reported = False  # the trouble is in the log
        self._sending_since_s: float | None = None
        self._sending = anyio.Event()  # set when a batch is being sent
        self._delivers = False  # at least one batch was accepted
        self.done = anyio.Event()

    @property
    def name(self) -> str:
        """The name of the sink."""
        return self._sink.name

    @property
    def status(self) -> Status:
        """The health of the sink, according to the last attempt."""
        queued = f"{counted(self._queue.held, 'record')} queued"
        if self._problem is not None:
            return Status(Health.DEGRADED, self._problem, queued)
        return Status(Health.OK if self._delivers else Health.STARTING, queued)

    def close(self) -> None:
        """Deliver what is queued without retries, then stop. `done` is set at the end."""
        self._delivery = delivery.close(self._delivery)
        if self._pause is not None:
            self._pause.cancel()

    async def run(self) -> None:
        """Deliver until closed or canceled. The queue keeps or counts the records that are left."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._look)
                await self._deliver()
                group.cancel_scope.cancel()
        finally:
            dropped = self._queue.abandon()
            if dropped:
                detail = "raise shutdown.deadline, or set spool.mode to disk"
                log.error("records dropped at shutdown", sink=self._sink.name, records=dropped, detail=detail)
            self.done.set()
            try:
                await self._sink.aclose()
            except Exception as error:  # noqa: BLE001 - the boundary of a sink
                unexpected(self._sink.name, error)

    async def _deliver(self) -> None:
        while True:
            now_ns = clock.now().mono_ns
            match delivery.next_action(self._delivery, queued=self._queue.waiting, now_ns=now_ns):
                case Send():
                    await self._attempt()
                case Wait(until_ns):
                    await self._wait(until_ns, now_ns)
                case Stop():
                    return

    async def _attempt(self) -> None:
        """Send a batch, and contain whatever the sink raises. The queue keeps a batch that is not settled."""
        self._sending_since_s = anyio.current_time()
        self._sending.set()
        try:
            await self._send()
        except SinkUnavailable as error:
            self._unavailable(str(error), error.retry_after_s)
        except OutputClosed:
            self._on_output_closed()
            self._delivery = delivery.output_closed(self._delivery)
        except anyio.get_cancelled_exc_class() as error:
            if is_canceled():
                raise
            self._unavailable(unexpected(self._sink.name, error))  # the sink waited for something canceled
        except Exception as error:  # noqa: BLE001 - the boundary of a sink
            self._unavailable(unexpected(self._sink.name, error))
        finally:
            self._sending_since_s = None

    async def _look(self) -> None:
        """Report why the present batch lasts, while the sink itself still tries."""
        while True:
            if self._sending_since_s is None:
                self._sending = anyio.Event()
                await self._sending.wait()
            await anyio.sleep(_LOOK_EVERY_S)
            since_s = self._sending_since_s
            if since_s is not None and anyio.current_time() - since_s >= _PATIENCE_S:
                problem = self._sink.problem
                if problem is not None:
                    self._report(problem)

    async def _send(self) -> None:
        begun_ns = clock.now().mono_ns
        total = self._settled + self._queue.held
        self._delivery = delivery.arrived(self._delivery, total=total, now_ns=begun_ns)
        records_max = delivery.batch_max(
            self._delivery, sink_max=self._sink.batch_records_max, settings=self._settings
        )
        batch = await self._queue.take(records_max=records_max, size_bytes_max=self._sink.batch_bytes_max)
        if not batch:
            return
        left = self._queue.waiting - len(batch)
        receipt = await self._sink.send(batch)
        if self._is_reported:
            log.info("sink available again", sink=self._sink.name, failures=self._delivery.failures)
        self._delivery = delivery.accepted(self._delivery)
        self._problem, self._is_reported, self._delivers = None, False, True
        refused = self._refused(batch, receipt)
        delivered = len(batch) - len(refused) - sum(receipt.lost.values())
        self._counters.add(Count.DELIVERED, delivered, reason=self._sink.name)
        for reason, records in receipt.lost.items():
            self._counters.add(Count.DROPPED, records, reason=f"{self._sink.name}:{reason}")
        if receipt.restamped:
            self._counters.add(Count.RESTAMPED, receipt.restamped)
        await self._queue.settle(refused)
        self._settled += len(batch)
        self._delivery = delivery.sent(
            self._delivery,
            begun_ns=begun_ns,
            records=len(batch),
            left=left,
            settings=self._settings,
        )

    def _refused(self, batch: Sequence[Record], receipt: Receipt) -> Sequence[DeadLetter]:
        now_ms = clock.now().unix_ms
        refused = [
            DeadLetter(batch[each.index], each.reason, each.detail, now_ms) for each in receipt.refused
        ]
        for each in refused:
            log.error(
                "record refused",
                sink=self._sink.name,
                id=each.record.id,
                reason=each.reason,
                detail=each.detail,
            )
        return refused

    def _report(self, problem: str) -> None:
        self._problem = problem
        if not self._is_reported and not self._delivery.closing:
            self._is_reported = True
            log.warning("sink unavailable", sink=self._sink.name, problem=problem, queued=self._queue.waiting)

    def _unavailable(self, problem: str, retry_after_s: float | None = None) -> None:
        self._counters.add(Count.DELIVERY_FAILURES, reason=self._sink.name)
        self._report(problem)
        retry_after_ns = None if retry_after_s is None else int(retry_after_s * 1e9)
        self._delivery = delivery.unavailable(
            self._delivery,
            now_ns=clock.now().mono_ns,
            retry_after_ns=retry_after_ns,
            chance=clock.chance(),
            settings=self._settings,
        )

    async def _wait(self, until_ns: int | None, now_ns: int) -> None:
        delay_s = math.inf if until_ns is None else (until_ns - now_ns) / 1e9
        with anyio.move_on_after(delay_s) as self._pause:
            if until_ns is None:
                await self._queue.arrival()
            else:
                await anyio.sleep_forever()
