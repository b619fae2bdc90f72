"""Tests of the OTLP sink with backends that fail on request, a real Collector and a real Prometheus 3."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from agent.contract.metrics import SCHEMA_URL
from agent.core.reading import Sample, State, VmView
from agent.sinks.otlp import OtlpSink
from agent.sinks.otlp_cycle import SLICE_VMS
from agent.sinks.otlp_settings import Settings
from agent.telemetry import Count, Counters
from tests.integration.otlp_backends import (
    Answer,
    GrpcBackend,
    HttpBackend,
    Request,
    grpc_backend,
    http_backend,
)
from tests.lab.collector import Collector, problems
from tests.lab.process import free_port
from tests.lab.prometheus import Prometheus
from tests.unit.sinks.views import AGENT, SECOND_NS, sample, view, vm

FREE = "qemu.vm.guest.memory.free"
STATE = "qemu.vm.state"
REQUEST_ENDS_S = 30.0
"""An abandoned export lasts until its own timeout (at most 20 s here) where gRPC reconnects."""


@pytest.fixture(params=[http_backend, grpc_backend], ids=["http", "grpc"])
def backend(request: pytest.FixtureRequest) -> Iterator[HttpBackend | GrpcBackend]:
    with request.param(free_port()) as each:  # a test may close it and open it again there
        yield each


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.name == "otlp"]
    deadline_s = time.monotonic() + REQUEST_ENDS_S
    for thread in left:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    assert not [thread for thread in left if thread.is_alive()]


class Board:
    """The views for the sink, which a test changes as the agent changes its own board."""

    def __init__(self, *views: VmView) -> None:
        self.views: Sequence[VmView] = views

    def __call__(self) -> Sequence[VmView]:
        return self.views

    def show(self, *samples: Sample) -> None:
        self.views = [view(each) for each in samples]


def settings(backend: HttpBackend | GrpcBackend, interval_s: float = 0.1, timeout_s: float = 5.0) -> Settings:
    protocol = "grpc" if isinstance(backend, GrpcBackend) else "http"
    return Settings(endpoint=backend.endpoint, protocol=protocol, interval_s=interval_s, timeout_s=timeout_s)


@asynccontextmanager
async def running(sink: OtlpSink, board: Callable[[], Sequence[VmView]]) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(sink.run, board)
        yield
        group.cancel_scope.cancel()


async def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - what arrives elsewhere sets no event here
            await anyio.sleep(0.01)


def now_s() -> int:
    return int(time.time())


# --- both protocols ---


async def test_each_update_arrives_once_with_its_own_time(backend: HttpBackend | GrpcBackend) -> None:
    counters = Counters()
    sink = OtlpSink(settings(backend), AGENT, counters)
    first_s = now_s() - 100
    board = Board(view(sample(first_s, statistics={"free_memory": 5})))

    async with running(sink, board):
        await until(lambda: len(backend.points(STATE)) >= 3 * len(State))
        board.show(sample(first_s + 10, sequence=2, statistics={"free_memory": 6}))
        await until(lambda: len(backend.points(FREE)) == 2)
    await sink.finish(5.0)

    assert [(point.time_ns, point.value) for point in backend.points(FREE)] == [
        (first_s * SECOND_NS, 5),
        ((first_s + 10) * SECOND_NS, 6),
    ]
    assert counters.total(Count.POINTS_SENT) == sum(len(request.points) for request in backend.accepted)


async def test_a_fleet_is_sent_in_slices_and_every_vm_arrives(backend: HttpBackend | GrpcBackend) -> None:
    sink = OtlpSink(settings(backend, interval_s=30.0, timeout_s=10.0), AGENT, Counters())
    board = Board()
    vms = 2 * SLICE_VMS + 10
    board.show(*(sample(of=vm(f"vm-{n}")) for n in range(vms)))

    async with running(sink, board):
        await until(lambda: len(backend.accepted) == 3)
    await sink.finish(5.0)

    assert [len(request.instances()) for request in backend.accepted[:3]] == [SLICE_VMS, SLICE_VMS, 10]
    assert len({point.instance for point in backend.points(FREE)}) == vms


async def test_samples_replaced_by_newer_ones_are_counted(backend: HttpBackend | GrpcBackend) -> None:
    counters = Counters()
    sink = OtlpSink(settings(backend), AGENT, counters)
    board = Board(view(sample(1000)))

    async with running(sink, board):
        await until(lambda: backend.points(FREE))
        board.show(sample(1005, sequence=6))
        await until(lambda: len(backend.points(FREE)) == 2)
    await sink.finish(5.0)

    assert counters.total(Count.POINTS_PASSED_OVER) == 4


async def test_one_vms_refused_point_costs_only_that_vm(backend: HttpBackend | GrpcBackend) -> None:
    counters = Counters()
    sink = OtlpSink(settings(backend), AGENT, counters)
    backend.answer = lambda request: Answer(400 if has_free_memory_of_vm_3(request) else 200)
    board = Board()
    board.show(*(sample(of=vm(f"vm-{n}")) for n in range(10)))

    async with running(sink, board):
        await until(lambda: "host-1/vm-3" in {point.instance for point in backend.points(STATE)})
    await sink.finish(5.0)

    assert {point.instance for point in backend.points(FREE)} == {
        f"host-1/vm-{n}" for n in range(10) if n != 3
    }
    assert len([request for request in backend.requests if has_free_memory_of_vm_3(request)]) == 2
    assert counters.total(Count.POINTS_REFUSED, "backend") > 0


def has_free_memory_of_vm_3(request: Request) -> bool:
    return any(point.instance == "host-1/vm-3" and point.name == FREE for point in request.points)


async def test_points_refused_in_part_are_counted(backend: HttpBackend | GrpcBackend) -> None:
    counters = Counters()
    sink = OtlpSink(settings(backend, interval_s=30.0), AGENT, counters)
    backend.answer = lambda _: Answer(rejected_points=2)

    async with running(sink, Board(view(sample()))):
        await until(lambda: counters.total(Count.POINTS_SENT))
    await sink.finish(5.0)

    first, last = (len(request.points) for request in backend.accepted)
    assert counters.total(Count.POINTS_REFUSED, "partial_success") == 4
    assert counters.total(Count.POINTS_SENT) == first + last - 4


async def test_an_unreachable_backend_is_logged_once_and_gets_the_newest_when_it_is_back(
    backend: HttpBackend | GrpcBackend,
) -> None:
    counters = Counters()
    endpoint, port = backend.endpoint, backend.port
    backend.close()
    sink = OtlpSink(replace(settings(backend), endpoint=endpoint), AGENT, counters)
    board = Board(view(sample(1000)))

    with capture_logs() as logs, ExitStack() as later:
        async with running(sink, board):
            await until(lambda: logs)
            threads = threading.active_count()
            skipped = counters.total(Count.CYCLES_SKIPPED)
            await until(lambda: counters.total(Count.CYCLES_SKIPPED) >= skipped + 10)
            assert threading.active_count() <= threads + 6  # gRPC has its own; not one for each cycle
            board.show(sample(1050, sequence=6))
            again = http_backend if isinstance(backend, HttpBackend) else grpc_backend
            back = later.enter_context(again(port))
            await until(lambda: 1050 * SECOND_NS in times(back))
            arrived = times(back)
        await sink.finish(5.0)

    # The cycle that was being retried when the backend came back may still have the previous sample.
    assert arrived in ([1050 * SECOND_NS], [1000 * SECOND_NS, 1050 * SECOND_NS])
    assert [line["event"] for line in logs] == ["otlp backend unavailable", "otlp backend recovered"]
    assert logs[0]["log_level"] == "warning"
    assert "refused" in str(logs[0]["problem"])


def times(backend: HttpBackend | GrpcBackend) -> list[int]:
    return [point.time_ns for point in backend.points(FREE)]


async def test_a_backend_without_answers_does_not_block_the_event_loop(
    backend: HttpBackend | GrpcBackend,
) -> None:
    counters = Counters()
    sink = OtlpSink(settings(backend, interval_s=0.05, timeout_s=20.0), AGENT, counters)
    backend.answer = lambda _: Answer(silent=True)
    longest_s = 0.0

    async with running(sink, Board(view(sample()))):
        last_s = time.monotonic()
        while counters.total(Count.CYCLES_SKIPPED) < 15:
            await anyio.sleep(0.01)
            longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()
    began_s = time.monotonic()
    await sink.finish(0.3)

    assert time.monotonic() - began_s < 15  # not until the answer is overdue
    assert longest_s < 10
    assert len(backend.requests) < 10


async def test_finish_sends_the_samples_since_the_last_cycle(backend: HttpBackend | GrpcBackend) -> None:
    sink = OtlpSink(settings(backend, interval_s=30.0), AGENT, Counters())
    board = Board(view(sample(1000)))
    async with running(sink, board):
        await until(lambda: backend.points(FREE))
    board.show(sample(1010, sequence=2))

    await sink.finish(5.0)

    assert [point.time_ns for point in backend.points(FREE)] == [1000 * SECOND_NS, 1010 * SECOND_NS]


async def test_a_failed_sample_is_retried_while_it_is_the_newest(backend: HttpBackend | GrpcBackend) -> None:
    sink = OtlpSink(settings(backend), AGENT, Counters())
    answers = iter([Answer(500)])
    backend.answer = lambda _: next(answers, Answer())

    async with running(sink, Board(view(sample(1000)))):
        await until(lambda: backend.points(FREE))
    await sink.finish(5.0)

    assert len(backend.points(FREE)) == 1


async def test_finish_before_run_and_twice_sends_nothing(http: HttpBackend) -> None:
    counters = Counters()
    sink = OtlpSink(Settings(endpoint=http.endpoint, protocol="http"), AGENT, counters)

    with capture_logs() as logs:
        await sink.finish(1.0)
        await sink.finish(1.0)

    assert http.requests == []
    assert (counters.snapshot(), logs) == ({}, [])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_process_ends_in_time_although_the_backend_hangs(protocol: str) -> None:
    program = f"""
