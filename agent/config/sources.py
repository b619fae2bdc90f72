"""Where settings are written: flags, variables, the file. Each is read into a layer, laid over the others."""

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic_settings import EnvSettingsSource

from agent.config.tree import ENV_PREFIX, SettingPath, Written, all_settings
from agent.errors import ConfigError, Problem

Location = tuple[str | int, ...]
"""As pydantic gives it: ("monitors", 1, "glob")."""


@dataclass(slots=True)
class Layer:
    """Settings as a tree, and by setting the name of the place that is not the file: a flag, a variable."""

    tree: dict[str, Any] = field(default_factory=dict[str, Any])
    places: dict[SettingPath, str] = field(default_factory=dict[SettingPath, str])

    def put(self, path: SettingPath, value: object, place: str) -> None:
        """Add one setting."""
        section = self.tree
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = value
        self.places[path] = place

    def over(self, lower: "Layer") -> "Layer":
        """Return this one laid over `lower`: sections are joined, settings replaced whole."""
        places = {path: place for path, place in lower.places.items() if not _has(self.tree, path)}
        return Layer(_joined(lower.tree, self.tree), places | self.places)

    def place(self, location: Location) -> str:
        """Name the place of a value for people: `--interval`, `BAROGRAPH_LOG__LEVEL`, `monitors[1].glob`."""
        for length in range(1, len(location) + 1):
            place = self.places.get(cast("SettingPath", location[:length]))
            if place is not None:
                return place
        return dotted(location)

    def holds(self, path: SettingPath) -> bool:
        """Whether the setting, or anything in the section, was given."""
        return _has(self.tree, path)


def dotted(location: Location) -> str:
    """Return `monitors[1].glob` for ("monitors", 1, "glob")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _joined(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    joined = dict(lower)
    for name, value in upper.items():
        below: object = joined.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            joined[name] = _joined(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            joined[name] = value
    return joined


def _has(tree: dict[str, Any], path: SettingPath) -> bool:
    name, *rest = path
    inner: object = tree.get(name)
    if not rest:
        return name in tree
    return isinstance(inner, dict) and _has(cast("dict[str, Any]", inner), tuple(rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Flags as typed. `None` and `()`: not given."""

    config: str | None = None  # the file; it overrides BAROGRAPH_CONFIG
    monitors: tuple[str, ...] = ()
    libvirt: tuple[str, ...] = ()
    interval: str | None = None
    policy: str | None = None
    kafka: str | None = None
    otlp: str | None = None
    host_id: str | None = None
    host_name: str | None = None
    state_directory: str | None = None
    web: str | None = None
    log_level: str | None = None

    def layer(self) -> Layer:
        """Return them as settings, each with the flag it comes from."""
        given: dict[SettingPath, tuple[str, Any]] = {
            ("monitors",): ("--monitor", list(self.monitors) or None),
            ("libvirt",): ("--libvirt", list(self.libvirt) or None),
            ("polling", "interval"): ("--interval", self.interval),
            ("polling", "policy"): ("--policy", self.policy),
            ("kafka", "bootstrap_servers"): ("--kafka", self.kafka),
            ("otlp", "endpoint"): ("--otlp", self.otlp),
            ("host", "id"): ("--host-id", self.host_id),
            ("host", "name"): ("--host-name", self.host_name),
            ("state_directory",): ("--state-directory", self.state_directory),
            ("web", "listen"): ("--web", self.web),
            ("log", "level"): ("--log-level", self.log_level),
        }
        layer = Layer()
        for path, (flag, value) in given.items():
            if value is not None:
                layer.put(path, value, flag)
        return layer


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


SIZE_MAX_BYTES = 2**20
"""Far above any configuration: the wrong file was named."""


def read_yaml(path: str) -> dict[str, Any]:
    """Return the file's settings; a key without a value counts as not written.

    Raises:
        ConfigError: it cannot be read, or is no YAML; the place is its path, line and column.
    """
    try:
        text = _read(Path(path))
        # A SafeLoader of ours: it makes plain values only, as yaml.safe_load does.
        loaded: object = yaml.load(text, _Loader)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _refused(
            path, f"is not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        raise _refused(place, _syntax(error)) from error
    except yaml.YAMLError as error:
        raise _refused(path, f"is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise _refused(path, "is nested too deeply") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise _refused(path, "must be `setting: value` lines, as in docs/configuration.md")
    return _without_nulls(cast("dict[object, object]", loaded))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(SIZE_MAX_BYTES + 1)
    if len(content) > SIZE_MAX_BYTES:
        raise OSError(0, f"it is larger than {SIZE_MAX_BYTES} bytes, so hardly a configuration")
    return content.decode()


def _refused(place: str, message: str) -> ConfigError:
    return ConfigError([Problem(place, message)])


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be understood"
    context = f" ({error.context})" if error.context else ""
    hint = ""
    if "\\t" in problem:
        hint = ": indent with spaces"
    elif "mapping values are not allowed" in problem:
        hint = ": look for a missing quote, or for wrong indentation"
    elif "could not determine a constructor" in problem:
        hint = ": write it without the tag"
    return f"is not YAML: {problem}{context}{hint}"


def _without_nulls(mapping: dict[object, object]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in mapping.items():
        if value is not None:
            kept[str(key)] = (
                _without_nulls(cast("dict[object, object]", value)) if isinstance(value, dict) else value
            )
    return kept


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader lets the last of two equal keys win, in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[object, yaml.Mark] = {}
        for key_node, _ in node.value:
            key: object = cast("object", key_node.value)
            if isinstance(key, str) and key != "<<":
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None,
                        None,
                        f"{key!r} is written twice, first in line {seen[key].line + 1}",
                        key_node.start_mark,
                    )
                seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep)
