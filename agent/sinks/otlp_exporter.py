"""The official OTLP exporter, and access to details that it does not expose. Only this file imports it.

That for metrics over HTTP also sends logs, with another URL, and gRPC, with another transport. It provides
compression and retries. It encodes metrics of the SDK; the agent passes OTLP's own messages after that step,
through private hooks (docs/decisions/0012). What it leaves open is done by the agent:

- it returns only success or failure; the status, the partial success and the requested delay are read by
  sinks/otlp_answers.py;
- it reads headers, certificates and more from the environment, which configures the agent only where
  docs/configuration.md names them: headers, TLS and proxy come from the settings (sinks/otlp_credentials.py);
- its transports and the library of gRPC do not bound an answer; sinks/http_post.py and sinks/grpc_call.py do
  (docs/decisions/0028).

Its loggers repeat at every attempt what an `Outcome` has once.
"""

import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import structlog
from opentelemetry.sdk.metrics.export import MetricExportResult

from agent.sinks import otlp_failures
from agent.sinks.http_connection import AttemptFailed, Stage
from agent.sinks.http_post import HttpClient
from agent.sinks.otlp_answers import is_retryable, of_grpc, of_http
from agent.sinks.otlp_credentials import Credentials
from agent.sinks.otlp_cycle import Exporter, Outcome
from agent.sinks.otlp_settings import Settings, http_endpoint

if TYPE_CHECKING:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    Request: typing.TypeAlias = ExportMetricsServiceRequest | ExportLogsServiceRequest

log = structlog.get_logger("barograph.otlp")

_OF_A_REQUEST = frozenset({"content-type", "content-encoding", "user-agent"})
_METHODS = {
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}


class Watch:
    """What an exporter reports while an export is in progress. Written by its thread, read by any."""

    stage: Stage | None = None
    began_s = 0.0  # monotonic: when the attempt began

    def enter(self, stage: Stage | None) -> None:
        """Note the stage of the attempt; `None`: it has ended."""
        if stage in (Stage.RESOLVE, Stage.ANSWER):
            self.began_s = time.monotonic()
        self.stage = stage

    def failed(self, outcome: Outcome) -> None:
        """Report an attempt that failed; the exporter may make another one."""


def open_exporter(
    settings: Settings,
    watch: Watch | None = None,
    add_secret: Callable[[str], None] = lambda _: None,
    redact: Callable[[str], str] = str,
) -> Exporter:
    """Return the exporter. It connects at the first export.

    Raises:
        OSError, ValueError: a file with headers or certificates cannot be read, or is not one.
    """
    return _open(settings, watch or Watch(), add_secret, redact)


def open_logs_exporter(
    settings: Settings, watch: Watch, add_secret: Callable[[str], None], redact: Callable[[str], str]
) -> "_Official":
    """Return the exporter for logs, which settings of that signal need. Otherwise like `open_exporter`."""
    return _open(settings, watch, add_secret, redact)


def _open(
    settings: Settings, watch: Watch, add_secret: Callable[[str], None], redact: Callable[[str], str]
) -> "_Official":
    credentials = Credentials(settings, add_secret)
    credentials.headers()
    attempts = _Attempts(watch, redact, settings.timeout_s)
    return _Official(_opened(settings, credentials, attempts), attempts)


