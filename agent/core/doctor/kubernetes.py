"""Judges what a pod gives the agent of its node. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.doctor.codes import Code
from agent.core.doctor.report import Findings

_LAYERS = frozenset({"overlay", "aufs"})


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that the agent needs of the node, and the type of the file system that it is on."""

    path: str
    file_system: str  # "": unknown
    ends_with_pod: bool = False  # an emptyDir, or the runtime's volume for a VOLUME of the image


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What the pod shows."""

    pod_name: str  # its hostname
    host_name: str  # host.name
    id_file: Directory | None  # None: `host.id` is set
    monitors: Sequence[Directory]  # where the globs begin
    state: Directory
    has_token: bool  # of a service account
    capabilities: int | None  # effective, as a mask of capabilities(7); None: unknown


NEEDED_CAPABILITIES = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which some managers' sockets need."""


def judge_pod(facts: PodFacts) -> Findings:
    """Return the findings about the pod."""
    found = Findings()
    found.passed(Code.POD_NODE_NAME, facts.host_name)
    if facts.host_name == facts.pod_name:
        detail = f"host.name is {facts.host_name}, the hostname of the pod"
        found.error(Code.POD_NODE_NAME, "host.name", detail)
    if facts.id_file is not None:
        _mounted(found, Code.POD_MACHINE_ID, facts.id_file)
    for each in facts.monitors:
        _mounted(found, Code.POD_MONITORS, each)
    _mounted(found, Code.POD_STATE, facts.state)
    found.passed(Code.POD_TOKEN)
    if facts.has_token:
        found.warning(Code.POD_TOKEN, "", "the token of the service account is mounted")
    if facts.capabilities is not None:
        found.passed(Code.POD_PRIVILEGES)
        more = facts.capabilities & ~NEEDED_CAPABILITIES
        if more:
            found.warning(
                Code.POD_PRIVILEGES,
                "",
                f"the agent has {more.bit_count()} Linux capabilities that it does not need",
            )
    return found


def _mounted(found: Findings, code: Code, directory: Directory) -> None:
    found.passed(code)
    if directory.file_system in _LAYERS:
        detail = f"{directory.path} is a layer of the image, and not mounted from the node"
        found.error(code, directory.path, detail)
    elif directory.ends_with_pod:
        detail = f"{directory.path} is a volume that ends with the pod, and not mounted from the node"
        found.error(code, directory.path, detail)
