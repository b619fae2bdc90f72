"""The settings of an OTLP backend, and what follows from them. Pure.

`OTEL_EXPORTER_OTLP_*` are settings like others: the configuration reads them, and everything is given here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

Protocol: TypeAlias = Literal["http", "grpc"]
Identity: TypeAlias = Literal["points", "resource"]
Signal: TypeAlias = Literal["metrics", "logs"]

GRPC_PORT = 4317
METRICS_PATH = "/v1/metrics"
LOGS_PATH = "/v1/logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One backend, and how often metrics are exported to it."""

    endpoint: str  # http:// or https://, host and port; for Prometheus with its path
    endpoint_is_whole: bool = False  # nothing is appended to it
    endpoint_setting: str = "otlp.endpoint"  # where it is from, for messages
    protocol: Protocol
    signal: Signal = "metrics"
    logs_required: bool = False  # False: a backend without logs gets none
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)  # may hold a token
    compression: Literal["none", "gzip"] = "gzip"
    timeout_s: float = 10.0  # one export, the exporter's own retries included
    interval_s: float = 10.0
    # "points": on the resource too. Prometheus drops most of its attributes, and two VMs would be one series.
    identity: Identity = "points"
    headers_file: Path | None = (
        None  # more headers; this file and those below are read again when they change
    )
    bearer_token_file: Path | None = None
    ca_file: Path | None = None  # None: the system's certificate authorities
    cert_file: Path | None = None
    key_file: Path | None = None
    proxy: str | None = field(default=None, repr=False)  # http://, may have a user name and a password
    proxy_variable: str = ""  # the environment variable that the proxy is from


def default_protocol(endpoint: str) -> Protocol:
    """Return the protocol for an endpoint: gRPC on its own port, else HTTP."""
    authority = endpoint.partition("://")[2].partition("/")[0]
    return "grpc" if authority.endswith(f":{GRPC_PORT}") else "http"


def authority(url: str) -> str:
    """Return the host and port of a URL, without a user name or a password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def http_endpoint(settings: Settings) -> str:
    """Return the URL to post to: the endpoint with the signal's path, unless it is there or is not wanted."""
    if settings.endpoint_is_whole:
        return settings.endpoint
    parts = urlsplit(settings.endpoint)
    path = parts.path.rstrip("/").removesuffix(METRICS_PATH)
    path += METRICS_PATH if settings.signal == "metrics" else LOGS_PATH
    return urlunsplit(parts._replace(path=path))
