"""Labels of the agent and its host: the setting `labels`, and OpenTelemetry's resource attributes."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator

from agent.config.types import Takes, TextOr
from agent.core.labels import mistake_in_value, mistakes_in_names
from agent.errors import Problem

RESOURCE_VARIABLE = "OTEL_RESOURCE_ATTRIBUTES"

_OURS = frozenset({"host_id", "host_name", "instance", "job"})
_OURS_BEGIN = ("service_name", "service_instance_id", "service_version", "telemetry_", "qemu_", "barograph_")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _is_ours(name: str) -> bool:
    label = name.replace(".", "_")
    return label in _OURS or label.startswith(_OURS_BEGIN)


def _pairs(written: object) -> object:
    """Parse `k=v,k2=v2`, the form of a variable."""
    return parse_pairs(written) if isinstance(written, str) else written


def parse_pairs(text: str) -> dict[str, str]:
    """Parse names and values with percent-encoding.

    Source: OpenTelemetry specification, resource/sdk.md, "Specifying resource information via an environment
    variable".

    Raises:
        ValueError: the whole text is unusable.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not NAME=VALUE; separate pairs by commas")
        if _BAD_ESCAPE.search(part):
            raise ValueError(f"{part!r} has a % that does not begin an escape; write %25 instead")
        try:
            pairs[unquote(name.strip(), errors="strict")] = unquote(value.strip(), errors="strict")
        except UnicodeDecodeError as error:
            raise ValueError(f"{part!r} is not UTF-8; percent-encode UTF-8") from error
    return pairs


def _mistakes(labels: Mapping[str, str]) -> Iterable[str]:
    yield from mistakes_in_names(labels)
    for name, value in labels.items():
        if _is_ours(name):
            yield f"{name!r} is set by the agent; use another name"
        if wrong := mistake_in_value(value):
            yield f"{name!r}: {wrong}"


def _checked(labels: Mapping[str, str]) -> Mapping[str, str]:
    if wrong := "; ".join(_mistakes(labels)):
        raise ValueError(wrong)
    return labels


Labels = Annotated[Mapping[str, str], TextOr(_pairs), AfterValidator(_checked), Takes("names and values")]


def effective_labels(
    written: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[Mapping[str, str], tuple[Problem, ...]]:
    """Return the labels of the setting over the resource attributes of the environment, and warnings.

    An attribute that the agent sets itself, such as `service.name`, is skipped without a warning.
    """
    text = environ.get(RESOURCE_VARIABLE, "")
    if not text or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return written, ()
    try:
        attributes = {name: value for name, value in parse_pairs(text).items() if not _is_ours(name)}
    except ValueError as error:
        return written, (Problem(RESOURCE_VARIABLE, f"ignored: {error}"),)
    warnings: list[Problem] = []
    labels = dict(written)
    for name, value in attributes.items():
        wrong = [*mistakes_in_names([name]), *filter(None, [mistake_in_value(value)])]
        if not wrong and name not in labels:
            wrong = [*mistakes_in_names([*labels, name])]
        if wrong:
            warnings.append(Problem(RESOURCE_VARIABLE, f"{name!r} is ignored: {'; '.join(wrong)}"))
        else:
            labels.setdefault(name, value)
    return labels, tuple(warnings)
