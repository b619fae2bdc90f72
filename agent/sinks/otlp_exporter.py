"""The official OTLP exporters, and access to details that they do not expose. Only this file imports them.

They provide TLS, compression and retries. They encode metrics of the SDK; the agent passes OTLP's own
messages after that step, through private hooks (docs/decisions/0012).

They return only success or failure. The status, the partial success and the requested delay are read here:
over HTTP with a custom session, over gRPC through a private hook (1.45.2 has no public one; issue #4803).
Their loggers repeat at every attempt what an `Outcome` has once.
"""

import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from agent.sinks.otlp_cycle import Exporter, Outcome
from agent.sinks.otlp_settings import Settings, http_endpoint

if TYPE_CHECKING:
    import grpc
    import requests
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
    )

# 400 and INVALID_ARGUMENT by the protocol's specification; 413 and 422 by what backends answer.
_REFUSED_STATUSES = frozenset({400, 413, 422})
_DETAIL_CHARACTERS = 300


def open_exporter(settings: Settings) -> Exporter:
    """Return the exporter. It connects at the first export.

    Raises:
        OSError, ValueError: a certificate file cannot be read, or is not one.
    """
    return _open_grpc(settings) if settings.protocol == "grpc" else _open_http(settings)


def _open_http(settings: Settings) -> Exporter:
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    answers = _Answers()

    class Session(requests.Session):
        def send(self, request: "requests.PreparedRequest", **kwargs: Any) -> "requests.Response":
            answers.clear()
            if settings.ca_file is not None:
                kwargs["verify"] = str(settings.ca_file)  # takes precedence over REQUESTS_CA_BUNDLE
            try:
                response = super().send(request, **kwargs)
            except (
                OSError,
                ValueError,
            ) as error:  # requests raises OSErrors; a bad URL is a ValueError too
                answers.outcome = Outcome(accepted=False, detail=str(error)[:_DETAIL_CHARACTERS])
                raise
            answers.outcome = _http_outcome(response)
            return response

    class EncodedExporter(OTLPMetricExporter):
        def export_request(self, request: "ExportMetricsServiceRequest") -> MetricExportResult:
            return self._export_batch(request)

    compression = {"gzip": Compression.Gzip, "none": Compression.NoCompression}
    exporter = EncodedExporter(
        endpoint=http_endpoint(settings),
        certificate_file=_name(settings.ca_file),
        client_key_file=_name(settings.key_file),
        client_certificate_file=_name(settings.cert_file),
        headers=dict(settings.headers),
        timeout=settings.timeout_s,
        compression=compression[settings.compression],
        session=Session(),
    )
    return _Official(exporter, answers)


def _open_grpc(settings: Settings) -> Exporter:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    answers = _Answers()

    class EncodedExporter(OTLPMetricExporter):
        def export_request(self, request: "ExportMetricsServiceRequest") -> MetricExportResult:
            return self._export(cast("MetricsData", request))  # the two methods below handle it

        def _translate_data(self, data: MetricsData) -> "ExportMetricsServiceRequest":
            return cast("ExportMetricsServiceRequest", data)

        def _count_data(self, data: MetricsData) -> int:
            return 0  # for the exporter's own metrics, which are off

        def _initialize_channel_and_stub(self) -> None:
            super()._initialize_channel_and_stub()
            stub = cast("Any", self)._client
            export = stub.Export

            def watched(**kwargs: Any) -> "ExportMetricsServiceResponse":
                answers.clear()
                try:
                    response = export(**kwargs)
                except grpc.RpcError as error:
                    answers.outcome = _grpc_failure(cast("grpc.Call", error))
                    raise
                answers.outcome = _accepted(response)
                return response

            stub.Export = watched

    compression = {"gzip": grpc.Compression.Gzip, "none": grpc.Compression.NoCompression}
    credentials = None
    if settings.ca_file or settings.cert_file:
        key_file = settings.key_file or settings.cert_file
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_read(settings.ca_file),
            private_key=_read(key_file) if settings.cert_file else None,
            certificate_chain=_read(settings.cert_file),
        )
    exporter = EncodedExporter(
        endpoint=settings.endpoint,
        credentials=credentials,
        headers={name.lower(): value for name, value in settings.headers.items()},
        timeout=settings.timeout_s,
        compression=compression[settings.compression],
    )
    return _Official(exporter, answers)


class _OfficialExporter(typing.Protocol):
    def export_request(self, request: "ExportMetricsServiceRequest") -> MetricExportResult: ...
    def shutdown(self) -> None: ...


class _Answers:
    """The last answer seen by the transport."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def clear(self) -> None:
        self.outcome = None


class _Official:
    """An official exporter, with the outcome of each export."""

    def __init__(self, exporter: _OfficialExporter, answers: _Answers) -> None:
        self._exporter = exporter
        self._answers = answers

    def export(self, request: "ExportMetricsServiceRequest") -> Outcome:
        self._answers.clear()
        result = self._exporter.export_request(request)
        outcome = self._answers.outcome
        if outcome is None:
            return Outcome(accepted=False, detail="the exporter did not send the metrics")
        if result is MetricExportResult.SUCCESS or not outcome.accepted:
            return outcome  # the exporter counts a redirect as success, the agent does not
        return Outcome(accepted=False, detail="the exporter stopped retrying")

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _http_outcome(response: "requests.Response") -> Outcome:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    status = response.status_code
    if 200 <= status < 300:
        answer = ExportMetricsServiceResponse()
        if response.headers.get("content-type", "").startswith("application/x-protobuf"):
            try:
                answer.ParseFromString(response.content)
            except DecodeError:
                return Outcome(accepted=True)  # the status counts; the details are lost
        return _accepted(answer)
    detail = f"HTTP {status} {response.reason}"
    if response.headers.get("content-type", "").startswith("text/plain"):
        detail = f"{detail}: {response.text.strip()[:_DETAIL_CHARACTERS]}"
    return Outcome(
        accepted=False,
        refused=status in _REFUSED_STATUSES,
        detail=detail,
        retry_after_s=_retry_after_s(response.headers.get("retry-after", "")),
    )


def _retry_after_s(value: str) -> float | None:
    """Return the delay in seconds; `None`: absent, or a date, which is left to the next cycle."""
    return float(value) if value.isdecimal() else None


def _grpc_failure(call: "grpc.Call") -> Outcome:
    import grpc
    from google.rpc.error_details_pb2 import RetryInfo

    retry_after_s = None
    for name, value in call.trailing_metadata() or ():
        if name == "google.rpc.retryinfo-bin":
            delay = RetryInfo.FromString(cast("bytes", value)).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    return Outcome(
        accepted=False,
        refused=call.code() is grpc.StatusCode.INVALID_ARGUMENT,
        detail=f"gRPC {call.code().name}: {call.details()}"[:_DETAIL_CHARACTERS],
        retry_after_s=retry_after_s,
    )


def _accepted(answer: "ExportMetricsServiceResponse") -> Outcome:
    partial = answer.partial_success
    return Outcome(accepted=True, rejected_points=partial.rejected_data_points, detail=partial.error_message)


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