class _Attempts:
    """The result of the last attempt, as the transport saw it."""

    def __init__(self, watch: Watch, redact: Callable[[str], str], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.watch = watch
        self.outcome: Outcome | None = None
        self.deadline_s = 0.0  # of the export (monotonic); the exporter's own follows the wall clock
        self.redact = redact  # for a text of the backend, before it is cut

    def begin_export(self) -> None:
        self.deadline_s = time.monotonic() + self._timeout_s
        self.begin()

    def begin(self) -> None:
        self.outcome = None

    def end(self, outcome: Outcome) -> Outcome:
        self.watch.enter(None)
        self.outcome = outcome = replace(outcome, detail=self.redact(outcome.detail))
        if not outcome.accepted and not outcome.refused:
            self.watch.failed(outcome)
        return outcome


class _OfficialExporter(typing.Protocol):
    def export_request(self, request: "Request") -> MetricExportResult: ...
    def shutdown(self) -> None: ...


class _Official:
    """An official exporter, with the outcome of each export."""

    def __init__(self, exporter: _OfficialExporter, attempts: _Attempts) -> None:
        self._exporter = exporter
        self._attempts = attempts

    def export(self, request: "Request") -> Outcome:
        self._attempts.begin_export()
        try:
            result = self._exporter.export_request(request)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever a backend answers is an outcome
            # Not its text or its traceback: a library may quote a header.
            detail = "a bug in the agent; report it with this log line"
            log.error("otlp export crashed", error=type(error).__name__, detail=detail)
            return self._attempts.end(
                Outcome(accepted=False, detail=f"internal error: {type(error).__name__}; report it")
            )
        outcome = self._attempts.outcome
        if outcome is None:
            return Outcome(accepted=False, detail="the exporter did not send the request")
        if result is MetricExportResult.SUCCESS or not outcome.accepted:
            return outcome  # the exporter counts a redirect as success, the agent does not
        return Outcome(accepted=False, detail="the exporter stopped retrying; check the log of the backend")

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _opened(settings: Settings, credentials: Credentials, attempts: _Attempts) -> _OfficialExporter:
    from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    if settings.endpoint.startswith("https://"):
        credentials.context()
    transport_class = _Grpc if settings.protocol == "grpc" else _Http
    attempt = transport_class(settings, credentials, attempts)

    @dataclass(frozen=True, slots=True)
    class Result(BaseHTTPResult):
        """What the retry loop reads of an answer."""

        retry_after_s: float | None = None

        def content(self) -> bytes:
            return b""

        def headers(self) -> dict[str, str]:
            return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}

    class Transport(BaseHTTPTransport):
        def request(
            self,
            method: str,
            url: str,
            *,
            headers: dict[str, str] | None = None,
            timeout: float | None = None,
            data: bytes | None = None,
        ) -> Result:
            attempts.begin()
            of_request = {
                name.lower(): value
                for name, value in (headers or {}).items()
                if name.lower() in _OF_A_REQUEST
            }
            left_s = attempts.deadline_s - time.monotonic()
            timeout_s = left_s if timeout is None else min(timeout, left_s)
            try:
                status, outcome = attempt.make(data or b"", of_request, timeout_s)
            except AttemptFailed as error:
                attempts.end(Outcome(accepted=False, detail=error.failure.words))
                return Result(error=error)
            outcome = attempts.end(outcome)
            if not outcome.accepted and time.monotonic() >= attempts.deadline_s:
                status = HTTPStatus.BAD_REQUEST  # the exporter does not repeat it
            return Result(status_code=status, reason="", retry_after_s=outcome.retry_after_s)

        def close(self) -> None:
            attempt.close()

        def is_connection_error(self, exception: Exception | None) -> bool:
            may_pass = isinstance(exception, AttemptFailed) and exception.failure.may_pass
            return may_pass and time.monotonic() < attempts.deadline_s

    class EncodedExporter(OTLPMetricExporter):
        def export_request(self, request: "Request") -> MetricExportResult:
            # Not `_export_batch`, which counts the points of metrics.
            exported = cast("Any", self)._client.export(request.SerializeToString())
            return MetricExportResult.SUCCESS if exported.success else MetricExportResult.FAILURE

    compression = {"gzip": Compression.Gzip, "none": Compression.NoCompression}
    return EncodedExporter(
        endpoint=http_endpoint(settings),
        timeout=settings.timeout_s,
        compression=compression[settings.compression],
        _transport=Transport(),
    )


class _Http:
    """Makes attempts over HTTP/1.1."""

    def __init__(self, settings: Settings, credentials: Credentials, attempts: _Attempts) -> None:
        self._settings = settings
        self._credentials = credentials
        self._redact = attempts.redact
        target = otlp_failures.target(settings)
        self._client = HttpClient(target, credentials.context, attempts.watch.enter, attempts.redact)

    def make(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, Outcome]:
        """Return HTTP's status, and the outcome; raises `AttemptFailed`."""
        answer = self._client.post(body, {**headers, **self._credentials.headers()}, timeout_s)
        return answer.status, of_http(answer, self._settings, self._redact)

    def close(self) -> None:
        self._client.close()


class _Grpc:
    """Makes attempts over gRPC. The exporter compresses the message as it does the body of HTTP."""

    def __init__(self, settings: Settings, credentials: Credentials, attempts: _Attempts) -> None:
        from agent.sinks.grpc_call import GrpcClient

        self._settings = settings
        self._credentials = credentials
        self._redact = attempts.redact
        target = otlp_failures.target(settings)
        method = _METHODS[settings.signal]
        self._client = GrpcClient(target, method, credentials.context, attempts.watch.enter, attempts.redact)

    def make(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, Outcome]:
        """Return an HTTP status with the same meaning, and the outcome; raises `AttemptFailed`."""
        sent = {"user-agent": headers.get("user-agent", "barograph"), **self._credentials.headers()}
        is_gzip = self._settings.compression == "gzip"
        answer = self._client.call(body, sent, timeout_s, is_gzip=is_gzip)
        outcome = of_grpc(answer, self._settings, self._redact)
        if outcome.accepted:
            return HTTPStatus.OK, outcome
        return HTTPStatus.SERVICE_UNAVAILABLE if is_retryable(answer) else HTTPStatus.BAD_REQUEST, outcome

    def close(self) -> None:
        self._client.close()
