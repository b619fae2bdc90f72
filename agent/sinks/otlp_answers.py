"""The outcome of an export, from the answer of the backend over HTTP or gRPC. Pure; answers are bounded."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.sinks import otlp_failures
from agent.sinks.grpc_answer import Code, GrpcAnswer
from agent.sinks.http_post import Answer
from agent.sinks.otlp_cycle import Outcome
from agent.sinks.otlp_settings import Settings

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

# 400 and INVALID_ARGUMENT by the protocol's specification; 413 and 422 by what backends answer.
_REFUSED_STATUSES = frozenset({400, 413, 422})
_UNSUPPORTED_STATUSES = frozenset({404, 405, 501})
_RETRY_INFO = "google.rpc.retryinfo-bin"
_STATUS_DETAILS = "grpc-status-details-bin"
_RETRY_INFO_TYPE = "google.rpc.RetryInfo"
_RETRYABLE = frozenset(  # as the protocol's specification has it
    {
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.ABORTED,
        Code.OUT_OF_RANGE,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)
_RETRY_AFTER_S = (0.1, 3600.0)  # what a delay that a backend requests is raised or lowered to


def of_http(answer: Answer, settings: Settings, redact: Callable[[str], str]) -> Outcome:
    """Return the outcome of a request over HTTP."""
    kind = answer.headers.get("content-type", "")
    if 200 <= answer.status < 300:
        return of_success(
            _response(answer.body if kind.startswith("application/x-protobuf") else b""), redact
        )
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


def of_grpc(answer: GrpcAnswer, settings: Settings, redact: Callable[[str], str]) -> Outcome:
    """Return the outcome of a call over gRPC."""
    if answer.code is Code.OK:
        return of_success(_response(answer.message), redact)
    return Outcome(
        accepted=False,
        refused=answer.code is Code.INVALID_ARGUMENT,
        unsupported=answer.code is Code.UNIMPLEMENTED,
        detail=otlp_failures.of_grpc(answer.code, redact(answer.details), settings),
        retry_after_s=_requested_delay_s(answer),
    )


def is_retryable(answer: GrpcAnswer) -> bool:
    """Whether the same request may be sent again after a pause (OTLP's specification, "Failures")."""
    return answer.code in _RETRYABLE or _requested_delay_s(answer) is not None


def _requested_delay_s(answer: GrpcAnswer) -> float | None:
    """Return the delay that a trailer requests; `None`: there is none that is valid."""
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    try:
        details = Status.FromString(answer.binary(_STATUS_DETAILS)).details
        encoded = [each.value for each in details if each.TypeName() == _RETRY_INFO_TYPE]
        if value := answer.binary(_RETRY_INFO):
            encoded.append(value)
        if not encoded:
            return None
        delay = RetryInfo.FromString(encoded[0]).retry_delay
    except DecodeError:
        return None
    return _delay_s(delay.seconds + delay.nanos / 1e9)


def _response(message: bytes) -> "ExportMetricsServiceResponse":
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    try:  # that of logs has the same fields under the same numbers
        return ExportMetricsServiceResponse.FromString(message)
    except DecodeError:
        return ExportMetricsServiceResponse()  # the status counts; the details are lost


def of_success(answer: "ExportMetricsServiceResponse", redact: Callable[[str], str]) -> Outcome:
    """Return the outcome of a request that was accepted, perhaps in part."""
    detail = otlp_failures.one_line(redact(answer.partial_success.error_message))
    return Outcome(accepted=True, rejected=answer.partial_success.rejected_data_points, detail=detail)
