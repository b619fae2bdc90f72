"""Judges the sockets of the globs, and the VMs behind them. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.core.doctor.checks import CHECKS
from agent.core.doctor.codes import Category, Code
from agent.core.doctor.report import Findings
from agent.core.findings import Level
from agent.core.reading import SocketMark, State
from agent.core.states import Reason
from agent.core.wording import counted
from agent.errors import LinkFault


@dataclass(frozen=True, slots=True)
class Refused:
    """A path that discovery does not use."""

    path: str
    reason: str  # a value of discovery's RefusedReason
    detail: str


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A socket that a glob matches."""

    path: str
    owner: str  # user:group and mode, for people
    mark: SocketMark
    may_connect: bool
    agent_sets: bool = False  # the policy lets the agent set the interval


@dataclass(frozen=True, slots=True)
class VmFact:
    """The state of a VM, as the running agent or a probe has found it."""

    subject: str  # its name, path or URI
    state: str
    reason: str
    detail: str
    agent_sets: bool = False  # the policy lets the agent set the interval once it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketFacts:
    """What a scan of the globs found."""

    globs: Sequence[str]
    empty: Sequence[str]  # the globs without a socket
    sockets: Sequence[SocketFile]
    refused: Sequence[Refused]


_REFUSED = {
    "libvirt": (Code.SOCKET_OWNER, Level.ERROR),
    "incus": (Code.SOCKET_OWNER, Level.ERROR),
    "manager": (Code.SOCKET_OWNER, Level.ERROR),
    "foreign_link": (Code.SOCKET_LINK, Level.ERROR),
    "not_a_socket": (Code.SOCKETS_FOUND, Level.ERROR),
    "unreadable": (Code.SOCKETS_READABLE, Level.ERROR),
    "unprintable": (Code.SOCKETS_BOUND, Level.WARNING),
    "too_many": (Code.SOCKETS_BOUND, Level.ERROR),
}

_OF_REASON: Mapping[str, tuple[Code, Level]] = {
    LinkFault.MISSING: (Code.SOCKET_LISTENER, Level.WARNING),
    LinkFault.REFUSED: (Code.SOCKET_LISTENER, Level.WARNING),
    LinkFault.DENIED: (Code.SOCKET_PERMISSION, Level.ERROR),
    LinkFault.BUSY: (Code.SOCKET_FREE, Level.ERROR),
    LinkFault.SILENT: (Code.SOCKET_FREE, Level.ERROR),
    LinkFault.NOT_QMP: (Code.SOCKET_QMP, Level.ERROR),
    LinkFault.NOT_A_VM: (Code.SOCKET_VM, Level.ERROR),
    LinkFault.HUNG_UP: (Code.SOCKET_ANSWER, Level.ERROR),
    LinkFault.NO_ANSWER: (Code.SOCKET_ANSWER, Level.ERROR),
    LinkFault.FLOODING: (Code.SOCKET_ANSWER, Level.ERROR),
    LinkFault.PROTOCOL: (Code.SOCKET_ANSWER, Level.ERROR),
    Reason.UUID_IN_USE: (Code.VM_UNIQUE, Level.ERROR),
    Reason.NO_DEVICE: (Code.VM_BALLOON, Level.ERROR),
    Reason.POLLING_DISABLED: (Code.VM_POLLING, Level.WARNING),
    Reason.SET_BACK: (Code.VM_CONTENDED, Level.WARNING),
    Reason.CONTENDED: (Code.VM_CONTENDED, Level.ERROR),
    Reason.CANNOT_SET: (Code.VM_INTERVAL, Level.ERROR),
    Reason.NO_UPDATE_YET: (Code.VM_DRIVER, Level.WARNING),
    Reason.ALL_UNSET: (Code.VM_STATISTICS, Level.WARNING),
    Reason.NO_ADVANCE: (Code.VM_UPDATES, Level.ERROR),
}
"""The check that each reason of a state belongs to. The other reasons need nothing."""

_OF_QEMU = (Code.VM_UNIQUE, Code.VM_BALLOON)
_OF_THE_INTERVAL = (*_OF_QEMU, Code.VM_POLLING, Code.VM_CONTENDED, Code.VM_INTERVAL)
_OF_THE_GUEST = (*_OF_THE_INTERVAL, Code.VM_DRIVER, Code.VM_STATISTICS, Code.VM_UPDATES)

_ANSWERED: Mapping[str, Sequence[Code]] = {
    State.DUPLICATE: (Code.VM_UNIQUE,),
    State.NO_BALLOON: _OF_QEMU,
    State.PAUSED: _OF_QEMU,
    State.OFF: _OF_THE_INTERVAL,
    State.WAITING: (*_OF_THE_INTERVAL, Code.VM_DRIVER),
    State.EMPTY: (*_OF_THE_INTERVAL, Code.VM_DRIVER, Code.VM_STATISTICS),
    State.STALLED: (*_OF_THE_INTERVAL, Code.VM_UPDATES),
    State.REPORTING: _OF_THE_GUEST,
}
"""The checks that a VM in a state answers. A VM in another state answers none."""

_OF_AGENT_ONLY = frozenset({Code.VM_CONTENDED, Code.VM_INTERVAL})
"""The checks that need an agent that has tried to set the interval."""


def judge_sockets(facts: SocketFacts) -> Findings:
    """Return the findings about the files that the globs match."""
    found = Findings()
    found.passed(Code.SOCKETS_FOUND, counted(len(facts.sockets), "socket"))
    for code in (Code.SOCKETS_READABLE, Code.SOCKETS_BOUND, Code.SOCKET_OWNER, Code.SOCKET_LINK):
        found.passed(code)
    for glob in facts.empty:
        found.warning(Code.SOCKETS_FOUND, glob, "no socket matches this glob")
    for each in facts.refused:
        if each.reason in _REFUSED:
            code, level = _REFUSED[each.reason]
            what = found.error if level is Level.ERROR else found.warning
            what(code, each.path, each.detail)
    if facts.sockets:
        found.passed(Code.SOCKET_PERMISSION)
    for each in facts.sockets:
        if not each.may_connect:
            detail = f"this user may not connect; the socket belongs to {each.owner}"
            found.error(Code.SOCKET_PERMISSION, each.path, detail)
    return found


def judge_vms(vms: Sequence[VmFact], *, by_agent: bool, left_out: int = 0) -> Findings:
    """Return the findings about the monitors and the VMs behind them.

    Args:
        vms: each VM once.
        by_agent: whether the running agent found the states; it knows what one reading does not show.
        left_out: how many VMs were not checked.
    """
    found = Findings()
    answered = Counter(code for each in vms for code in _ANSWERED.get(each.state, ()))
    for code in answered if by_agent else answered.keys() - _OF_AGENT_ONLY:
        some = f"known of {answered[code]} of {counted(len(vms), 'VM')}"
        found.passed(code, "" if answered[code] == len(vms) else some)
    for code in {code for code, _ in _OF_REASON.values() if CHECKS[code].category is Category.SOCKETS}:
        if vms:
            found.passed(code)
    for each in vms:
        if each.reason == Reason.POLLING_DISABLED and each.agent_sets:
            continue
        if each.reason in _OF_REASON and each.state != State.PAUSED:
            code, level = _OF_REASON[each.reason]
            what = found.error if level is Level.ERROR else found.warning
            if not (each.state == State.GONE and by_agent):
                what(code, each.subject, each.detail)
    if left_out:
        detail = (
            f"{counted(left_out, 'more VM')} not checked; barograph status shows those of a running agent"
        )
        found.warning(Code.SOCKETS_BOUND, "", detail)
    return found
