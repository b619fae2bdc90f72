"""The section of the configuration for libvirt daemons, and the labels of their domains."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from agent.config.sections import Glob, PollingInterval
from agent.config.types import Names, Section, Takes, TextOr
from agent.core.labels import NAME_GROUP, mistakes_in_names, mistakes_in_pattern
from agent.core.reading import IntervalPolicy
from agent.libvirt.qmp_terms import LabelSources, MetadataLabel, checked_path
from agent.libvirt.targets import mistakes as uri_mistakes


def _uri(uri: str) -> str:
    if wrong := "; ".join(uri_mistakes(uri)):
        raise ValueError(wrong)
    return uri


def _plain_places(written: object) -> object:
    """Take a plain string as a glob of sockets if it is a path, else as a URI."""
    if not isinstance(written, str):
        return written
    return {"sockets": written} if written.startswith("/") else {"uri": written}


def _name_pattern(pattern: str) -> str:
    wrong = [*mistakes_in_pattern(pattern)]
    if not wrong and NAME_GROUP in re.compile(pattern).groupindex:
        wrong = [
            f"{pattern!r} has a group `{NAME_GROUP}`, but the domain has a name already; rename the group"
        ]
    if wrong:
        raise ValueError("; ".join(wrong))
    return pattern


class MetadataConfig(Section):
    """One element or attribute of a domain's metadata."""

    uri: Annotated[str, Field(min_length=1, max_length=256), Takes("namespace")] = Field(
        description="Namespace of the elements, as in `xmlns`."
    )
    path: Annotated[str, AfterValidator(checked_path), Takes("path")] = Field(
        description=(
            "Names of elements below `<metadata>`, separated by `/`. The label has the text of the element "
            "or, if the path ends with `/@` and the name of an attribute, the value of the attribute. "
            "The first element that matches counts."
        )
    )


def _metadata(mapping: Mapping[str, MetadataConfig]) -> Mapping[str, MetadataConfig]:
    if wrong := "; ".join(mistakes_in_names(mapping)):
        raise ValueError(wrong)
    return mapping


class LibvirtConfig(Section):
    """A libvirt daemon, or several. Exactly one of `uri` and `sockets` is required."""

    uri: Annotated[str, AfterValidator(_uri), Takes("URI")] | None = Field(
        default=None,
        description=(
            "URI of a libvirt daemon on this host: `qemu:///system`, `qemu:///session`, or "
            "`qemu+unix:///system?socket=/path` for a socket in another place."
        ),
    )
    sockets: Glob | None = Field(
        default=None,
        description=(
            "Absolute path of libvirt sockets, with wildcards as in `monitors[].glob`: one connection for "
            "each socket, opened and closed as sockets appear and disappear. KubeVirt has one socket in "
            "each pod. A socket owned by root is opened as `system`, any other as `session`."
        ),
    )
    policy: IntervalPolicy | None = Field(
        default=None,
        description=(
            "Who controls the polling intervals of these domains. Default: `polling.policy`. With `observe` "
            "the connection is read-only."
        ),
    )
    interval: PollingInterval | None = Field(
        default=None,
        description="Polling interval to set for these domains. Default: `polling.interval`.",
    )

    name_pattern: Annotated[str, AfterValidator(_name_pattern), Takes("regular expression")] | None = Field(
        default=None,
        description=(
            "Regular expression searched for in the name of a domain. Its named groups become labels of the "
            "VM, such as `^(?P<namespace>[^_]+)_(?P<vmi>.+)$` for KubeVirt."
        ),
    )
    metadata: Annotated[
        Mapping[str, MetadataConfig], AfterValidator(_metadata), Takes("labels and sections")
    ] = Field(
        default={},
        description=(
            "Labels of the VM from the domain's `<metadata>`: for each label a section with `uri` and `path`."
        ),
    )

    def label_sources(self) -> LabelSources:
        """Return where the labels of these domains come from."""
        metadata = (MetadataLabel(name, each.uri, each.path) for name, each in self.metadata.items())
        return LabelSources(tuple(metadata), self.name_pattern)

    @model_validator(mode="after")
    def _one_of_both(self) -> "LibvirtConfig":
        if (self.uri is None) == (self.sockets is None):
            raise ValueError("needs exactly one of uri and sockets; add or remove one")
        return self


Libvirts = Annotated[
    tuple[Annotated[LibvirtConfig, TextOr(_plain_places)], ...],
    Names,
    Takes("list of URIs, globs or sections"),
]
