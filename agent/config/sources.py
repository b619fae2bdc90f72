"""The sources of settings: flags, variables and the file, each read into a layer, and layers merged."""

import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml

from agent.config.tree import ENV_PREFIX, SettingPath, all_settings
from agent.errors import ConfigError, Problem

Location = tuple[str | int, ...]
"""A place in the configuration as pydantic gives it: ("monitors", 1, "glob")."""


@dataclass(slots=True)
class Layer:
    """Settings as a tree, and for each setting that is not from the file its flag or variable."""

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
        """Return this layer merged over `lower`: sections are merged, settings replaced as a whole."""
        places = {path: place for path, place in lower.places.items() if not _has(self.tree, path)}
        return Layer(_merged(lower.tree, self.tree), places | self.places)

    def place(self, location: Location) -> str:
        """Name the place of a value for people: `--interval`, `BAROGRAPH_LOG__LEVEL`, `monitors[1].glob`."""
        for length in range(1, len(location) + 1):
            place = self.places.get(cast("SettingPath", location[:length]))
            if place is not None:
                return place
        return dotted(location)

    def holds(self, path: SettingPath) -> bool:
        """Whether the setting, or any setting of the section, is present."""
        return _has(self.tree, path)


def dotted(location: Location) -> str:
    """Return `monitors[1].glob` for ("monitors", 1, "glob")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for name, value in upper.items():
        below: object = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[name] = _merged(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            merged[name] = value
    return merged


def _has(tree: dict[str, Any], path: SettingPath) -> bool:
    name, *rest = path
    inner: object = tree.get(name)
    if not rest:
        return name in tree
    return isinstance(inner, dict) and _has(cast("dict[str, Any]", inner), tuple(rest))


# --- flags ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of the command line, by name. `None` and `()`: not given."""

    config: str | None = None  # the file; overrides BAROGRAPH_CONFIG
    monitor: tuple[str, ...] = ()
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

    def config_file(self, environ: Mapping[str, str]) -> str | None:
        """Return the path of the configuration file; `None`: none is used."""
        return self.config or environ.get(CONFIG_VARIABLE) or None

    def layer(self) -> Layer:
        """Return the settings given by flags."""
        layer = Layer()
        for name, path in _SETTING_OF_FLAG.items():
            value: str | tuple[str, ...] | None = getattr(self, name)
            if value not in (None, ()):
                layer.put(path, value, f"--{name.replace('_', '-')}")
        return layer


_SETTING_OF_FLAG: Mapping[str, SettingPath] = {
    "monitor": ("monitors",),
    "libvirt": ("libvirt",),
    "interval": ("polling", "interval"),
    "policy": ("polling", "policy"),
    "kafka": ("kafka", "bootstrap_servers"),
    "otlp": ("otlp", "endpoint"),
    "host_id": ("host", "id"),
    "host_name": ("host", "name"),
    "state_directory": ("state_directory",),
    "web": ("web", "listen"),
    "log_level": ("log", "level"),
}


# --- variables ---

CONFIG_VARIABLE = "BAROGRAPH_CONFIG"
CONTAINER_VARIABLE = "BAROGRAPH_IN_CONTAINER"
"""Set by our image. systemd's `container` is not enough: a host that is itself a container (LXC) has it."""

# The file, the container's mark, and the Makefile's directory for its tools.
_NOT_SETTINGS = {CONFIG_VARIABLE, CONTAINER_VARIABLE, "BAROGRAPH_CACHE"}
# Kubernetes sets these in every pod for a Service named barograph (or barograph-…) in its namespace.
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
"""The endpoint for metrics to which `/v1/metrics` is not appended (specification/protocol/exporter.md)."""
LOGS_ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"


def own_variables(environ: Mapping[str, str]) -> tuple[Layer, list[Problem]]:
    """Return the settings of `BAROGRAPH_*`, without empty ones, and a problem for each unknown variable."""
    known = {setting.variable: setting for setting in all_settings()}
    ours = {name: value for name, value in environ.items() if name.startswith(ENV_PREFIX) and value}
    layer = Layer()
    for name, value in ours.items():
        if name in known:
            layer.put(known[name].path, value, name)
    problems = [
        _unknown_variable(name, list(known))
        for name in sorted(ours.keys() - known.keys() - _NOT_SETTINGS)
        if _SERVICE_LINK.search(name) is None
    ]
    return layer, problems


def otel_variables(environ: Mapping[str, str]) -> Layer:
    """Return the settings of OpenTelemetry's variables; those for metrics override the general ones.

    Of those for logs, only the endpoint is read.
    """
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
    if endpoint := environ.get(LOGS_ENDPOINT_VARIABLE, "").strip():
        place = ("otlp", "logs_endpoint")
        layer.put(place, _translated("ENDPOINT", endpoint, environ), LOGS_ENDPOINT_VARIABLE)
    return layer


