"""Reads all sources, validates them together, and reports every problem in plain words."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.config import host_facts
from agent.config.cautions import cautions
from agent.config.choice_sections import RuleConfig
from agent.config.contradictions import Finding, contradictions
from agent.config.host_facts import Host
from agent.config.labels import effective_labels
from agent.config.libvirt_sections import LibvirtConfig, MetadataConfig
from agent.config.proxies import Proxy, proxy_for
from agent.config.sections import MonitorConfig
from agent.config.sink_sections import TlsFiles
from agent.config.sources import (
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
    """The effective configuration, in the terms of the settings."""

    written: Written
    host: Host
    state_directory: str
    sasl_password: str | None = field(repr=False)
    client_secret: str | None = field(repr=False)  # for the token endpoint
    token: str | None = field(repr=False)  # in kafka.sasl.oauth.token_file at the start
    endpoint_is_whole: bool  # /v1/metrics is not appended to otlp.endpoint
    otlp_proxy: Proxy | None
    otlp_logs_proxy: Proxy | None  # to otlp.logs_endpoint
    token_proxy: Proxy | None
    cautions: tuple[Problem, ...]  # warnings
    labels: Mapping[str, str]  # constant


def effective(flags: Flags, environ: Mapping[str, str], *, monitors_needed: bool = True) -> Effective:
    """Read and validate all sources: flags over `BAROGRAPH_*` over the file over `OTEL_*`.

    Args:
        flags: the flags of the command line.
        environ: the environment.
        monitors_needed: whether a configuration without monitors is an error.

    Raises:
        ConfigError: with every problem found.
    """
    file, problems, readable = _file(flags, environ)
    variables, unknown = own_variables(environ)
    own = flags.layer().over(variables.over(file))
    layer = own.over(otel_variables(environ))
    problems += unknown

    written, wrong = _validated(layer, problems)
    if not readable:
        wrong.add(())  # settings that seem to be missing may be in it
    findings = list(contradictions(written, own))
    host = host_facts.host(written, own, environ, findings)
    state_directory = host_facts.state_directory(written, environ, findings)
    sasl_password = host_facts.sasl_password(written, findings)
    client_secret = host_facts.client_secret(written, findings)
    token = host_facts.token(written, findings)
    host_facts.check_headers(written, findings)
    host_facts.check_libvirt(written, findings)
    host_facts.check_certificates(written.kafka.tls, ("kafka", "tls"), findings)
    host_facts.check_certificates(written.otlp.tls, ("otlp", "tls"), findings)
    oauth = written.kafka.sasl.oauth
    host_facts.check_certificates(TlsFiles(ca_file=oauth.ca_file), ("kafka", "sasl", "oauth"), findings)
    if not monitors_needed and not written.monitors:
        findings = [finding for finding in findings if finding.path != ("monitors",)]
    problems += _follow(findings, wrong, layer)
    otlp_proxy = _proxy(written.otlp.endpoint, environ, problems)
    otlp_logs_proxy = _proxy(written.otlp.logs_endpoint, environ, problems)
    token_proxy = _proxy(oauth.token_endpoint, environ, problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    labels, ignored = effective_labels(written.labels, environ)
    return Effective(
        written=written,
        host=host,
        state_directory=state_directory,
        sasl_password=sasl_password,
        client_secret=client_secret,
        token=token,
        endpoint_is_whole=layer.place(("otlp", "endpoint")) == WHOLE_ENDPOINT_VARIABLE,
        otlp_proxy=otlp_proxy,
        otlp_logs_proxy=otlp_logs_proxy,
        token_proxy=token_proxy,
        cautions=(*cautions(written, flags, environ), *ignored),
        labels=labels,
    )


def _proxy(url: str | None, environ: Mapping[str, str], problems: list[Problem]) -> Proxy | None:
    try:
        return None if url is None else proxy_for(url, environ)
    except ValueError as error:
        place, _, message = str(error).partition(": ")
        problems.append(Problem(place, message))
        return None


def _file(flags: Flags, environ: Mapping[str, str]) -> tuple[Layer, list[Problem], bool]:
    """Return the settings of the file, its problems, and whether it could be read."""
    path = flags.config_file(environ)
    if not path:
        return Layer(), [], True
    try:
        layer = Layer(read_yaml(path))
    except ConfigError as error:
        return Layer(), list(error.problems), False
    problems = [
        Problem(
            setting.dotted,
            f"a secret is not allowed in the file; use {setting.dotted}_file or {setting.variable}",
        )
        for setting in all_settings()
        if setting.env_only and layer.holds(setting.path)
    ]
    return layer, problems, True


def _validated(layer: Layer, problems: list[Problem]) -> tuple[Written, set[SettingPath]]:
    """Return the settings, with defaults for invalid ones, and the paths of these."""
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
    """Yield the path of the setting that contains `location`: without indexes and names of headers."""
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
    """Yield the findings that do not depend on invalid settings, for which defaults were assumed."""
    for finding in findings:
        touched = (finding.path, *finding.others)
        if not any(_within(path, broken) for path in touched for broken in wrong):
            yield Problem(layer.place(finding.path), finding.message)


def _within(path: SettingPath, broken: SettingPath) -> bool:
    """Whether one of the two paths contains the other, or they are the same."""
    shared = min(len(path), len(broken))
    return path[:shared] == broken[:shared]


_NUMBERS = {"int_type", "int_parsing", "int_from_float", "int_parsing_size", "finite_number"}
_SWITCHES = {"bool_type", "bool_parsing"}
_LISTS = {"tuple_type", "list_type"}
_SECTIONS = {"model_type", "dict_type", "mapping_type", "model_attributes_type"}
_SHOWN_CHARACTERS = 80
_LISTED: Mapping[SettingPath, type[Section]] = {
    ("monitors",): MonitorConfig,
    ("libvirt",): LibvirtConfig,
    ("vms", "include"): RuleConfig,
    ("vms", "exclude"): RuleConfig,
}
"""The models of the entries of lists, by the path of the list."""


def explain(error: ValidationError, layer: Layer) -> list[Problem]:
    """Return a problem for each error of pydantic, in the order of the settings."""
    return [Problem(layer.place(each["loc"]), _message(each)) for each in error.errors()]


def _message(error: ErrorDetails) -> str:
    kind, context = error["type"], cast("Mapping[str, Any]", error.get("ctx", {}))
    match kind:
        case "extra_forbidden":
            return _unknown(error["loc"])
        case "value_error":
            return str(context["error"])
        case "missing":
            return f"missing; every entry of {dotted(error['loc'][:-2])} needs one"
        case "enum" | "literal_error":
            return f"{_shown(error['input'])} is not valid; use {context['expected']}{_near(error)}"
        case "greater_than_equal":
            return f"{_shown(error['input'])} is too small; use at least {context['ge']}"
        case "less_than_equal":
            return f"{_shown(error['input'])} is too large; use at most {context['le']}"
        case "string_type":
            # The value is not repeated: it may be a secret.
            return "not text; put it in quotes"
        case "too_short" | "string_too_short":
            return "empty; add a value, or remove the setting"
        case _ if kind in _NUMBERS:
            return f"{_shown(error['input'])} is not a number; write a whole number"
        case _ if kind in _SWITCHES:
            return f"{_shown(error['input'])} is not valid; use true or false"
        case _ if kind in _LISTS:
            return f"{_kind(error['input'])} instead of a list; write a list, or text with commas"
        case _ if kind in _SECTIONS:
            return f"{_kind(error['input'])} instead of a section; write `name: value` lines"
        case _:
            return error["msg"]


def meant(location: Location) -> tuple[SettingPath, ...]:
    """Return the known settings or sections that the unknown one at `location` probably stands for."""
    name = str(location[-1])
    if (listed := _listed(location)) is not None:
        list_path, model = listed
        close = get_close_matches(name, model.model_fields, n=1)
        return tuple((f"{dotted(list_path)}[]", near) for near in close)
    section = tuple(str(part) for part in location[:-1])
    beside = tuple(
        (*section, near) for near in get_close_matches(name, sections()[section].model_fields, n=1)
    )
    elsewhere = tuple(setting.path for setting in all_settings() if setting.path[-1] == name)
    return beside or elsewhere


def _listed(location: Location) -> tuple[SettingPath, type[Section]] | None:
    """Return the list that `location` is in an entry of, and the model of its entries."""
    if location[0] == "libvirt" and len(location) > 4 and location[2] == "metadata":
        return ("libvirt[]", "metadata"), MetadataConfig
    for list_path, model in _LISTED.items():
        if location[: len(list_path)] == list_path and len(location) > len(list_path):
            return list_path, model
    return None


def _unknown(location: Location) -> str:
    found = meant(location)
    if found:
        return f"unknown setting; did you mean {' or '.join(map(dotted, found))}?"
    listed = _listed(location)
    known = sections()[tuple(str(part) for part in location[:-1])] if listed is None else listed[1]
    return f"unknown setting; this section has {', '.join(known.model_fields)}"


def _near(error: ErrorDetails) -> str:
    words = str(error.get("ctx", {})["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
    close = get_close_matches(str(error["input"]), words, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


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
