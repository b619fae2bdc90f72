"""What is wrong, for people and scripts: each problem with a code, since when, and the next step. Pure.

The codes are made of documented names, so they stay: `vm/pressure/LEVEL`, `vm/STATE/REASON`,
`agent/component/NAME`, `agent/no-vms`, `agent/unreachable`. docs/terminal.md lists them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import wrap

from agent.cli.status_document import Status, Vm, order, plain, short_name, span
from agent.core.explanations import PRESSURE, component_step
from agent.core.pressure import PressureLevel
from agent.core.urgency import Urgency
from agent.core.wording import without_backticks

UNREACHABLE = "agent/unreachable"
NO_VMS = "agent/no-vms"

_CODE_CHARACTERS_MAX = 60
_NAMES_MAX = 6
_NAME_CHARACTERS_MAX = 24
_TEXT_CHARACTERS_MAX = 400
_COLUMNS = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, on one host. VMs with the same code are one problem."""

    code: str
    urgency: Urgency
    host: str
    meaning: str
    next_step: str
    since_s: float | None  # how long ago it began, of the VM that has had it longest; None: not known
    vms: Sequence[str] = field(default=())


def unreachable(place: str, why: str) -> Problem:
    """Return the problem of an agent that gives no answer."""
    step = "check that the agent runs there, and that web.listen has this address"
    return Problem(UNREACHABLE, Urgency.OOM, place, f"no status: {why}", step, None)


def problems(status: Status) -> Sequence[Problem]:
    """Return what is wrong on one host, most urgent first: parts of the agent, then VMs."""
    return [*_of_agent(status), *_of_vms(status)]


def _of_agent(status: Status) -> Iterator[Problem]:
    for name, each in status.health.components.items():
        if each.state == "degraded":
            since_s = (status.now_ms - each.since_ms) / 1000
            code = f"agent/component/{name}"
            step = component_step(name)
            yield Problem(code, Urgency.UNEXPECTED, status.host_name, each.why, step, since_s)
    starting = status.agent is not None and status.agent.state == "starting"
    if not status.vms and not starting:
        meaning = "the agent found no VM"
        step = "start a VM, or check the settings monitors, libvirt and vms.include"
        yield Problem(NO_VMS, Urgency.UNEXPECTED, status.host_name, meaning, step, None)


def _of_vms(status: Status) -> Iterator[Problem]:
    groups: dict[str, list[Vm]] = {}
    for vm in sorted(status.vms, key=order):
        if vm.urgency is not Urgency.NONE:
            groups.setdefault(code_of(vm), []).append(vm)
    for code, vms in groups.items():
        first = vms[0]
        meaning, step = advice(first)
        since_s = max(vm.since_s(status.now_ms) for vm in vms)
        names = [vm.name for vm in vms]
        yield Problem(code, first.urgency, status.host_name, meaning, step, since_s, names)


def code_of(vm: Vm) -> str:
    """Return the code of what is wrong with a VM."""
    if vm.urgency <= Urgency.LOW:
        return f"vm/pressure/{vm.level}"
    return f"vm/{vm.state.state}/{vm.state.reason}"


def advice(vm: Vm) -> tuple[str, str]:
    """Return what the level or the state of a VM means, and the next step."""
    if vm.urgency <= Urgency.LOW and vm.level is not None:
        advice = PRESSURE[PressureLevel(vm.level)]
        return advice.meaning, advice.next_step
    if vm.explanation is None:
        return vm.state.detail, "see docs/states.md"
    return vm.explanation.meaning, vm.explanation.next_step


def problem_lines(problem: Problem, *, with_host: bool) -> Sequence[str]:
    """Return a problem in lines of at most 80 columns; the first begins with the code."""
    parts = [plain(problem.code, _CODE_CHARACTERS_MAX)]
    if problem.since_s is not None:
        parts.append(f"for {span(problem.since_s)}")
    if with_host or problem.code == UNREACHABLE:
        parts.append(plain(problem.host, 30))
    lines = [plain("  ".join(parts), _COLUMNS)]
    if problem.vms:
        lines += _indented(_names(problem.vms))
    lines += _indented(plain(without_backticks(problem.meaning), _TEXT_CHARACTERS_MAX))
    lines += _indented(f"next: {plain(without_backticks(problem.next_step), _TEXT_CHARACTERS_MAX)}")
    return lines


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(short_name(name, _NAME_CHARACTERS_MAX) for name in names[:_NAMES_MAX])
    rest = len(names) - _NAMES_MAX
    return f"{shown} and {rest} more" if rest > 0 else shown


def _indented(text: str) -> Sequence[str]:
    return wrap(text, _COLUMNS, initial_indent="    ", subsequent_indent="    ")
