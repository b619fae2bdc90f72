"""The official OTLP exporters, and access to details that they do not expose. Only this file imports them.

Those for metrics also send logs: the URL, or the method of gRPC, is another one. They provide compression and
retries. They encode metrics of the SDK; the agent passes OTLP's own messages after that step, through private
hooks (docs/decisions/0012). What they leave open is done by the agent:

- they return only success or failure; the status, the partial success and the requested delay are read by
  sinks/otlp_answers.py;
- they read headers, certificates and more from the environment, which configures the agent only where
  docs/configuration.md names them: headers, TLS and proxy come from the settings (sinks/otlp_credentials.py);
- they do not bound an answer: over HTTP sinks/http_post.py does, over gRPC the options of the channel, and
  sinks/grpc_connections.py for frames that are no answer;
- a malformed trailer of gRPC raises in their retry loop: it gets a valid one, or none.

Their loggers repeat at every attempt what an `Outcome` has once.
"""

import os
import time
import typing
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import structlog
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from agent.sinks import otlp_failures
from agent.sinks.grpc_connections import LOOK_EVERY_S, WATCHDOG, GrpcConnections
from agent.sinks.http_post import AttemptFailed, HttpClient, Stage
from agent.sinks.otlp_answers import RETRY_INFO, of_grpc, of_http, of_success, retry_info
from agent.sinks.otlp_credentials import Credentials
from agent.sinks.otlp_cycle import Exporter, Outcome
from agent.sinks.otlp_settings import Settings, authority, http_endpoint

if TYPE_CHECKING:
    import grpc
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
    )

    Request: typing.TypeAlias = ExportMetricsServiceRequest | ExportLogsServiceRequest

log = structlog.get_logger("barograph.otlp")

_OF_A_REQUEST = frozenset({"content-type", "content-encoding", "user-agent"})
# gRPC decompresses up to a thousandfold what this limit lets through.
_GRPC_ANSWER_BYTES_MAX = 16 * 1024
_GRPC_METADATA_BYTES_MAX = 16 * 1024
_OVERDUE_S = 1.0  # after its deadline a call is ended from outside


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
    attempts = _Attempts(watch, redact)
    opened = _open_grpc if settings.protocol == "grpc" else _open_http
    return _Official(opened(settings, credentials, attempts), attempts)


class _Attempts:
    """The result of the last attempt, as the transport saw it."""

    def __init__(self, watch: Watch, redact: Callable[[str], str]) -> None:
        self.watch = watch
        self.outcome: Outcome | None = None
        self.redact = redact  # for a text of the backend, before it is cut

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
        self._attempts.begin()
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


# --- HTTP ---


def _open_http(settings: Settings, credentials: Credentials, attempts: _Attempts) -> _OfficialExporter:
    from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    if settings.endpoint.startswith("https://"):
        credentials.context()
    client = HttpClient(
        otlp_failures.target(settings), credentials.context, attempts.watch.enter, attempts.redact
    )

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
                name: value for name, value in (headers or {}).items() if name.lower() in _OF_A_REQUEST
            }
            try:
                sent = {**of_request, **credentials.headers()}
                answer = client.post(data or b"", sent, settings.timeout_s if timeout is None else timeout)
            except AttemptFailed as error:
                attempts.end(Outcome(accepted=False, detail=error.failure.words))
                return Result(error=error)
            outcome = attempts.end(of_http(answer, settings, attempts.redact))
            return Result(status_code=answer.status, reason="", retry_after_s=outcome.retry_after_s)

        def close(self) -> None:
            client.close()

        def is_connection_error(self, exception: Exception | None) -> bool:
            return isinstance(exception, AttemptFailed) and exception.failure.may_pass

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


# --- gRPC ---


