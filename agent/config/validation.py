"""Reads all sources, validates them together, and reports every problem in plain words."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.config import host_facts
from agent.config.contradictions import Finding, contradictions
from agent.config.host_facts import Host
from agent.config.sections import LibvirtConfig, MonitorConfig
from agent.config.sources import (
    CONFIG_VARIABLE,
    WHOLE_ENDPOINT_VARIABLE,
    Flags,
    Layer,
    Location,
    dotted,
    otel_variables,
    own_variables,
    read_yaml,
)
from agent.config.tree import SettingPath, Written, all_settings, sections
from agent.config.types import Section
from agent.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What holds, in users' words."""

    written: Written
    host: Host
    state_directory: str
    sasl_password: str | None = field(repr=False)
    endpoint_is_whole: bool  # nothing is appended to otlp.endpoint


def effective(flags: Flags, environ: Mapping[str, str], *, monitors_needed: bool = True) -> Effective:
    """Read all sources and judge them: flags before `BAROGRAPH_*` before the file before `OTEL_*`.

    Args:
        flags: what was typed.
        environ: the environment.
        monitors_needed: whether it is wrong to name none.

    Raises:
        ConfigError: with every problem that could be found.
    """
    file, problems, readable = _file(flags, environ)
    variables, unknown = own_variables(environ)
    own = flags.layer().over(variables.over(file))
    layer = own.over(otel_variables(environ))
    problems += unknown

    written, wrong = _validated(layer, problems)
    if not readable:
        wrong.add(())  # what else is missing may well be in it
    findings = list(contradictions(written, own))
    host = host_facts.host(written, own, environ, findings)
    state_directory = host_facts.state_directory(written, environ, findings)
    sasl_password = host_facts.sasl_password(written, findings)
    host_facts.check_libvirt(written, findings)
    host_facts.check_certificates(written.kafka.tls, ("kafka", "tls"), findings)
    host_facts.check_certificates(written.otlp.tls, ("otlp", "tls"), findings)
    if not monitors_needed and not written.monitors:
        findings = [finding for finding in findings if finding.path != ("monitors",)]
    problems += _follow(findings, wrong, layer)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return Effective(
        written=written,
        host=host,
        state_directory=state_directory,
        sasl_password=sasl_password,
        endpoint_is_whole=layer.place(("otlp", "endpoint")) == WHOLE_ENDPOINT_VARIABLE,
    )


def _file(flags: Flags, environ: Mapping[str, str]) -> tuple[Layer, list[Problem], bool]:
    """The file's settings, what is wrong with it, and whether it could be read at all."""
    path = flags.config or environ.get(CONFIG_VARIABLE)
    if not path:
        return Layer(), [], True
    try:
        layer = Layer(read_yaml(path))
    except ConfigError as error:
        return Layer(), list(error.problems), False
    problems = [
        Problem(
            setting.dotted,
            f"is a secret and must not stand in the file: use {setting.dotted}_file or {setting.variable}",
        )
        for setting in all_settings()
        if setting.env_only and layer.holds(setting.path)
    ]
    return layer, problems, True


def _validated(layer: Layer, problems: list[Problem]) -> tuple[Written, set[SettingPath]]:
    """Return the settings, with defaults where what is written is wrong, and which those are."""
    wrong: set[SettingPath] = set()
    tree = layer.tree
    while True:
        try:
            return Written(**tree), wrong
        except ValidationError as error:
            problems += explain(error, replace(layer, tree=tree))
            tree = deepcopy(tree)
            for each in error.errors():
                path = tuple(_names(each["loc"]))
                wrong.update([path, *(meant(each["loc"]) if each["type"] == "extra_forbidden" else ())])
                _remove(tree, path)


def _names(location: tuple[str | int, ...]) -> Iterator[str]:
    """The path of the setting that `location` is in: up to the first index, and not into headers."""
    settings = {setting.path for setting in all_settings()}
    path: SettingPath = ()
    for part in location:
        if isinstance(part, int) or path in settings:
            return
        path = (*path, part)
        yield part


