"""All that is configured, put together from file, variables and flags and found right; or every problem."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from agent.config import surroundings
from agent.config.contradictions import Finding, contradictions
from agent.config.environment import CONFIG_VARIABLE, WHOLE_ENDPOINT_VARIABLE, otel_variables, own_variables
from agent.config.flags import Flags
from agent.config.merge import Layer, SettingPath
from agent.config.problems import explain, meant
from agent.config.settings_list import all_settings
from agent.config.surroundings import Host
from agent.config.written import Written
from agent.config.yaml_file import read_yaml
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
    host = surroundings.host(written, own, environ, findings)
    state_directory = surroundings.state_directory(written, environ, findings)
    sasl_password = surroundings.sasl_password(written, findings)
    surroundings.check_libvirt(written, findings)
    surroundings.check_certificates(written.kafka.tls, ("kafka", "tls"), findings)
    surroundings.check_certificates(written.otlp.tls, ("otlp", "tls"), findings)
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
