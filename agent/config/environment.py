"""What the environment says: `BAROGRAPH_*`, over the file, and `OTEL_EXPORTER_OTLP_*`, under it."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from pydantic_settings import EnvSettingsSource

from agent.config.merge import Layer
from agent.config.settings_list import SettingPath, all_settings
from agent.config.written import ENV_PREFIX, Written
from agent.errors import Problem

CONFIG_VARIABLE = "BAROGRAPH_CONFIG"
CONTAINER_VARIABLE = "BAROGRAPH_IN_CONTAINER"
"""Our image sets it. systemd's `container` will not do: a host that is itself a container (LXC) has it."""
# The file; where we are; where the Makefile keeps its tools; what makes the tests see our bugs (app.py).
_NOT_SETTINGS = {CONFIG_VARIABLE, CONTAINER_VARIABLE, "BAROGRAPH_CACHE", "BAROGRAPH_NO_CONTAINMENT"}
# Kubernetes gives every pod such variables for a Service called barograph (or barograph-…) beside it.
_SERVICE_LINK = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)

_OTEL = "OTEL_EXPORTER_OTLP_"
_OTEL_SETTINGS: dict[str, SettingPath] = {
    "ENDPOINT": ("otlp", "endpoint"),
    "PROTOCOL": ("otlp", "protocol"),
    "HEADERS": ("otlp", "headers"),
    "TIMEOUT": ("otlp", "timeout"),
    "COMPRESSION": ("otlp", "compression"),
    "CERTIFICATE": ("otlp", "tls", "ca_file"),
    "CLIENT_CERTIFICATE": ("otlp", "tls", "cert_file"),
    "CLIENT_KEY": ("otlp", "tls", "key_file"),
}
WHOLE_ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
"""The one endpoint to which `/v1/metrics` is not appended (specification/protocol/exporter.md)."""


class _Variables(EnvSettingsSource):
    """The library's reading of variables, on the environment it is given."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Written)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def own_variables(environ: Mapping[str, str]) -> tuple[Layer, list[Problem]]:
    """Return the settings of `BAROGRAPH_*`, without empty ones; a problem for each that is no setting."""
    known = {setting.variable: setting for setting in all_settings()}
    ours = {name: value for name, value in environ.items() if name.startswith(ENV_PREFIX) and value}
    given = {name: value for name, value in ours.items() if name in known}
    layer = Layer(_Variables(given)(), {known[name].path: name for name in given})
    problems = [
        Problem(name, _unknown(name, list(known)))
        for name in sorted(ours.keys() - known.keys() - _NOT_SETTINGS)
        if _SERVICE_LINK.search(name) is None
    ]
    return layer, problems


def otel_variables(environ: Mapping[str, str]) -> Layer:
    """Return what OpenTelemetry's own variables say; those for metrics go before the general ones."""
    layer = Layer()
    if (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_METRICS_EXPORTER") == "none"
    ):
        return layer
    for name, path in _OTEL_SETTINGS.items():
        variable = next(
            (each for each in (f"{_OTEL}METRICS_{name}", f"{_OTEL}{name}") if environ.get(each)), None
        )
        if variable is not None:
            layer.put(path, _translated(name, environ[variable].strip(), environ), variable)
    return layer


def _translated(name: str, value: str, environ: Mapping[str, str]) -> str:
    match name:
        case "PROTOCOL":
            return "http" if value == "http/protobuf" else value
        case "TIMEOUT":
            # Milliseconds, as the specification has it; Python's exporters take it for seconds.
            return f"{value}ms" if value.isdecimal() else value
        case "ENDPOINT" if "://" not in value:
            # gRPC's form. The specification's default is a secure channel.
            insecure = environ.get(f"{_OTEL}METRICS_INSECURE") or environ.get(f"{_OTEL}INSECURE") or "false"
            return f"{'http' if insecure.lower() == 'true' else 'https'}://{value}"
        case _:
            return value


def _unknown(name: str, known: list[str]) -> str:
    words = [each.removeprefix(ENV_PREFIX) for each in known]
    for close in get_close_matches(name.removeprefix(ENV_PREFIX), words, n=1):
        return f"is no setting; did you mean {ENV_PREFIX}{close}?"
    return "is no setting: docs/configuration.md has the list"
