"""Tests of the agent's own telemetry with a scripted backend, a real Collector and a real Prometheus 3."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
from structlog.testing import capture_logs

from agent.contract.metrics import SCHEMA_URL
from agent.core.health import Health
from agent.core.host_memory import VmShare, sums_of
from agent.sinks.otlp_own import OwnTelemetry
from agent.sinks.otlp_settings import Settings
from agent.telemetry import INSTRUMENTS, LAG, Count, Counters, Levels, Snapshot, snapshot
from tests.golden.documents import HOST_MEMORY_EVENT
from tests.integration.audit import documented
from tests.integration.otlp_backends import Answer, HttpBackend
from tests.lab.collector import Collector, problems
from tests.lab.prometheus import Prometheus
from tests.unit.sinks.views import AGENT

LEVELS = Levels(
    waiting={"kafka.samples": 4},
    oldest_age_s={"kafka.samples": 2.5},
    components={"spool": Health.OK},
    spool_used_bytes=7,
    spool_limit_bytes=1 << 30,
    dead_letters=0,
    host_memory=replace(HOST_MEMORY_EVENT, vms=sums_of([VmShare(True, 1, 2, 3)])),
)
PAGE = Path(__file__).parents[2] / "docs/metrics.md"


def settings(endpoint: str, timeout_s: float = 10.0) -> Settings:
    return Settings(endpoint=endpoint, protocol="http", interval_s=0.2, timeout_s=timeout_s)


async def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - what arrives elsewhere sets no event here
            await anyio.sleep(0.01)


async def test_every_instrument_arrives_and_a_count_grows(own_collector: Collector) -> None:
    counters = Counters()
    own = OwnTelemetry(settings(own_collector.http), AGENT, lambda: snapshot(counters, LEVELS))

    own.start()
    counters.add(Count.SAMPLES, 3)
    counters.lag.record(0.004)
    await until(lambda: [each for each in own_collector.points() if each.name == "barograph.samples"])
    counters.add(Count.SAMPLES, 2)
    await own.finish(5)
    await until(
        lambda: [each.value for each in own_collector.points() if each.name == "barograph.samples"][-1] == 5
    )

    points = own_collector.points()
    assert problems(points) == []
    assert {(each.name, each.unit, each.kind) for each in points} == {
        (each.metric.name, each.metric.unit, each.metric.kind) for each in INSTRUMENTS
    }
    assert {each.about("service.instance.id") for each in points} == {AGENT.host_id}
    assert {each.schema_urls for each in points} == {(SCHEMA_URL, SCHEMA_URL)}
    assert [each.value for each in points if each.name == LAG.metric.name][-1] == 1


async def test_a_real_prometheus_shows_the_documented_names(own_prometheus: Prometheus) -> None:
    counters = Counters()
    counters.lag.record(0.004)
    own = OwnTelemetry(settings(own_prometheus.otlp), AGENT, lambda: snapshot(counters, LEVELS))

    own.start()
    await until(lambda: own_prometheus.query('{__name__="barograph_samples_total"}'))
    await own.finish(5)

    found = own_prometheus.query('{job="barograph"}')
    names = {
        re.sub("(?<=barograph_lag_seconds)_(bucket|count|sum)$", "", each["metric"]["__name__"])
        for each in found
    }
    assert names - {"target_info"} == {name for name in documented(PAGE) if not name.startswith("qemu_vm_")}
    assert {each["metric"]["instance"] for each in found} == {AGENT.host_id}


async def test_a_failing_backend_and_its_recovery_are_logged_once_each(http: HttpBackend) -> None:
    http.answer = lambda _: Answer(status=400)
    own = OwnTelemetry(settings(http.endpoint), AGENT, lambda: snapshot(Counters(), LEVELS))

    with capture_logs() as logged:
        own.start()
        await until(lambda: len(http.requests) >= 3)
        http.answer = lambda _: Answer()
        await until(lambda: len(http.accepted) >= 2)
        await own.finish(5)

    said = [each["event"] for each in logged]
    assert said == ["agent metrics not exported", "agent metrics exported again"]


async def test_a_backend_that_never_answers_delays_neither_the_loop_nor_the_end(http: HttpBackend) -> None:
    http.answer = lambda _: Answer(silent=True)
    own = OwnTelemetry(settings(http.endpoint, timeout_s=60), AGENT, lambda: snapshot(Counters(), LEVELS))
    longest_s = took_s = 0.0

    async def turn() -> None:
        nonlocal longest_s
        while True:
            before_s = time.monotonic()
            await anyio.sleep(0.01)
            longest_s = max(longest_s, time.monotonic() - before_s)

    own.start()
    async with anyio.create_task_group() as group:
        group.start_soon(turn)
        await until(lambda: http.requests)
        began_s = time.monotonic()
        await own.finish(1.5)
        took_s = time.monotonic() - began_s
        group.cancel_scope.cancel()

    assert longest_s < 10
    assert took_s < 40  # the answer is overdue after 60 s


async def test_the_snapshot_is_made_on_the_loop_and_once_per_cycle(http: HttpBackend) -> None:
    threads: list[str] = []

    def look() -> Snapshot:
        threads.append(threading.current_thread().name)
        return snapshot(Counters(), LEVELS)

    own = OwnTelemetry(settings(http.endpoint), AGENT, look)
    own.start()
    await until(lambda: len(http.accepted) >= 3)
    await own.finish(5)

    assert set(threads) == {threading.main_thread().name}
    assert len(threads) <= len(http.requests) + 1


async def test_finish_before_start_sends_nothing(http: HttpBackend) -> None:
    own = OwnTelemetry(settings(http.endpoint), AGENT, lambda: snapshot(Counters(), LEVELS))

    await own.finish(1)

    assert http.requests == []