def _open_grpc(settings: Settings, credentials: Credentials, attempts: _Attempts) -> _OfficialExporter:
    # gRPC's core writes to stderr itself, at each attempt, and what it writes may be bytes of the backend.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.exporter import OTLPExporterMixin
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

    stub = cast("Any", MetricsServiceStub if settings.signal == "metrics" else LogsServiceStub)

    class Failed(grpc.RpcError):
        """A failed call, of which the retry loop can read everything."""

        def __init__(self, code: grpc.StatusCode, retry_after_s: float | None) -> None:
            self._code = code
            self._retry_after_s = retry_after_s

        def code(self) -> grpc.StatusCode:
            return self._code

        def details(self) -> str:
            return ""  # for a log that is off; the outcome has them

        def trailing_metadata(self) -> Any:
            return () if self._retry_after_s is None else ((RETRY_INFO, retry_info(self._retry_after_s)),)

    connections = GrpcConnections()

    class EncodedExporter(OTLPMetricExporter):
        _stamp: Hashable = None

        def __init__(self) -> None:
            # Not OTLPMetricExporter's: it reads the environment.
            initialize = cast("Any", OTLPExporterMixin).__init__
            initialize(
                self,
                stub=stub,
                result=MetricExportResult,
                endpoint=authority(settings.endpoint),
                insecure=True,  # the channel is made below; a URL with https:// would override this
                headers=(("user-agent", "barograph"),),
                timeout=settings.timeout_s,
                compression=compression[settings.compression],
                retryable_error_codes=_RETRYABLE,
                signal="metrics",
            )

        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            WATCHDOG.remove(connections)
            super().shutdown(timeout_millis, **kwargs)

        def export_request(self, request: "Request") -> MetricExportResult:
            WATCHDOG.add(connections)
            pause_s = connections.pause_left_s()
            if pause_s > 0:
                detail = otlp_failures.flooded(settings)
                attempts.end(Outcome(accepted=False, detail=detail, retry_after_s=pause_s))
                return MetricExportResult.FAILURE
            if self._is_tls and credentials.pem()[0] != self._stamp:
                cast("Any", self)._channel.close()
                self._initialize_channel_and_stub()
            return self._export(cast("MetricsData", request))  # the two methods below handle it

        def _translate_data(self, data: MetricsData) -> "ExportMetricsServiceRequest":
            return cast("ExportMetricsServiceRequest", data)

        def _count_data(self, data: MetricsData) -> int:
            return 0  # for the exporter's own metrics, which are off

        @property
        def _is_tls(self) -> bool:
            return settings.endpoint.startswith("https://")

        def _initialize_channel_and_stub(self) -> None:
            target, options = authority(settings.endpoint), _channel_options(settings, connections)
            algorithm = compression[settings.compression]
            channel: grpc.Channel
            if self._is_tls:
                self._stamp, (roots, key, certificates) = credentials.pem()
                trust = grpc.ssl_channel_credentials(roots, key, certificates)
                channel = grpc.secure_channel(target, trust, options, algorithm)
            else:
                channel = grpc.insecure_channel(target, options, algorithm)
            export = stub(channel).Export
            mine = cast("Any", self)
            mine._channel, mine._client = channel, SimpleNamespace(Export=partial(watched, export))

    def answered(call: Any) -> "ExportMetricsServiceResponse | None":
        """Return the response; `None`: there is none yet."""
        try:
            return cast("ExportMetricsServiceResponse", call.result(LOOK_EVERY_S))
        except grpc.FutureTimeoutError:
            return None

    def watched(export: Any, **kwargs: Any) -> "ExportMetricsServiceResponse":
        attempts.begin()
        kwargs["metadata"] = tuple(credentials.headers().items())
        attempts.watch.enter(Stage.ANSWER)
        call = export.future(**kwargs)
        # gRPC does not end a call at its deadline while it reads frames without end.
        over_s = time.monotonic() + kwargs["timeout"] + _OVERDUE_S
        try:
            while (response := answered(call)) is None:
                connections.pause_left_s()
                if time.monotonic() > over_s:
                    connections.shut_down()
                    call.cancel()
        except grpc.FutureCancelledError:
            detail = otlp_failures.of_grpc("DEADLINE_EXCEEDED", "", settings)
            attempts.end(Outcome(accepted=False, detail=detail))
            raise Failed(codes.DEADLINE_EXCEEDED, None) from None
        except grpc.RpcError as error:
            outcome = attempts.end(of_grpc(cast("grpc.Call", error), settings, attempts.redact))
            code = cast("grpc.Call", error).code()
            raise Failed(code, outcome.retry_after_s) from None
        attempts.end(of_success(response))
        return response

    compression = {"gzip": grpc.Compression.Gzip, "none": grpc.Compression.NoCompression}
    codes = grpc.StatusCode
    _RETRYABLE = frozenset(  # as the protocol's specification has it
        {
            codes.CANCELLED,
            codes.DEADLINE_EXCEEDED,
            codes.ABORTED,
            codes.OUT_OF_RANGE,
            codes.UNAVAILABLE,
            codes.DATA_LOSS,
            codes.RESOURCE_EXHAUSTED,
        }
    )
    return EncodedExporter()


def _channel_options(settings: Settings, connections: GrpcConnections) -> list[tuple[str, str | int]]:
    options: list[tuple[str, str | int]] = [
        *connections.options(),
        ("grpc.primary_user_agent", "OTel-OTLP-Exporter-Python barograph"),
        ("grpc.max_receive_message_length", _GRPC_ANSWER_BYTES_MAX),
        ("grpc.max_metadata_size", _GRPC_METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", _GRPC_METADATA_BYTES_MAX),
        # Its own retries have no pause and no bound: a GOAWAY on each connection uses a core and gigabytes of
        # memory until the timeout. The exporter retries by itself.
        ("grpc.enable_retries", 0),
    ]
    # gRPC itself reads the variables in lower case alone, and decides otherwise than HTTP does.
    if settings.proxy is None:
        return [*options, ("grpc.enable_http_proxy", 0)]
    return [*options, ("grpc.http_proxy", settings.proxy)]
