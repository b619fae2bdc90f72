"""The section of the configuration that says which VMs are observed."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from agent.config.types import Names, Section, Takes, TextOr
from agent.core.choice import Rule
from agent.core.labels import mistakes_in_names

RULES_MAX = 256
"""Rules of one list: each is compared with each VM."""

_PATTERN_MAX_CHARACTERS = 1024
_UUID = re.compile(r"[0-9a-fA-F-]{36}")
_PART_OF_UUID = re.compile(r"[0-9a-fA-F*?\[\]!-]+")


def _pattern(written: str) -> str:
    if not written:
        raise ValueError("empty, so no VM matches; write a pattern, or remove it")
    if len(written) > _PATTERN_MAX_CHARACTERS:
        raise ValueError(f"more than {_PATTERN_MAX_CHARACTERS} characters; write a shorter pattern with *")
    if not written.isprintable():
        raise ValueError(f"{written!r} contains unprintable characters; remove them")
    return written


def _path(written: str) -> str:
    if not written.startswith(("/", "*")) and "://" not in written:
        raise ValueError(
            f"{written!r} is not the path of a VM; start it with / or *, or write URI#UUID of a libvirt"
            " domain"
        )
    return written


def _uuid(written: str) -> str:
    if _PART_OF_UUID.fullmatch(written) is None:
        raise ValueError(f"{written!r} is not a uuid; write hexadecimal digits, hyphens and wildcards")
    return written.lower()


def _labels(patterns: Mapping[str, str]) -> Mapping[str, str]:
    if wrong := "; ".join(mistakes_in_names(patterns)):
        raise ValueError(wrong)
    return patterns


Pattern = Annotated[str, AfterValidator(_pattern), Takes("pattern")]


def _plain_rule(written: object) -> object:
    """Take plain text as a path, a uuid, or else a name."""
    if not isinstance(written, str):
        return written
    if written.startswith("/") or "://" in written:
        return {"path": written}
    return {"uuid" if _UUID.fullmatch(written) else "name": written}


class RuleConfig(Section):
    """VMs, by any of these; a VM must match all that are set.

    Each is a pattern for the whole text: `*` matches any characters (also `/`), `?` one, and `[...]` one of a
    set. Upper and lower case differ, except in a uuid. Text instead of a section is a path if it starts with
    `/` or contains `://`, a uuid if it is one, and otherwise a name.
    """

    path: Annotated[Pattern, AfterValidator(_path)] | None = Field(
        default=None,
        description=(
            "The path of the monitor's socket, or `URI#UUID` of a libvirt domain, as `vm.path` in states."
        ),
    )
    name: Pattern | None = Field(
        default=None, description="The name, as `vm.name` in records. A VM without a name matches no pattern."
    )
    uuid: Annotated[Pattern, AfterValidator(_uuid)] | None = Field(
        default=None, description="The uuid, or for a QEMU without one its ID, as `vm.id` in records."
    )
    labels: Annotated[
        Mapping[str, Annotated[str, AfterValidator(_pattern)]],
        AfterValidator(_labels),
        Takes("labels and patterns"),
    ] = Field(
        default={},
        description="Labels of the VM, as `vm.labels` in records, each with a pattern for its value.",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> "RuleConfig":
        if self.path is None and self.name is None and self.uuid is None and not self.labels:
            raise ValueError("empty; add path, name, uuid or labels, or remove the rule")
        return self

    def rule(self) -> Rule:
        """Return the rule as the core uses it."""
        return Rule(self.path, self.name, self.uuid, dict(self.labels))


def _not_too_many(rules: tuple[RuleConfig, ...]) -> tuple[RuleConfig, ...]:
    if len(rules) > RULES_MAX:
        raise ValueError(f"{len(rules)} rules, more than {RULES_MAX}; join some with wildcards")
    return rules


Rules = Annotated[
    tuple[Annotated[RuleConfig, TextOr(_plain_rule)], ...],
    AfterValidator(_not_too_many),
    Names,
    Takes("list of patterns or sections"),
]


class VmsConfig(Section):
    """Which VMs are observed, of those that `monitors` and `libvirt` find. `exclude` wins over `include`."""

    include: Rules = Field(
        default=(),
        description=(
            "If not empty, only VMs that match at least one of these rules are observed. Each is a pattern, "
            "or a section with `path`, `name`, `uuid` and `labels`."
        ),
    )
    exclude: Rules = Field(
        default=(),
        description=(
            "VMs that match any of these rules are not observed. The agent applies a rule by path or label, "
            "and any rule for a libvirt domain, without connecting to the VM. For a rule by name or uuid, it "
            "connects to a monitor once for each QEMU process."
        ),
    )
