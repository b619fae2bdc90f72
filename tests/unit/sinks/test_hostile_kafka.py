"""Tests of delivery to a Kafka that answers anything: no error escapes, and every loss is counted.

`BAROGRAPH_ODD_SEED` sets the seed of the answers, `BAROGRAPH_ODD_ANSWERS` their number in the long form.
"""

import asyncio
import logging
import os
import resource
import socket
import time
import traceback
from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

from agent.core.delivery import DeliverySettings
from agent.runtime.deliver import Deliverer
from agent.sinks import kafka_connection
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_settings import Sasl, Settings
from agent.spool.memory import MemoryBuffer
from agent.telemetry import Count, Counters
from tests.lab.odd_kafka import OddKafka
from tests.lab.scripted_kafka import Peer, scripted_kafka
from tests.unit.sinks.records import record

SINKS = 24
SCRAM = Sasl(mechanism="SCRAM-SHA-256", username="barograph", password="hunter2")
QUICK = DeliverySettings(first_retry_ns=1_000_000, longest_retry_ns=20_000_000)
QUEUED_MAX = 50
REASONS = ("full", "too_large", "invalid", "shutdown")
BUFFER_BYTES = 1_500  # less than QUEUED_MAX records need, so some are dropped and counted


@dataclass
class Seen:
    """The log events, unhandled errors and measurements of a run."""

    events: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    loop_errors: list[str] = field(default_factory=list[str])
    lags_ms: list[float] = field(default_factory=list[float])
    memory_mib: list[float] = field(default_factory=list[float])

    def note(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """Record an error that no task has handled, except that of a batch that the sink has given up."""
        if context["message"] == "Future exception was never retrieved":
            return
        error = context.get("exception")
        places = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
        self.loop_errors.append(f"{context['message']} {places}")

    def count(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Count a log event, and drop it."""
        self.events[event["event"]] += 1
        if event["event"] == "sink failed":
            self.failures[f"{event['error']} {event['places']}"] += 1
        assert "hunter2" not in str(event)
        raise structlog.DropEvent


def sink_to(address: str, number: int) -> KafkaSink:
    settings = Settings(
        bootstrap_servers=(address,),
        compression="none",
        sasl=SCRAM if number % 2 else None,
        request_timeout_s=1.0,
        delivery_timeout_s=5.0,
    )
    return KafkaSink(settings, "samples", f"q{number}")


async def survive(answers: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[OddKafka, Seen]:
    """Deliver to an odd broker until it has sent `answers`, and check that each record is accounted for."""

    def look_up(host: str, _port: int) -> list[tuple[int, object]]:
        raise socket.gaierror(-2, f"no name is resolved here: {len(host)}")

    monkeypatch.setattr(kafka_connection, "_look_up", look_up)
    monkeypatch.setattr("agent.sinks.kafka_client._RETRY_BACKOFF_MS", 20)
    logging.getLogger("asyncio").setLevel(
        logging.CRITICAL
    )  # it warns when the peer writes to a closed socket
    seen, counters, odd = Seen(), Counters(), OddKafka(seed, answers)
    asyncio.get_running_loop().set_exception_handler(seen.note)
    before = structlog.get_config()
    structlog.configure(processors=[seen.count], cache_logger_on_first_use=False)
    peer, made = Peer(send=odd.send), 0
    queues = [MemoryBuffer(f"q{number}", BUFFER_BYTES, counters) for number in range(SINKS)]
    try:
        async with scripted_kafka(peer) as address:
            deliverers = [
                Deliverer(sink_to(address, number), queue, counters, QUICK, on_output_closed=lambda: None)
                for number, queue in enumerate(queues)
            ]
            async with anyio.create_task_group() as group:
                for deliverer in deliverers:
                    group.start_soon(deliverer.run)
                group.start_soon(measure, seen)
                while not odd.is_done:
                    for queue in queues:
                        for _ in range(QUEUED_MAX - min(queue.held, QUEUED_MAX)):
                            queue.append(record(made, key=f"vm-{made % 9}"))
                            made += 1
                    await anyio.sleep(0.02)
                with anyio.fail_after(180):  # the broker now answers correctly, so everything arrives
                    while any(queue.held for queue in queues):  # noqa: ASYNC110 - there is no event for it
                        await anyio.sleep(0.02)
                group.cancel_scope.cancel()
    finally:
        structlog.configure(**before)
    delivered = sum(counters.total(Count.DELIVERED, queue) for queue in names())
    dropped: Counter[str] = Counter()
    for name in names():
        of_queue = {reason: counters.total(Count.DROPPED, f"{name}:{reason}") for reason in REASONS}
        dropped.update(of_queue)
        settled = counters.total(Count.DELIVERED, name) + sum(of_queue.values())
        assert counters.total(Count.QUEUED, name) == settled
    assert delivered <= peer.records
    assert not seen.failures
    assert not seen.loop_errors
    print(f"{odd.answers} answers {dict(odd.kinds)}")
    print(f"{made} records, {delivered} delivered, dropped {dict(dropped)}; {dict(seen.events)}")
    print(f"memory {seen.memory_mib[0]:.0f} to {max(seen.memory_mib):.0f} MiB")
    return odd, seen


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def names() -> list[str]:
    return [f"q{number}" for number in range(SINKS)]


async def measure(seen: Seen) -> None:
    """Record the lag of the event loop, and the resident memory."""
    while True:
        began_s = time.monotonic()
        await anyio.sleep(0.02)
        seen.lags_ms.append((time.monotonic() - began_s - 0.02) * 1000)
        if len(seen.lags_ms) % 25 == 1:
            seen.memory_mib.append(resident_mib())


@pytest.mark.slow
async def test_an_odd_broker_causes_no_lost_record_and_no_unhandled_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = int(os.environ.get("BAROGRAPH_ODD_SEED", "15"))

    odd, seen = await survive(1500, seed, monkeypatch)

    assert len(odd.kinds) > 8
    assert max(seen.memory_mib) - seen.memory_mib[0] < 150


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_hundred_thousand_odd_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(os.environ.get("BAROGRAPH_ODD_SEED", str(time.time_ns() % 2**31)))
    print(f"seed {seed}")

    _, seen = await survive(int(os.environ.get("BAROGRAPH_ODD_ANSWERS", "100000")), seed, monkeypatch)

    assert max(seen.memory_mib) - seen.memory_mib[0] < 150
    lags_ms = sorted(seen.lags_ms)
    print(
        f"lag of the event loop: p99 {lags_ms[len(lags_ms) * 99 // 100]:.0f} ms, worst {lags_ms[-1]:.0f} ms"
    )