def _remove(tree: dict[str, Any], path: SettingPath) -> None:
    section: Any = tree
    for name in path[:-1]:
        section = section.get(name, {})
    section.pop(path[-1], None)


def _follow(findings: list[Finding], wrong: set[SettingPath], layer: Layer) -> Iterator[Problem]:
    """What is still true although some settings were wrong and had to be taken as not written."""
    for finding in findings:
        touched = (finding.path, *finding.others)
        if not any(_within(path, broken) for path in touched for broken in wrong):
            yield Problem(layer.place(finding.path), finding.message)


def _within(path: SettingPath, broken: SettingPath) -> bool:
    """Whether `path` is the broken one, in it, or around it."""
    shared = min(len(path), len(broken))
    return path[:shared] == broken[:shared]


_NUMBERS = {"int_type", "int_parsing", "int_from_float", "int_parsing_size", "finite_number"}
_SWITCHES = {"bool_type", "bool_parsing"}
_LISTS = {"tuple_type", "list_type"}
_SECTIONS = {"model_type", "dict_type", "mapping_type", "model_attributes_type"}
_SHOWN_CHARACTERS = 80
_LISTED: Mapping[str, type[Section]] = {"monitors": MonitorConfig, "libvirt": LibvirtConfig}


def explain(error: ValidationError, layer: Layer) -> list[Problem]:
    """Return a problem for each finding, in the order of the settings."""
    return [Problem(layer.place(each["loc"]), _message(each)) for each in error.errors()]


def _message(error: ErrorDetails) -> str:
    kind, context = error["type"], cast("Mapping[str, Any]", error.get("ctx", {}))
    match kind:
        case "extra_forbidden":
            return _unknown(error["loc"])
        case "value_error":
            return str(context["error"])
        case "missing":
            return "is missing: every section under monitors needs it"
        case "enum" | "literal_error":
            return f"must be {context['expected']}, not {_shown(error['input'])}{_near(error)}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, not {_shown(error['input'])}"
        case "less_than_equal":
            return f"must be at most {context['le']}, not {_shown(error['input'])}"
        case "string_type":
            # Not repeated: it may be a secret.
            return "must be text: put it in quotes"
        case "too_short" | "string_too_short":
            return "is empty: write it, or leave the setting out"
        case _ if kind in _NUMBERS:
            return f"must be a whole number, not {_shown(error['input'])}"
        case _ if kind in _SWITCHES:
            return f"must be true or false, not {_shown(error['input'])}"
        case _ if kind in _LISTS:
            return f"must be a list, or text with commas, not {_kind(error['input'])}"
        case _ if kind in _SECTIONS:
            return f"must be a section of `name: value` lines, not {_kind(error['input'])}"
        case _:
            return error["msg"]


def meant(location: Location) -> tuple[SettingPath, ...]:
    """Return the settings or sections that somebody who wrote an unknown one at `location` probably meant."""
    name = str(location[-1])
    if (listed := _LISTED.get(str(location[0]))) is not None:
        close = get_close_matches(name, listed.model_fields, n=1)
        return tuple((f"{location[0]}[]", near) for near in close)
    section = tuple(str(part) for part in location[:-1])
    beside = tuple(
        (*section, near) for near in get_close_matches(name, sections()[section].model_fields, n=1)
    )
    elsewhere = tuple(setting.path for setting in all_settings() if setting.path[-1] == name)
    return beside or elsewhere


def _unknown(location: Location) -> str:
    found = meant(location)
    if found:
        return f"is no setting; did you mean {' or '.join(map(dotted, found))}?"
    listed = _LISTED.get(str(location[0]))
    known = sections()[tuple(str(part) for part in location[:-1])] if listed is None else listed
    return f"is no setting; here these are known: {', '.join(known.model_fields)}"


def _near(error: ErrorDetails) -> str:
    words = str(error.get("ctx", {})["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
    close = get_close_matches(str(error["input"]), words, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case dict():
            return "a section"
        case list() | tuple():
            return "a list"
        case _:
            return "this"
