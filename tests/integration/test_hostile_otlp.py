"""Generated answers of a hostile OTLP backend: no crash, memory bounded, every point accounted for."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.integration.hostile_otlp import LIMIT_BYTES, grpc_backend, http2_garbage, http_backend, run

BACKENDS = [
    pytest.param(http_backend, "http", 120, id="http"),
    pytest.param(grpc_backend, "grpc", 120, id="grpc"),
    pytest.param(http2_garbage, "grpc", 20, id="http2"),
]


@pytest.mark.parametrize(("backend", "protocol", "answers"), BACKENDS)
def test_whatever_a_backend_answers_is_a_failed_cycle_at_worst(
    backend: Callable[[int], AbstractContextManager[str]], protocol: str, answers: int
) -> None:
    attack(backend, protocol, answers)


@pytest.mark.long
@pytest.mark.parametrize(("backend", "protocol", "answers"), BACKENDS)
def test_a_hundred_thousand_answers(
    backend: Callable[[int], AbstractContextManager[str]], protocol: str, answers: int
) -> None:
    attack(backend, protocol, 100_000 if answers > 20 else 5_000)


def attack(backend: Callable[[int], AbstractContextManager[str]], protocol: str, answers: int) -> None:
    with backend(15) as endpoint:
        result = run(endpoint, protocol, answers, timeout_s=120 + answers / 5)
    print(result)

    assert result.wrong == 0
    assert result.failed > 0
    assert result.settled > 0 or backend is http2_garbage
    assert result.longest < 600
    assert result.peak_bytes < LIMIT_BYTES