import sys
import time

import anyio
from agent.sinks.otlp import OtlpSink
from agent.sinks.otlp_settings import Settings
from agent.telemetry import Counters
from tests.unit.sinks.views import AGENT, sample, view

async def main():
    with anyio.move_on_after(0.5):
        await sink.run(lambda: [view(sample())])
    print("finishes at", time.monotonic(), file=sys.stderr)
    await sink.finish(0.3)

with __import__("socket").create_server(("127.0.0.1", 0)) as silent:
    endpoint = f"http://127.0.0.1:{{silent.getsockname()[1]}}"
    settings = Settings(endpoint=endpoint, protocol="{protocol}", interval_s=60, timeout_s=60)
    sink = OtlpSink(settings, AGENT, Counters())
    anyio.run(main)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False
    )
    ended_s = time.monotonic()

    assert ended.returncode == 0, ended.stderr
    assert "otlp export abandoned" in ended.stdout
    began_s = float(ended.stderr.partition("finishes at ")[2].split()[0])
    assert ended_s - began_s < 45  # the timeout is 60 s


# --- HTTP ---


async def test_it_posts_to_the_metrics_path_with_headers_and_gzip(http: HttpBackend) -> None:
    chosen = replace(settings(http), headers={"Authorization": "Bearer t"}, compression="gzip")
    sink = OtlpSink(chosen, AGENT, Counters())

    async with running(sink, Board(view(sample()))):
        await until(lambda: http.accepted)
    await sink.finish(5.0)

    assert http.accepted[0].path == "/v1/metrics"
    assert http.accepted[0].headers["authorization"] == "Bearer t"
    assert http.accepted[0].headers["content-encoding"] == "gzip"


