"""Generated answers of a hostile OTLP backend: no crash, memory bounded, every point accounted for."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from agent.sinks.otlp_exporter import open_exporter
from agent.sinks.otlp_settings import Settings
from tests.integration.hostile_otlp import (
    LIMIT_BYTES,
    Result,
    grpc_backend,
    http2_errors,
    http2_floods,
    http2_garbage,
    http2_refusals,
    http_backend,
    run,
)

BACKENDS = [
    pytest.param(http_backend, "http", 120, id="http"),
    pytest.param(grpc_backend, "grpc", 120, id="grpc"),
    pytest.param(http2_garbage, "grpc", 20, id="http2"),
    pytest.param(http2_errors, "grpc", 20, id="http2 errors"),
    pytest.param(http2_refusals, "grpc", 20, id="http2 refusals"),
]
WITHOUT_AN_ANSWER = (http2_garbage, http2_errors, http2_refusals)


@pytest.mark.parametrize(("backend", "protocol", "answers"), BACKENDS)
def test_a_hostile_answer_of_a_backend_at_most_fails_a_cycle(
    backend: Callable[[int], AbstractContextManager[str]], protocol: str, answers: int
) -> None:
    attack(backend, protocol, answers)


@pytest.mark.parametrize(("backend", "protocol", "answers"), BACKENDS)
def test_log_records_are_settled_or_kept_after_any_answer_of_a_backend(
    backend: Callable[[int], AbstractContextManager[str]], protocol: str, answers: int
) -> None:
    attack(backend, protocol, answers, logs=True)


def test_a_backend_that_sends_without_end_is_not_read_between_two_exports() -> None:
    request = ExportMetricsServiceRequest()
    with http2_floods() as endpoint:
        exporter = open_exporter(Settings(endpoint=endpoint, protocol="grpc", timeout_s=30))
        began_s = time.process_time()
        outcomes = [exporter.export(request) for _ in range(5)]
        took_s = time.process_time() - began_s
        exporter.shutdown()

    assert outcomes[0].accepted
    assert all(each.accepted for each in outcomes)  # each flood costs a connection, but no export
    assert took_s < 10.0


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("backend", "protocol", "answers"), BACKENDS)
def test_a_hundred_thousand_answers(
    backend: Callable[[int], AbstractContextManager[str]], protocol: str, answers: int
) -> None:
    attack(backend, protocol, 100_000 if answers > 20 else 5_000, processes=8)


def attack(
    backend: Callable[[int], AbstractContextManager[str]],
    protocol: str,
    answers: int,
    processes: int = 1,
    *,
    logs: bool = False,
) -> None:
    def part(seed: int) -> Result:
        with backend(seed) as endpoint:
            return run(endpoint, protocol, answers // processes, timeout_s=100 + answers, logs=logs)

    with ThreadPoolExecutor(processes) as pool:
        results = list(pool.map(part, range(15, 15 + processes)))
    print(results)

    assert [each for each in results if each.wrong or not each.failed or each.longest >= 600] == []
    assert backend in WITHOUT_AN_ANSWER or all(each.settled for each in results)
    assert max(each.peak_bytes for each in results) < LIMIT_BYTES
