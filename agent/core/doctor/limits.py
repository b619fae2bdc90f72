"""Judges limits of the process, the clock, and the running agent. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.doctor.codes import Code
from agent.core.doctor.report import Findings
from agent.core.fleet import DESCRIPTORS_RESERVED
from agent.core.wording import counted

MEMORY_BASE_BYTES = 96 * 2**20
MEMORY_OF_A_VM_BYTES = 64 * 1024
"""Rounded up from docs/limits.md."""

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFacts:
    """The limits of this process. `None`: not known, or no limit."""

    files_max: int | None  # the hard limit
    memory_max_bytes: int | None  # of the cgroup
    buffer_bytes: int  # of all queues in memory
    vms: int
    clock_is_synchronized: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """What the agent on this host answers."""

    place: str  # host:port
    fault: str = ""  # why there is no answer
    version: str = ""
    user: str = ""  # the user that it runs as; "": unknown
    is_ready: bool = True
    not_ready: str = ""
    degraded: Sequence[tuple[str, str]] = ()  # component and reason


def judge_limits(facts: LimitFacts) -> Findings:
    """Return the findings about limits and the clock."""
    found = Findings()
    if facts.files_max is not None:
        needed = DESCRIPTORS_RESERVED + facts.vms
        found.passed(Code.LIMIT_FILES, f"limit {facts.files_max}")
        if facts.files_max < needed:
            detail = (
                f"the limit is {facts.files_max}; the agent needs {needed} for {counted(facts.vms, 'VM')}"
            )
            found.error(Code.LIMIT_FILES, "RLIMIT_NOFILE", detail)
    if facts.memory_max_bytes is not None:
        needed = MEMORY_BASE_BYTES + facts.vms * MEMORY_OF_A_VM_BYTES + facts.buffer_bytes
        found.passed(Code.LIMIT_MEMORY, f"limit {facts.memory_max_bytes // _MIB} MiB")
        if facts.memory_max_bytes < needed:
            detail = (
                f"the limit is {facts.memory_max_bytes // _MIB} MiB; {counted(facts.vms, 'VM')} and full"
                f" buffers can use {needed // _MIB} MiB"
            )
            found.warning(Code.LIMIT_MEMORY, "memory.max", detail)
    if facts.clock_is_synchronized is not None:
        found.passed(Code.CLOCK_SYNCHRONIZED)
        if not facts.clock_is_synchronized:
            detail = "the kernel reports that no time service synchronizes the clock"
            found.warning(Code.CLOCK_SYNCHRONIZED, "", detail)
    return found


def judge_agent(facts: AgentFacts, version: str, user: str) -> Findings:
    """Return the findings about the running agent.

    Args:
        facts: what it answers.
        version: of this command.
        user: the user of this command.
    """
    found = Findings()
    found.passed(Code.AGENT_RUNNING, f"on {facts.place}")
    if facts.fault:
        found.error(Code.AGENT_RUNNING, facts.place, facts.fault)
        return found
    found.passed(Code.AGENT_READY)
    if not facts.is_ready:
        found.error(Code.AGENT_READY, facts.place, facts.not_ready or "not ready")
    found.passed(Code.AGENT_HEALTHY)
    for component, why in facts.degraded[:20]:
        found.error(Code.AGENT_HEALTHY, component, why)
    found.passed(Code.AGENT_VERSION, version)
    if facts.version != version:
        detail = f"the agent is {facts.version or 'unknown'}, this command is {version}"
        found.warning(Code.AGENT_VERSION, facts.place, detail)
    if facts.user:
        found.passed(Code.AGENT_USER, user)
        if facts.user != user:
            detail = f"the agent runs as {facts.user}, this command as {user}"
            found.warning(Code.AGENT_USER, facts.place, detail)
    return found


def judge_port(place: str, fault: str) -> Findings:
    """Return the finding about the address that the agent will listen on; `fault`: why it cannot."""
    found = Findings()
    found.passed(Code.WEB_PORT, place)
    if fault:
        found.error(Code.WEB_PORT, place, fault)
    return found