async def test_a_backend_that_asks_for_a_pause_gets_it(http: HttpBackend) -> None:
    counters = Counters()
    sink = OtlpSink(settings(http, interval_s=0.05), AGENT, counters)
    answers = iter([Answer(503, {"Retry-After": "2"})])
    asked_s: list[float] = []

    def answer(_: Request) -> Answer:
        asked_s.append(time.monotonic())
        return next(answers, Answer())

    http.answer = answer

    async with running(sink, Board(view(sample()))):
        await until(lambda: http.accepted)
    await sink.finish(5.0)

    assert 1.9 < asked_s[1] - asked_s[0] < 60
    assert counters.total(Count.CYCLES_SKIPPED) > 0


async def test_a_redirect_is_a_failure(http: HttpBackend) -> None:
    sink = OtlpSink(settings(http, interval_s=30.0), AGENT, Counters())
    http.answer = lambda _: Answer(302, {"Location": "https://login.example.net"})

    with capture_logs() as logs:
        async with running(sink, Board(view(sample()))):
            await until(lambda: logs)
        await sink.finish(0.0)

    assert "redirects (HTTP 302" in str(logs[0]["problem"])


async def test_a_backend_that_trickles_its_answer_holds_no_thread(http: HttpBackend) -> None:
    counters = Counters()
    sink = OtlpSink(settings(http, interval_s=0.05, timeout_s=0.2), AGENT, counters)
    http.answer = lambda _: Answer(trickle=True)

    async with running(sink, Board(view(sample()))):
        await until(lambda: len(http.requests) >= 5)
        await until(lambda: otlp_threads() == 1)
        # Only the status counts: the points have arrived.
        await until(lambda: counters.total(Count.POINTS_SENT))
    await sink.finish(5.0)


