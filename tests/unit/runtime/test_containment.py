"""Tests that an exception in a sink degrades only that sink: its records stay, and it is retried."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from structlog.testing import capture_logs

from agent.core.delivery import DeliverySettings
from agent.core.health import Health, Status
from agent.core.reading import Record, VmView
from agent.runtime.containment import Contained
from agent.runtime.deliver import Deliverer
from agent.sinks.record_sink import Receipt, RefusedRecord
from agent.spool.memory import MemoryBuffer
from agent.telemetry import Count, Counters
from tests.unit.sinks.records import record

SECRET = "hunter2"
QUICK = DeliverySettings(first_retry_ns=1_000_000, longest_retry_ns=4_000_000)


async def wait_for_something_canceled() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


FAILURES = {
    "ValueError": raising(ValueError(SECRET)),
    "KeyError": raising(KeyError(SECRET)),
    "NotImplementedError": raising(NotImplementedError(SECRET)),
    "AssertionError": raising(AssertionError(SECRET)),
    "RecursionError": raising(RecursionError(SECRET)),
    "MemoryError": raising(MemoryError()),
    "RuntimeError": raising(ExceptionGroup("of a task group", [RuntimeError(SECRET)])),
    "CancelledError": wait_for_something_canceled,
}


class Sink:
    """A sink that fails a few times in one way."""

    name = "odd"
    batch_bytes_max = 1 << 20
    batch_records_max = 100

    def __init__(self, fail: Callable[[], Awaitable[None]], times: int) -> None:
        self.problem: str | None = None
        self.taken: list[str] = []
        self._fail = fail
        self._times = times

    async def send(self, records: Sequence[Record]) -> Receipt:
        if self._times:
            self._times -= 1
            await self._fail()
        self.taken += [each.id for each in records]
        return Receipt()

    async def aclose(self) -> None:
        raise ValueError(SECRET)


@asynccontextmanager
async def delivering(sink: Sink, counters: Counters) -> AsyncGenerator[tuple[Deliverer, MemoryBuffer]]:
    queue = MemoryBuffer("odd", 1 << 20, counters)
    deliverer = Deliverer(sink, queue, counters, QUICK, on_output_closed=lambda: None)
    async with anyio.create_task_group() as group:
        group.start_soon(deliverer.run)
        yield deliverer, queue
        deliverer.close()


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    with anyio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - what it depends on is the product's own
            await anyio.sleep(0.001)


@pytest.mark.parametrize("name", FAILURES)
async def test_records_arrive_later_after_any_exception_of_a_sink(name: str) -> None:
    counters, sink = Counters(), Sink(FAILURES[name], times=3)
    with capture_logs() as logs:
        async with delivering(sink, counters) as (deliverer, queue):
            queue.append(record(1))
            await until(lambda: deliverer.status.health is Health.DEGRADED)
            words = deliverer.status.why
            await until(lambda: sink.taken == ["id-1"])
            await until(lambda: deliverer.status.health is Health.OK)

    assert f"unexpected {name} in the sink" in words
    assert counters.total(Count.DELIVERY_FAILURES, "odd") == 3
    assert counters.total(Count.DELIVERED, "odd") == 1
    events = [each["event"] for each in logs]
    assert events.count("sink unavailable") == events.count("sink available again") == 1
    assert SECRET not in str(logs)
    places = [each["places"] for each in logs if each["event"] == "sink failed"]
    assert all("test_containment.py:" in each for each in places)


async def test_a_receipt_that_makes_no_sense_loses_no_record() -> None:
    counters, sink = Counters(), Sink(FAILURES["ValueError"], times=0)
    answers = [Receipt((RefusedRecord(7, "invalid", "no such record"),)), Receipt()]
    send = sink.send

    async def odd_once(records: Sequence[Record]) -> Receipt:
        await send(records)
        return answers.pop(0)

    sink.send = odd_once
    async with delivering(sink, counters) as (_, queue):
        queue.append(record(1))
        await until(lambda: counters.total(Count.DELIVERED, "odd") == 1)

    assert sink.taken == ["id-1", "id-1"]


async def test_canceling_the_delivery_is_not_a_failure() -> None:
    counters = Counters()
    sink = Sink(lambda: anyio.sleep(60), times=1)
    queue = MemoryBuffer("odd", 1 << 20, counters)
    deliverer = Deliverer(sink, queue, counters, QUICK, on_output_closed=lambda: None)
    queue.append(record(1))

    with anyio.move_on_after(0.1):
        await deliverer.run()

    assert counters.total(Count.DELIVERY_FAILURES, "odd") == 0
    assert counters.total(Count.DROPPED, "odd:shutdown") == 1


async def test_a_batch_that_is_not_accepted_for_a_known_reason_degrades_the_sink_meanwhile() -> None:
    counters, release = Counters(), anyio.Event()
    sink = Sink(release.wait, times=1)
    with capture_logs() as logs:
        async with delivering(sink, counters) as (deliverer, queue):
            queue.append(record(1))
            began_s = time.monotonic()
            await until(lambda: bool(queue.waiting))
            sink.problem = "the broker advertises nonsense"
            assert deliverer.status.health is Health.STARTING
            await until(lambda: deliverer.status.health is Health.DEGRADED)
            took_s, words = time.monotonic() - began_s, deliverer.status.why
            release.set()
            await until(lambda: deliverer.status.health is Health.OK)

    assert 1 <= took_s < 30
    assert words.startswith("the broker advertises nonsense")
    assert [each["event"] for each in logs[:2]] == ["sink unavailable", "sink available again"]


class Exporter:
    """An exporting sink that fails a few times."""

    def __init__(self, fail: Callable[[], Awaitable[None]], times: int) -> None:
        self.status = Status(Health.STARTING, "nothing exported yet")
        self.runs = 0
        self._fail = fail
        self._times = times

    async def run(self, views: Callable[[], Sequence[VmView]]) -> None:
        self.runs += 1
        if self._times:
            self._times -= 1
            await self._fail()
        self.status = Status(Health.OK, "exporting")
        await anyio.sleep_forever()

    async def finish(self, deadline_s: float) -> None:
        raise ValueError(SECRET)


async def test_an_exporting_sink_that_fails_is_degraded_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.runtime.containment._STEADY_S", 0.2)
    counters, sink = Counters(), Exporter(FAILURES["KeyError"], times=2)
    contained = Contained("otlp", sink, counters)
    with capture_logs() as logs:
        async with anyio.create_task_group() as group:
            group.start_soon(contained.run, lambda: ())
            await until(lambda: contained.status.health is Health.DEGRADED)
            assert "unexpected KeyError in the sink" in contained.status.why
            await until(lambda: contained.status.health is Health.OK)
            group.cancel_scope.cancel()
        await contained.finish(1.0)

    assert sink.runs == 3
    assert [each["event"] for each in logs] == [*["sink failed"] * 2, "sink available again", "sink failed"]
    assert SECRET not in str(logs)
