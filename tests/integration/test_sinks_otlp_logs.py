"""Tests of state changes as OTLP logs, with scripted backends and with a real Collector and agent."""

import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from agent.contract.encode import Mode, as_log, encode_state
from agent.core.reading import Record, State
from agent.errors import SinkUnavailable
from agent.sinks.otlp_logs import OtlpLogsSink
from agent.sinks.otlp_settings import Settings
from agent.sinks.record_sink import Receipt
from agent.spool.inspect import contents
from agent.spool.queues import Queue
from tests.integration.conftest import need
from tests.integration.otlp_backends import (
    Answer,
    GrpcBackend,
    HttpBackend,
    Request,
    grpc_backend,
    http_backend,
)
from tests.integration.watching import Document, Lines, conserved, watch
from tests.lab.agent import AgentProcess, agent
from tests.lab.collector import Collector, Log, collector
from tests.lab.sim import simulated
from tests.unit.sinks.views import AGENT, view


@pytest.fixture(params=[http_backend, grpc_backend], ids=["http", "grpc"])
def backend(request: pytest.FixtureRequest) -> Iterator[HttpBackend | GrpcBackend]:
    with request.param() as each:
        yield each


def sink_for(
    backend: HttpBackend | GrpcBackend, *, required: bool = False, timeout_s: float = 4.0
) -> OtlpLogsSink:
    protocol = "grpc" if isinstance(backend, GrpcBackend) else "http"
    settings = Settings(
        endpoint=backend.endpoint,
        protocol=protocol,
        signal="logs",
        logs_required=required,
        timeout_s=timeout_s,
    )
    return OtlpLogsSink(settings, AGENT)


def changes(count: int) -> list[Record]:
    event = replace(view(state=State.STALLED).state, reason="no_advance")
    return [as_log(encode_state(replace(event, sequence=n), AGENT, Mode.BINARY)) for n in range(1, count + 1)]


def ids(records: Sequence[Record]) -> list[str]:
    return [record.id for record in records]


async def test_a_batch_arrives_in_order_at_the_path_of_logs(backend: HttpBackend | GrpcBackend) -> None:
    sink, records = sink_for(backend), changes(600)

    receipts = [await sink.send(records[:512]), await sink.send(records[512:])]
    await sink.aclose()

    assert receipts == [Receipt(), Receipt()]
    assert backend.logs() == ids(records)
    assert {request.path for request in backend.requests} <= {"", "/v1/logs"}


async def test_failed_records_are_sent_again_before_newer_ones(backend: HttpBackend | GrpcBackend) -> None:
    sink, records = sink_for(backend), changes(4)
    answers = iter([Answer(503, {"Retry-After": "7"})])
    backend.answer = lambda _: next(answers, Answer())

    with pytest.raises(SinkUnavailable):
        await sink.send(records[:2])
    await sink.send(records[:2])
    await sink.send(records[2:])
    await sink.aclose()

    assert backend.logs() == ids(records)


async def test_a_backend_that_accepts_no_logs_costs_one_line(backend: HttpBackend | GrpcBackend) -> None:
    for answer in (Answer(404), Answer(400), Answer(rejected_points=9)):
        backend.answer = lambda _, answer=answer: answer
        backend.requests.clear()
        sink = sink_for(backend)

        with capture_logs() as logs:
            receipts = [await sink.send(changes(3)), await sink.send(changes(2))]
        await sink.aclose()

        assert receipts == [Receipt(lost={"unsupported": 3}), Receipt(lost={"unsupported": 2})]
        assert [line["event"] for line in logs] == ["otlp backend accepts no logs"]
        assert len(backend.requests) <= 4  # the batch, and each record of a refused one