async def test_a_bounded_number_of_threads_is_abandoned_to_a_hanging_resolver(
    http: HttpBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    asked: list[object] = []
    real = socket.getaddrinfo

    def hanging(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        answered.wait(300)
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    counters = Counters()
    sink = OtlpSink(settings(http, interval_s=0.05, timeout_s=0.1), AGENT, counters)

    async with running(sink, Board(view(sample()))):
        await until(lambda: len(asked) == 4)
        skipped = counters.total(Count.CYCLES_SKIPPED)
        await until(lambda: counters.total(Count.CYCLES_SKIPPED) > skipped + 20)
        assert otlp_threads() == 4
        assert "no answer from the resolver" in sink.status.why
        answered.set()
        await until(lambda: counters.total(Count.POINTS_SENT))
        await until(lambda: otlp_threads() == 1)  # reports of abandoned threads are ignored
    await sink.finish(5.0)


def otlp_threads() -> int:
    return len([thread for thread in threading.enumerate() if thread.name == "otlp"])


async def test_a_missing_certificate_is_reported_and_the_sink_continues(http: HttpBackend) -> None:
    endpoint = f"https://127.0.0.1:{http.port}"
    for protocol in ("http", "grpc"):
        sink = OtlpSink(
            Settings(
                endpoint=endpoint,
                protocol=protocol,
                interval_s=0.05,
                timeout_s=0.5,
                ca_file=Path("/nowhere/ca.pem"),
            ),
            AGENT,
            Counters(),
        )
        with capture_logs() as logs:
            async with running(sink, Board(view(sample()))):
                await until(lambda logs=logs: logs)
            await sink.finish(2.0)

        assert "/nowhere/ca.pem" in str(logs[0]["problem"])


# --- gRPC ---


@pytest.mark.parametrize("trailer", [b"\xff\xff\xff", b"", b"\x0a\x02\x08", bytes(3000)])
async def test_a_malformed_trailer_is_a_failed_cycle(trailer: bytes) -> None:
    with grpc_backend() as backend, capture_logs() as logs:
        sink = OtlpSink(settings(backend, interval_s=0.05), AGENT, Counters())
        answers = iter([Answer(503, {"google.rpc.retryinfo-bin": trailer})])  # pyrefly: ignore[bad-assignment]  # bytes in a -bin header
        backend.answer = lambda _: next(answers, Answer())

        async with running(sink, Board(view(sample()))):
            await until(lambda: backend.accepted)
        await sink.finish(5.0)

    assert [each["event"] for each in logs] == ["otlp backend unavailable", "otlp backend recovered"]
    assert "UNAVAILABLE" in logs[0]["problem"]


async def test_a_grpc_backend_that_asks_for_a_pause_gets_it() -> None:
    from google.protobuf.duration_pb2 import Duration
    from google.rpc.error_details_pb2 import RetryInfo

    counters = Counters()
    pause = RetryInfo(retry_delay=Duration(seconds=2)).SerializeToString()
    with grpc_backend() as backend:
        sink = OtlpSink(settings(backend, interval_s=0.05), AGENT, counters)
        answers = iter([Answer(503, {"google.rpc.retryinfo-bin": pause})])  # pyrefly: ignore[bad-assignment]  # bytes in a -bin header
        asked_s: list[float] = []

        def answer(_: Request) -> Answer:
            asked_s.append(time.monotonic())
            return next(answers, Answer())

        backend.answer = answer

        async with running(sink, Board(view(sample()))):
            await until(lambda: backend.accepted)
        await sink.finish(5.0)

    assert 1.9 < asked_s[1] - asked_s[0] < 60


# --- a real Collector and a real Prometheus ---


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_a_real_collector_passes_on_what_was_observed(own_collector: Collector, protocol: str) -> None:
    endpoint = own_collector.grpc if protocol == "grpc" else own_collector.http
    chosen = Settings(endpoint=endpoint, protocol="grpc" if protocol == "grpc" else "http", interval_s=0.1)
    sink = OtlpSink(chosen, AGENT, Counters())
    first_s = now_s() - 50
    board = Board()

    async with running(sink, board):
        for n in range(1, 6):
            board.show(
                *(
                    sample(first_s + n, sequence=n, epoch_start_s=first_s + 1, of=vm(f"vm-{k}"))
                    for k in (1, 2)
                )
            )
            await until(lambda n=n: len(free_memory(own_collector)) == 2 * n)
    await sink.finish(5.0)

    points = own_collector.points()
    assert problems(points) == []
    assert {each.schema_urls for each in points} == {(SCHEMA_URL, SCHEMA_URL)}
    assert sorted(free_memory(own_collector)) == sorted(
        (f"vm-{k}", (first_s + n) * SECOND_NS) for k in (1, 2) for n in range(1, 6)
    )


def free_memory(collector: Collector) -> list[tuple[str | None, int]]:
    return [(point.about("qemu.vm.id"), point.time_ns) for point in collector.points() if point.name == FREE]


async def test_a_real_collector_that_restarts_gets_the_newest(own_collector: Collector) -> None:
    chosen = Settings(endpoint=own_collector.http, protocol="http", interval_s=0.1, timeout_s=5.0)
    counters = Counters()
    sink = OtlpSink(chosen, AGENT, counters)
    board = Board(view(sample(1000)))

    async with running(sink, board):
        await until(lambda: free_memory(own_collector))
        own_collector.stop()
        await until(lambda: counters.total(Count.CYCLES_SKIPPED) >= 3)
        for n in range(2, 5):
            board.show(sample(1000 + n, sequence=n))
        own_collector.start()
        await until(lambda: len(free_memory(own_collector)) == 2)
    await sink.finish(5.0)

    assert [time_ns for _, time_ns in free_memory(own_collector)] == [1000 * SECOND_NS, 1004 * SECOND_NS]
    assert counters.total(Count.POINTS_PASSED_OVER) == 2


async def test_in_a_real_prometheus_two_hosts_vms_are_two_series_with_names(
    own_prometheus: Prometheus,
) -> None:
    chosen = Settings(endpoint=own_prometheus.otlp, protocol="http", interval_s=30.0)
    for host, name in (("host-1", "web"), ("host-2", "db")):
        counters = Counters()
        sink = OtlpSink(chosen, replace(AGENT, host_id=host, host_name=host), counters)
        async with running(sink, Board(view(sample(now_s() - 1, of=vm(f"vm-{name}", name))))):
            await until(lambda counters=counters: counters.total(Count.POINTS_SENT))
        await sink.finish(5.0)

    found = await anyio.to_thread.run_sync(own_prometheus.query, "qemu_vm_guest_memory_free_bytes")

    assert {(each["metric"]["host_name"], each["metric"]["qemu_vm_name"]) for each in found} == {
        ("host-1", "web"),
        ("host-2", "db"),
    }


async def test_in_a_real_prometheus_one_vms_old_sample_costs_only_itself(own_prometheus: Prometheus) -> None:
    counters = Counters()
    chosen = Settings(endpoint=own_prometheus.otlp, protocol="http", interval_s=0.3)
    board = Board()
    fresh = [view(sample(now_s() - 1, of=vm(f"vm-{n}"))) for n in range(3)]
    board.views = fresh
    sink = OtlpSink(chosen, AGENT, counters)

    async with running(sink, board):
        await until(lambda: counters.total(Count.POINTS_SENT))
        board.views = [*fresh, view(sample(now_s() - 30 * 86400, epoch_start_s=0, of=vm("vm-old")))]
        await until(lambda: counters.total(Count.POINTS_REFUSED, "backend"))
        sent = counters.total(Count.POINTS_SENT)
        await until(lambda: counters.total(Count.POINTS_SENT) > sent)
    await sink.finish(5.0)

    states = await anyio.to_thread.run_sync(own_prometheus.query, "qemu_vm_state == 1")
    assert {each["metric"]["qemu_vm_id"] for each in states} == {"vm-0", "vm-1", "vm-2", "vm-old"}