def _translated(name: str, value: str, environ: Mapping[str, str]) -> str:
    match name:
        case "PROTOCOL":
            return "http" if value == "http/protobuf" else value
        case "TIMEOUT":
            # Milliseconds, as in the specification; OpenTelemetry's Python exporters read seconds.
            return f"{value}ms" if value.isdecimal() else value
        case "ENDPOINT" if "://" not in value:
            # gRPC's form. The specification's default is a secure channel.
            insecure = environ.get(f"{_OTEL}METRICS_INSECURE") or environ.get(f"{_OTEL}INSECURE") or "false"
            return f"{'http' if insecure.lower() == 'true' else 'https'}://{value}"
        case _:
            return value


def _unknown_variable(name: str, known: list[str]) -> Problem:
    names = [each.removeprefix(ENV_PREFIX) for each in known]
    close = get_close_matches(name.removeprefix(ENV_PREFIX), names, n=1)
    hint = f"did you mean {ENV_PREFIX}{close[0]}?" if close else "docs/configuration.md lists all of them"
    return Problem(name, f"unknown variable; {hint}")


# --- the file ---

SIZE_MAX_BYTES = 2**20
"""Far above the size of any configuration: a larger file is another file, named by mistake."""

VALUES_MAX = 100_000
"""With those that aliases stand for."""


def read_yaml(path: str) -> dict[str, Any]:
    """Return the settings of the file; a key without a value counts as absent.

    The file is YAML 1.1 without tags. A key that is given twice is an error.

    Raises:
        ConfigError: the file cannot be read, or is not valid; the place is its path, line and column.
    """
    try:
        text = _read(Path(path))
        # A subclass of SafeLoader: it makes plain values only, as yaml.safe_load does.
        loaded: object = yaml.load(text, _Loader)
    except OSError as error:
        message = f"cannot be read: {error.strerror}; pass a configuration file that the agent can read"
        raise _invalid(path, message) from error
    except UnicodeDecodeError as error:
        raise _invalid(
            path,
            f"not UTF-8: byte {error.start} is {error.object[error.start]:#04x}; save the file as UTF-8",
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        raise _invalid(place, _syntax(error)) from error
    except yaml.YAMLError as error:
        raise _invalid(path, f"not YAML: {' '.join(str(error).split())}; fix the syntax") from error
    except RecursionError as error:
        raise _invalid(path, "nested too deeply; docs/configuration.md has examples") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise _invalid(path, "not a mapping; write `setting: value` lines, as in docs/configuration.md")
    return _without_nulls(cast("dict[object, object]", loaded))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(SIZE_MAX_BYTES + 1)
    if len(content) > SIZE_MAX_BYTES:
        raise OSError(0, f"larger than {SIZE_MAX_BYTES} bytes")
    return content.decode()


def _invalid(place: str, message: str) -> ConfigError:
    return ConfigError([Problem(place, message)])


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "invalid syntax"
    context = f" ({error.context})" if error.context else ""
    hint = "fix the syntax"
    if "\\t" in problem:
        hint = "indent with spaces"
    elif "mapping values are not allowed" in problem:
        hint = "check quotes and indentation"
    elif "duplicate key" in problem:
        hint = "remove one"
    elif "undefined alias" in problem:  # its name, and that of a tag, may be a secret without quotes
        problem, hint = "found an alias without an anchor", "quote a text that begins with *"
    elif "aliases are expanded" in problem:
        hint = "use fewer aliases"
    elif "looks like a date" in problem:
        hint = "if it is text, put it in quotes"
    elif "could not determine a constructor" in problem:
        problem, hint = "unknown tag", "remove it, or quote a text that begins with !"
    return f"not YAML: {problem}{context}; {hint}"


def _without_nulls(mapping: dict[object, object]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in mapping.items():
        if value is not None:
            kept[str(key)] = (
                _without_nulls(cast("dict[object, object]", value)) if isinstance(value, dict) else value
            )
    return kept


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node has, with those of aliases; infinite if it contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until all below is counted
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        known[id(node)] = 1 + sum(_values(each, known) for each in below)
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader without its silent choice of the last of two equal keys, and bounded.

    An alias stands for all that its anchor has, so a few lines of aliases of aliases can stand for any number
    of values.
    """

    def construct_document(self, node: yaml.Node) -> object:
        if _values(node, {}) > VALUES_MAX:
            problem = f"more than {VALUES_MAX:,} values after aliases are expanded"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return cast(object, super().construct_document(node))

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            return cast(object, super().construct_object(node, deep))
        except ValueError as error:  # a date that the calendar does not have, a number of too many digits
            problem = "this value looks like a date or a number, but is not valid"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[object, yaml.Mark] = {}
        for key_node, _ in node.value:
            key: object = cast("object", key_node.value)
            if isinstance(key, str) and key != "<<":
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None,
                        None,
                        f"duplicate key {key!r}, first in line {seen[key].line + 1}",
                        key_node.start_mark,
                    )
                seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep)
