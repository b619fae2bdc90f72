"""What may be said about an OTLP backend, and what follows from it.

A setting that is `None` is left to the official exporters, which read `OTEL_EXPORTER_OTLP_*`. They read
every one of them but the protocol (opentelemetry-exporter-otlp 1.45.2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from agent.errors import ConfigError, Problem

Protocol: TypeAlias = Literal["http", "grpc"]
Identity: TypeAlias = Literal["points", "resource"]

GRPC_PORT = 4317
METRICS_PATH = "/v1/metrics"

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOLS: Mapping[str, Protocol] = {"grpc": "grpc", "http/protobuf": "http"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One backend and how often it hears from us."""

    endpoint: str | None = None  # http:// or https://, host and port; for Prometheus with its path
    endpoint_is_whole: bool = False  # nothing is appended to it
    protocol: Protocol | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)  # a token perhaps
    compression: Literal["none", "gzip"] | None = None
    timeout_s: float | None = None  # one export, the exporter's own retries included
    interval_s: float = 10.0
    # Prometheus drops what stands on the resource only, and two VMs become one series.
    identity: Identity = "points"
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


def protocol(settings: Settings, environ: Mapping[str, str]) -> Protocol:
    """Return how to talk: as set, as the environment says, gRPC on its own port, else HTTP.

    Raises:
        ConfigError: the environment asks for a protocol that we do not have.
    """
    if settings.protocol is not None:
        return settings.protocol
    for variable in _PROTOCOL_VARIABLES:
        if asked := environ.get(variable, "").strip():
            if asked not in _PROTOCOLS:
                message = f"{asked!r} is not supported: use http/protobuf or grpc"
                raise ConfigError([Problem(variable, message)])
            return _PROTOCOLS[asked]
    endpoint = settings.endpoint or next(filter(None, map(environ.get, _ENDPOINT_VARIABLES)), "")
    return "grpc" if _authority(endpoint).endswith(f":{GRPC_PORT}") else "http"


def http_endpoint(settings: Settings) -> str | None:
    """Return the URL to post to: with the metrics path, where it is not there; `None`: not given by us."""
    if settings.endpoint is None or settings.endpoint_is_whole:
        return settings.endpoint
    parts = urlsplit(settings.endpoint)
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith(METRICS_PATH) else path + METRICS_PATH))


def _authority(endpoint: str) -> str:
    """Host and port; gRPC's form without a scheme is understood too."""
    return endpoint.partition("://")[2].partition("/")[0] or endpoint.partition("/")[0]
