"""Sends one request without content to an OTLP backend, as the sink does, for `barograph doctor`. Blocks."""

import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import parsedate_to_datetime

from agent.core.doctor.backends import OtlpFact
from agent.sinks import otlp_failures
from agent.sinks.http_connection import AttemptFailed, Stage
from agent.sinks.http_post import Answer, HttpClient
from agent.sinks.otlp_answers import of_http
from agent.sinks.otlp_credentials import Credentials
from agent.sinks.otlp_cycle import Outcome
from agent.sinks.otlp_exporter import Watch, open_exporter
from agent.sinks.otlp_settings import Settings, authority

TIMEOUT_MAX_S = 5.0


class _Stages(Watch):
    """Keeps the stage that the last attempt reached."""

    last = Stage.RESOLVE

    def enter(self, stage: Stage | None) -> None:
        super().enter(stage)
        self.last = stage or self.last


def reach(settings: Settings, add_secret: Callable[[str], None], redact: Callable[[str], str]) -> OtlpFact:
    """Return how the backend answers a request of the signal of `settings`."""
    settings = replace(settings, timeout_s=min(settings.timeout_s, TIMEOUT_MAX_S))
    peer, has_tls = authority(settings.endpoint), settings.endpoint.startswith("https:")
    fact = OtlpFact(settings.signal, peer, settings.endpoint_setting, has_tls)
    try:
        if settings.protocol == "http":
            return _over_http(settings, fact, add_secret, redact)
        return _over_grpc(settings, fact, add_secret, redact)
    except (OSError, ValueError) as error:  # a file with headers or certificates
        return replace(fact, stage="login", detail=redact(str(error)))


def _over_http(
    settings: Settings, fact: OtlpFact, add_secret: Callable[[str], None], redact: Callable[[str], str]
) -> OtlpFact:
    stages: list[Stage] = []
    credentials = Credentials(settings, add_secret)
    client = HttpClient(otlp_failures.target(settings), credentials.context, stages.append, redact)
    try:
        headers = {"content-type": "application/x-protobuf", "user-agent": "barograph"}
        answer = client.post(b"", {**headers, **credentials.headers()}, settings.timeout_s)
    except AttemptFailed as error:
        stage = stages[-1] if stages else Stage.RESOLVE
        return replace(fact, stage=stage.value, detail=redact(error.failure.words))
    finally:
        client.close()
    fact = replace(fact, clock_ahead_s=_ahead_s(answer))
    return _judged(fact, of_http(answer, settings, redact), "answer")


def _over_grpc(
    settings: Settings, fact: OtlpFact, add_secret: Callable[[str], None], redact: Callable[[str], str]
) -> OtlpFact:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    stages = _Stages()
    exporter = open_exporter(settings, stages, add_secret, redact)
    try:
        # Without content, it is the same as a request with logs.
        outcome = exporter.export(ExportMetricsServiceRequest())
    finally:
        exporter.shutdown()
    return _judged(fact, outcome, stages.last.value)


def _judged(fact: OtlpFact, outcome: Outcome, stage: str) -> OtlpFact:
    if outcome.accepted:
        return fact
    stage = "login" if "the backend refuses the credentials" in outcome.detail else stage
    return replace(fact, stage=stage, detail=outcome.detail, is_unsupported=outcome.unsupported)


def _ahead_s(answer: Answer) -> float | None:
    """Return how far the backend's clock is ahead of this host's; `None`: it sends no time."""
    try:
        sent = parsedate_to_datetime(answer.headers.get("date", "")[:40])
        return sent.timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
