"""Judges the configuration and the identity of the host. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.doctor.codes import Code
from agent.core.doctor.report import Findings
from agent.errors import Problem

_OVERRIDDEN_MAX = 100
_PLACEHOLDERS = frozenset({"localhost", "localhost.localdomain", "localhost4", "localhost6", "unknown"})
_PUBLIC_READER = "every user of this host can read the secret"
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_PLACES_OF_ID = frozenset(
    {"host.id", "host.id_file", "--host-id", "BAROGRAPH_HOST__ID", "BAROGRAPH_HOST__ID_FILE"}
)
_PLACES_OF_STATE = frozenset({"state_directory", "--state-directory", "BAROGRAPH_STATE_DIRECTORY"})
_PLACES_OF_NAME = frozenset({"host.name", "--host-name", "BAROGRAPH_HOST__NAME"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFacts:
    """What loading the configuration showed."""

    file: str | None  # the path; None: no file is used
    problems: Sequence[Problem]  # empty: it loads
    cautions: Sequence[Problem]
    overridden: Sequence[tuple[str, str]]  # a setting of the file, and the variable or flag that replaces it


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The identity of the host."""

    id: str
    name: str
    id_file: str | None  # None: `host.id` is set
    id_file_system: str  # its type, such as "ext4"; "": unknown


def judge_config(facts: ConfigFacts) -> Findings:
    """Return the findings about the configuration. With problems, the agent does not start."""
    found = Findings()
    found.passed(Code.CONFIG_FILE, facts.file or "none is used")
    found.passed(Code.CONFIG_UNKNOWN)
    found.passed(Code.CONFIG_VALID)
    for problem in facts.problems:
        found.error(code_of(problem, facts.file), problem.place, problem.message)
    if facts.problems:
        return found
    found.passed(Code.CONFIG_CAUTION)
    found.passed(Code.SECRET_MODE)
    for caution in facts.cautions:
        code = Code.SECRET_MODE if caution.message.startswith(_PUBLIC_READER) else Code.CONFIG_CAUTION
        found.warning(code, caution.place, caution.message)
    found.passed(Code.CONFIG_OVERRIDDEN)
    for setting, source in facts.overridden[:_OVERRIDDEN_MAX]:
        detail = f"{source} overrides the value in the file"
        found.warning(Code.CONFIG_OVERRIDDEN, setting, detail)
    return found


def code_of(problem: Problem, file: str | None) -> Code:
    """Return the check that a problem of the configuration belongs to."""
    if file is not None and (problem.place == file or problem.place.startswith(f"{file}:")):
        return Code.CONFIG_FILE
    if problem.message.startswith(("unknown setting", "unknown variable")):
        return Code.CONFIG_UNKNOWN
    if problem.message.startswith("libvirt-python is not installed"):
        return Code.LIBVIRT_BINDINGS
    if problem.place in _PLACES_OF_STATE:
        return Code.STATE_DIRECTORY
    if problem.place in _PLACES_OF_ID:
        return Code.HOST_ID
    if problem.place in _PLACES_OF_NAME:
        return Code.HOST_NAME
    return Code.CONFIG_VALID


def judge_host(facts: HostFacts) -> Findings:
    """Return the findings about the identity of the host."""
    found = Findings()
    source = "host.id" if facts.id_file is None else facts.id_file
    found.passed(Code.HOST_ID, f"{facts.id} from {source}")
    found.passed(Code.HOST_ID_UNIQUE)
    if len(set(facts.id)) == 1 or facts.id.lower() in _PLACEHOLDERS:
        found.error(
            Code.HOST_ID_UNIQUE, source, f"{facts.id!r} is a placeholder that other hosts may have too"
        )
    if facts.id_file is not None:
        found.passed(Code.HOST_ID_STABLE)
        if facts.id_file_system in _IN_MEMORY:
            detail = f"the file is on a file system of the type {facts.id_file_system}, which a reboot clears"
            found.warning(Code.HOST_ID_STABLE, facts.id_file, detail)
    found.passed(Code.HOST_NAME, facts.name)
    if facts.name.lower() in _PLACEHOLDERS:
        found.warning(Code.HOST_NAME, "host.name", f"{facts.name!r} is a name that many hosts have")
    return found
