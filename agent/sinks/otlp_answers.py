"""The outcome of an export, from the answer of the backend over HTTP or gRPC. Pure; answers are bounded."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.sinks import otlp_failures
from agent.sinks.http_post import Answer
from agent.sinks.otlp_cycle import Outcome
from agent.sinks.otlp_settings import Settings

if TYPE_CHECKING:
    import grpc
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

# 400 and INVALID_ARGUMENT by the protocol's specification; 413 and 422 by what backends answer.
_REFUSED_STATUSES = frozenset({400, 413, 422})
_UNSUPPORTED_STATUSES = frozenset({404, 405, 501})
RETRY_INFO = "google.rpc.retryinfo-bin"
_RETRY_INFO_BYTES_MAX = 1024
_RETRY_AFTER_S = (0.1, 3600.0)  # what a delay that a backend requests is raised or lowered to


def of_http(answer: Answer, settings: Settings, redact: Callable[[str], str]) -> Outcome:
    """Return the outcome of a request over HTTP."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    kind = answer.headers.get("content-type", "")
    if 200 <= answer.status < 300:
        message = ExportMetricsServiceResponse()  # that of logs has the same fields under the same numbers
        if kind.startswith("application/x-protobuf"):
            try:
                message.ParseFromString(answer.body)
            except DecodeError:
                return Outcome(accepted=True)  # the status counts; the details are lost
        return of_success(message)
    text = answer.body.decode("utf-8", "replace") if kind.startswith("text/plain") else ""
    return Outcome(
        accepted=False,
        refused=answer.status in _REFUSED_STATUSES,
        unsupported=answer.status in _UNSUPPORTED_STATUSES,
        detail=otlp_failures.of_status(answer.status, redact(answer.reason), redact(text), settings),
        retry_after_s=_retry_after_s(answer.headers.get("retry-after", "")),
    )


def _retry_after_s(value: str) -> float | None:
    """Return the delay in seconds; `None`: absent, or a date, which is left to the next cycle."""
    value = value.strip()
    return _delay_s(float(value[:20])) if value.isascii() and value.isdecimal() else None


def _delay_s(requested_s: float) -> float:
    shortest_s, longest_s = _RETRY_AFTER_S
    return min(max(requested_s, shortest_s), longest_s)


def of_grpc(call: "grpc.Call", settings: Settings, redact: Callable[[str], str]) -> Outcome:
    """Return the outcome of a call over gRPC that failed."""
    import grpc

    code = call.code()
    details = redact(call.details() or "")
    return Outcome(
        accepted=False,
        refused=code is grpc.StatusCode.INVALID_ARGUMENT,
        unsupported=code is grpc.StatusCode.UNIMPLEMENTED,
        detail=otlp_failures.of_grpc(code.name, details, settings),
        retry_after_s=_requested_delay_s(call),
    )


def _requested_delay_s(call: "grpc.Call") -> float | None:
    """Return the delay that a trailer requests; `None`: there is none that is valid."""
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo

    for name, value in call.trailing_metadata() or ():
        if name == RETRY_INFO and isinstance(value, bytes) and len(value) <= _RETRY_INFO_BYTES_MAX:
            try:
                delay = RetryInfo.FromString(value).retry_delay
            except DecodeError:
                continue
            return _delay_s(delay.seconds + delay.nanos / 1e9)
    return None


def retry_info(delay_s: float) -> bytes:
    """Return the trailer `RETRY_INFO` for a delay."""
    from google.protobuf.duration_pb2 import Duration
    from google.rpc.error_details_pb2 import RetryInfo

    seconds = int(delay_s)
    duration = Duration(seconds=seconds, nanos=int((delay_s - seconds) * 1e9))
    return RetryInfo(retry_delay=duration).SerializeToString()


def of_success(answer: "ExportMetricsServiceResponse | ExportLogsServiceResponse") -> Outcome:
    """Return the outcome of a request that was accepted, perhaps in part."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    detail = otlp_failures.one_line(answer.partial_success.error_message)
    if isinstance(answer, ExportMetricsServiceResponse):
        rejected = answer.partial_success.rejected_data_points
    else:
        rejected = answer.partial_success.rejected_log_records
    return Outcome(accepted=True, rejected=rejected, detail=detail)