async def test_a_backend_that_accepts_logs_later_gets_the_next_ones(
    backend: HttpBackend | GrpcBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sinks.otlp_logs.RETRY_UNSUPPORTED_S", 0.0)
    sink, records = sink_for(backend), changes(4)
    backend.answer = lambda _: Answer(404)

    with capture_logs() as logs:
        await sink.send(records[:1])
        await sink.send(records[1:2])
        backend.answer = lambda _: Answer()
        receipt = await sink.send(records[2:])
    await sink.aclose()

    assert receipt == Receipt()
    assert backend.logs() == ids(records[2:])
    assert [line["event"] for line in logs] == ["otlp backend accepts no logs", "otlp backend accepts logs"]


async def test_where_logs_are_required_records_are_kept(backend: HttpBackend | GrpcBackend) -> None:
    sink, records = sink_for(backend, required=True), changes(2)
    backend.answer = lambda _: Answer(404)

    with pytest.raises(SinkUnavailable) as raised:
        await sink.send(records)
    backend.answer = lambda _: Answer()
    receipt = await sink.send(records)
    await sink.aclose()

    assert raised.value.retry_after_s == 30.0
    assert receipt == Receipt()
    assert backend.logs() == ids(records)


async def test_one_refused_record_costs_only_itself(backend: HttpBackend | GrpcBackend) -> None:
    sink, records = sink_for(backend), changes(5)
    bad = records[3].id
    backend.answer = lambda request: Answer(400 if bad in request.logs else 200)
    await sink.send(records[:1])

    receipt = await sink.send(records[1:])
    await sink.aclose()

    assert [(each.index, each.reason) for each in receipt.refused] == [(2, "invalid")]
    assert backend.logs() == [id for id in ids(records) if id != bad]


async def test_records_accepted_before_a_failure_are_not_sent_again(
    backend: HttpBackend | GrpcBackend,
) -> None:
    sink, records = sink_for(backend), changes(5)
    await sink.send(records[:1])
    alone: list[str] = []

    def answer(request: Request) -> Answer:
        if len(request.logs) > 1 and not alone:
            return Answer(400)
        alone.extend(request.logs)
        return Answer(503 if request.logs == [records[3].id] else 200)

    backend.answer = answer
    with pytest.raises(SinkUnavailable):
        await sink.send(records[1:])
    backend.answer = lambda _: Answer()
    receipt = await sink.send(records[1:])
    await sink.aclose()

    assert receipt == Receipt()
    assert backend.logs() == ids(records)


async def test_records_rejected_in_part_are_counted(backend: HttpBackend | GrpcBackend) -> None:
    sink = sink_for(backend)
    await sink.send(changes(1))
    backend.answer = lambda _: Answer(rejected_points=2)

    receipt = await sink.send(changes(5))
    backend.answer = lambda _: Answer(rejected_points=2**62)
    absurd = await sink.send(changes(6)[5:])
    await sink.aclose()

    assert receipt == Receipt(lost={"partial_success": 2})
    assert absurd == Receipt(lost={"partial_success": 1})


async def test_a_damaged_record_is_refused_and_the_others_arrive(backend: HttpBackend | GrpcBackend) -> None:
    sink, records = sink_for(backend), changes(3)
    records[1] = replace(records[1], value=b"{")

    receipt = await sink.send(records)
    await sink.aclose()

    assert [each.index for each in receipt.refused] == [1]
    assert backend.logs() == [records[0].id, records[2].id]


async def test_a_hanging_export_holds_one_thread_without_delaying_a_stop(
    backend: HttpBackend | GrpcBackend,
) -> None:
    sink, records = sink_for(backend, timeout_s=60.0), changes(4)
    await sink.send(records[:1])
    backend.answer = lambda _: Answer(silent=True)

    for _ in range(3):
        with anyio.move_on_after(0.2) as scope:
            await sink.send(records[1:])
        assert scope.cancelled_caught
    with anyio.fail_after(50):
        while sink.problem is None:  # noqa: ASYNC110 - sets no event
            await anyio.sleep(0.05)
    assert len([each for each in threading.enumerate() if each.name == sink.name]) == 1
    assert len(backend.requests) == 2  # the canceled call continues, and the next ones wait for it
    assert "no answer from" in (sink.problem or "")
    with anyio.fail_after(45):  # the answer is overdue after 60 s
        await sink.aclose()


async def test_records_that_a_canceled_send_has_delivered_are_not_sent_again(
    backend: HttpBackend | GrpcBackend,
) -> None:
    sink, records = sink_for(backend, timeout_s=30.0), changes(4)
    release = threading.Event()

    def answer(_: Request) -> Answer:
        release.wait(120)
        return Answer()

    backend.answer = answer
    with anyio.move_on_after(0.2):
        await sink.send(records[:2])
    release.set()

    await sink.send(records[:2])
    await sink.send(records[2:])
    await sink.aclose()

    assert backend.logs() == ids(records)


# --- a real agent and a real Collector ---


def changes_of(lines: Lines) -> list[Document]:
    """Return the records that must become logs."""
    return [each for each in lines.all() if ".state/" in each["schema"] and not each["heartbeat"]]


def key(document: Document) -> tuple[str, str, int]:
    return document["run"], document.get("vm", {}).get("path", ""), document["sequence"]


def key_of(log: Log) -> tuple[str, str, int]:
    return (
        log.attributes["barograph.event.run"],
        log.attributes.get("qemu.vm.monitor.path", ""),
        int(log.attributes["barograph.event.sequence"]),
    )


def written(collector: Collector) -> int:
    """Return how many changes the Collector has written, without repetitions."""
    return len(set(map(key_of, collector.logs())))


def compare(documents: Sequence[Document], collector: Collector) -> int:
    """Assert that the logs match the documents, in the same order per VM; return how many were repeated.

    The Collector writes the last ones some time after its answer.
    """
    by_key = {key(document): document for document in documents}
    deadline_s = time.monotonic() + 120
    while written(collector) < len(by_key) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    logs = collector.logs()
    first = dict.fromkeys(map(key_of, logs))
    for path in {each[1] for each in by_key}:
        assert [each for each in first if each[1] == path] == [each for each in by_key if each[1] == path]
    assert set(first) == set(by_key)
    for log in logs:
        document = by_key[key_of(log)]
        assert log.body == document["detail"]
        assert log.time_ns == document["since_ms"] * 1_000_000
        assert log.observed_ns == document["observed_at_ms"] * 1_000_000
        state = "qemu.vm.state" if "vm" in document else "barograph.agent.state"
        assert log.attributes[state] == document["state"]
        assert log.resource["host.id"] == document["host"]["id"]
    return len(logs) - len(first)


def start(stack: ExitStack, folder: Path, backend: Collector, protocol: str, number: int = 0) -> AgentProcess:
    env = {
        "BAROGRAPH_LINES__ENABLED": "true",
        "BAROGRAPH_OTLP__INTERVAL": "1s",
        "BAROGRAPH_OTLP__TIMEOUT": "10s",
        "BAROGRAPH_OTLP__PROTOCOL": protocol,
    }
    words = watch(folder, "--otlp", backend.grpc if protocol == "grpc" else backend.http)
    return stack.enter_context(agent(folder / f"agent{number}", *words, state=folder / "state", env=env))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_collector_killed_and_started_again_has_every_change_in_order(
    folder: Path, own_collector: Collector, protocol: str
) -> None:
    with ExitStack() as stack:
        hypervisor = stack.enter_context(simulated(folder, vms=4, preset=1))
        process = start(stack, folder, own_collector, protocol)
        lines, vms = Lines(process), hypervisor.vms
        for vm in vms:
            lines.wait_for_state(vm.qmp, "reporting")
        # Those that it has acknowledged but not written yet would be lost with it.
        lines.wait(lambda: written(own_collector) >= len(changes_of(lines)), "the first changes written")
        process.process.send_signal(signal.SIGUSR1)  # heartbeats are not log records
        lines.wait(lambda: any(each.get("heartbeat") for each in lines.all()), "heartbeats")
        own_collector.stop()
        vms[0].order("pause")
        vms[1].freeze()
        vms[2].kill()
        lines.wait_for_state(vms[0].qmp, "paused")
        lines.wait_for_state(vms[1].qmp, "unreachable")
        lines.wait_for_state(vms[2].qmp, "gone")
        vms[0].order("cont")
        vms[1].thaw()
        lines.wait_for_state(vms[0].qmp, "reporting")
        lines.wait_for_state(vms[1].qmp, "reporting")
        own_collector.start()
        count = len(changes_of(lines))
        lines.wait(lambda: written(own_collector) >= count, "all changes in the Collector")
        assert process.stop() == 0
        conserved(process)
        documents = changes_of(lines)

    repeated = compare(documents, own_collector)
    assert documents[-1]["state"] == "stopping"
    assert len({log.attributes.get("qemu.vm.id") for log in own_collector.logs()}) >= 5
    print(f"{len(documents)} changes, {repeated} repeated")


def test_an_agent_killed_while_the_collector_is_down_sends_its_changes_after_the_next_start(
    folder: Path, own_collector: Collector
) -> None:
    own_collector.stop()
    with ExitStack() as stack:
        hypervisor = stack.enter_context(simulated(folder, vms=2, preset=1))
        first = start(stack, folder, own_collector, "http")
        lines = Lines(first)
        for vm in hypervisor.vms:
            lines.wait_for_state(vm.qmp, "reporting")
        documents = changes_of(lines)
        spool = folder / "state/spool.sqlite"
        lines.wait(
            lambda: contents(spool).waiting[Queue.LOGS].records >= len(documents), "the changes on disk"
        )
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        second = start(stack, folder, own_collector, "http", 1)
        again = Lines(second)
        for vm in hypervisor.vms:
            again.wait_for_state(vm.qmp, "reporting")
        own_collector.start()
        count = len(documents) + len(changes_of(again))
        again.wait(lambda: written(own_collector) >= count, "all changes in the Collector")
        assert second.stop() == 0
        totals = conserved(second)
        documents += changes_of(again)

    compare(documents, own_collector)
    assert totals["carried.otlp.logs"] >= 4


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_collector_without_logs_costs_one_line_and_the_metrics_arrive(folder: Path, protocol: str) -> None:
    need("collector")
    with ExitStack() as stack:
        without = stack.enter_context(collector(folder / "collector", logs=False))
        hypervisor = stack.enter_context(simulated(folder, vms=2, preset=1))
        process = start(stack, folder, without, protocol)
        lines, (one, _) = Lines(process), hypervisor.vms
        lines.wait_for_state(one.qmp, "reporting")
        one.order("pause")
        lines.wait_for_state(one.qmp, "paused")
        lines.wait(lambda: bool(without.points()), "metrics in the Collector")
        assert process.stop() == 0
        totals = conserved(process)
        documents = changes_of(lines)

    log = process.stderr.read_text()
    assert len(re.findall("accepts no logs", log)) == 1
    assert not re.findall("sink unavailable|degraded|otlp backend unavailable", log), log
    assert totals["dropped.otlp.logs:unsupported"] == len(documents)
    assert "waiting.otlp.logs" not in totals


def test_logs_alone_go_to_their_own_endpoint(folder: Path, own_collector: Collector) -> None:
    env = {
        "BAROGRAPH_LINES__ENABLED": "true",
        "BAROGRAPH_OTLP__LOGS_ENDPOINT": f"{own_collector.http}/v1/logs",
    }
    with ExitStack() as stack:
        hypervisor = stack.enter_context(simulated(folder, vms=1, preset=1))
        process = stack.enter_context(agent(folder / "a", *watch(folder), state=folder / "state", env=env))
        lines = Lines(process)
        lines.wait_for_state(hypervisor.vms[0].qmp, "reporting")
        count = len(changes_of(lines))
        lines.wait(lambda: len(own_collector.logs()) >= count, "the changes in the Collector")
        assert process.stop() == 0
        documents = changes_of(lines)

    compare(documents, own_collector)
    assert not own_collector.points()
    assert "degraded" not in {document["state"] for document in documents}
