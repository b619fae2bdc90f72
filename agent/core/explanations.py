"""What each reason of a state means, and what to do about it: for docs, pages and commands. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.pressure import PressureLevel
from agent.core.reading import State
from agent.core.states import Reason
from agent.errors import LinkFault


@dataclass(frozen=True, slots=True)
class Explanation:
    """One reason of a state. Texts are fixed, in lower case, with Markdown's backticks around names."""

    state: State
    meaning: str
    next_step: str  # "nothing": there is nothing to do


_BY_REASON: Mapping[str, Explanation] = {
    LinkFault.MISSING: Explanation(
        State.GONE,
        ("QEMU quit, or the socket or its directory was removed; with libvirt: the domain is not running"),
        "nothing; if QEMU still runs, its socket was deleted: restart QEMU",
    ),
    LinkFault.REFUSED: Explanation(
        State.GONE,
        "no listener on the socket, and QEMU answered there before",
        "nothing; you may delete the socket file",
    ),
    Reason.NOT_OBSERVED: Explanation(
        State.GONE,
        (
            "the agent now refuses the path, or it has reached its limit of VMs and stopped observing this"
            " one to make room for VMs of another user or pod; the VM may still be running"
        ),
        (
            "see the log line `monitor refused`: correct the path, narrow the globs, or raise the limit of"
            " open files (`LimitNOFILE`)"
        ),
    ),
    Reason.EXCLUDED: Explanation(
        State.GONE,
        "the configuration excludes the VM now (`vms.exclude`, `vms.include`); the VM may still be running",
        "nothing; to observe it again, change the rule that the detail names",
    ),
    Reason.FIRST_ATTEMPT: Explanation(
        State.CONNECTING,
        (
            "no answer yet. If the previous state was `duplicate`: the agent now observes the VM at this path"
            " and waits for its first update"
        ),
        "wait for 1 s; after `duplicate`, wait for one polling interval",
    ),
    Reason.SETTLING: Explanation(
        State.CONNECTING,
        "the VM answers; its last update is old, and the next one is not due yet",
        "wait: the VM becomes `reporting` or `stalled` within `polling.stall_deadline`",
    ),
    Reason.UUID_IN_USE: Explanation(
        State.DUPLICATE,
        (
            "two monitors of one VM match the globs, the VM migrates within the host, or the uuid was cloned;"
            " the detail names the other path"
        ),
        "narrow the globs, or give the clone its own uuid; during a migration, nothing",
    ),
    LinkFault.SILENT: Explanation(
        State.NO_GREETING,
        (
            "another client uses the monitor, QEMU hangs, or the socket is not a QMP monitor but, for"
            " example, that of a guest agent or an HTTP API"
        ),
        "give the agent its own monitor: a second `-qmp`; match only QMP monitors in the globs",
    ),
    LinkFault.BUSY: Explanation(
        State.NO_GREETING,
        "another client uses the monitor and others wait for it, or QEMU hangs",
        "give the agent its own monitor: a second `-qmp`",
    ),
    LinkFault.NOT_QMP: Explanation(
        State.NO_GREETING,
        "the peer does not use QMP; the agent tries again when the socket is replaced",
        "match only QMP monitors in the globs",
    ),
    LinkFault.NOT_A_VM: Explanation(
        State.UNREACHABLE,
        (
            "the peer uses QMP but is not a VM, such as `qemu-storage-daemon`; the agent tries again when the"
            " socket is replaced"
        ),
        "match only the monitors of VMs in the globs",
    ),
    LinkFault.DENIED: Explanation(
        State.UNREACHABLE,
        "the agent has no permission for the socket",
        "run the agent as the socket's owner, or in a group with write permission",
    ),
    LinkFault.HUNG_UP: Explanation(
        State.UNREACHABLE, "the peer closed the link repeatedly", "check QEMU's log"
    ),
    LinkFault.NO_ANSWER: Explanation(
        State.UNREACHABLE,
        (
            "no answer within the deadline: QEMU is stopped or hangs; with libvirt, its daemon may be"
            " stopped, or another job may be running on the domain"
        ),
        (
            "check whether the QEMU process is stopped (SIGSTOP), waits for storage, or gets no CPU time;"
            " with libvirt, run `virsh domjobinfo`"
        ),
    ),
    LinkFault.FLOODING: Explanation(
        State.UNREACHABLE,
        "the peer sends more messages than a VM normally does; the detail names the most frequent event",
        "find out which program created this socket",
    ),
    LinkFault.PROTOCOL: Explanation(
        State.UNREACHABLE,
        "the peer violated the protocol after its greeting",
        "find out which program created this socket",
    ),
    LinkFault.DISCONNECTED: Explanation(
        State.UNREACHABLE,
        "libvirt's daemon is unreachable or does not answer; its VMs may still be running",
        "check libvirtd or virtqemud, and the permissions of its socket",
    ),
    Reason.NO_DEVICE: Explanation(
        State.NO_BALLOON, "QEMU has no virtio balloon", "add `-device virtio-balloon-pci`"
    ),
    Reason.POLLING_DISABLED: Explanation(
        State.OFF,
        "the interval is 0, and the policy is `observe`",
        "set the interval, or let the agent set it: `polling.policy: fill`",
    ),
    Reason.SET_BACK: Explanation(
        State.OFF,
        "another program disabled polling; the agent will enable it once more",
        "find the program that disables polling, and stop it",
    ),
    Reason.CONTENDED: Explanation(
        State.OFF,
        "another program keeps disabling polling",
        "stop the program, then restart the agent; or exclude this VM (`vms.exclude`)",
    ),
    Reason.CANNOT_SET: Explanation(
        State.OFF,
        "QEMU refused the interval, or the change could not be recorded",
        (
            "fix the cause in the detail, which is QEMU's error or a problem with the state directory; the"
            " agent tries again with each heartbeat (`polling.heartbeat`)"
        ),
    ),
    Reason.NO_UPDATE_YET: Explanation(
        State.WAITING,
        "the guest has sent no update yet",
        (
            "wait until the guest has booted, or load virtio_balloon in it; some guests (FreeBSD) send"
            " no updates"
        ),
    ),
    Reason.REBOOTED: Explanation(
        State.WAITING,
        "no update since the VM was reset",
        "wait until the guest has booted; if no update follows, see `no_update_yet`",
    ),
    Reason.ALL_UNSET: Explanation(
        State.EMPTY,
        "the balloon driver answers, but sends no statistics",
        "Windows: start the balloon service (blnsvr)",
    ),
    Reason.NO_ADVANCE: Explanation(
        State.STALLED,
        "the guest stopped answering; QEMU sends no new request until the guest answers",
        (
            "check whether the guest hangs, its driver is unloaded, or it gets no CPU time; reloading the"
            " driver restarts the updates"
        ),
    ),
    Reason.ADVANCING: Explanation(State.REPORTING, "the agent receives updates", "nothing"),
}

_REFUSED_BEFORE_AN_ANSWER = Explanation(
    State.UNREACHABLE,
    "no listener on the socket, and QEMU has not answered there yet",
    "start QEMU, or correct the glob",
)

EXPLANATIONS: Mapping[tuple[State, str], Explanation] = {
    **{(each.state, reason): each for reason, each in _BY_REASON.items()},
    (State.UNREACHABLE, LinkFault.REFUSED): _REFUSED_BEFORE_AN_ANSWER,
}
"""All but those of `paused`: its reasons are QEMU's run states."""

RUN_STATES: Mapping[str, tuple[str, str]] = {
    "paused": ("a manager or a person paused the VM", "resume it, if it should run"),
    "prelaunch": ("QEMU has not started the VM yet (`-S`)", "nothing; its manager starts it"),
    "inmigrate": ("the VM waits for its migration to this host", "nothing"),
    "postmigrate": ("the VM was migrated to another host", "nothing"),
    "finish-migrate": ("the last part of a migration from this host", "nothing"),
    "suspended": ("the guest is suspended to memory", "wake it, if it should run"),
    "guest-panicked": ("the guest's kernel panicked", "look at the guest's console, then reset the VM"),
    "internal-error": ("QEMU's accelerator failed", "see QEMU's log, then reset the VM"),
    "io-error": (
        "a disk failed or is full, and QEMU paused the VM",
        "free or repair the storage, then resume",
    ),
    "watchdog": ("the guest's watchdog fired", "look at the guest's console, then reset the VM"),
    "shutdown": ("the guest has shut down", "nothing; start it, if it should run"),
}
"""QEMU's run states, which are the reasons of `paused`: meaning and next step."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What a level of pressure means, and what to do. Texts as in `Explanation`."""

    meaning: str
    next_step: str


PRESSURE: Mapping[PressureLevel, Advice] = {
    PressureLevel.OOM: Advice(
        "the guest's kernel killed a process because memory ran out, at most 15 minutes ago",
        (
            "find the killed process in the guest's kernel log; if the balloon's `actual` is below the"
            " configured memory, deflate the balloon; otherwise give the VM more memory, or reduce what runs"
            " in it"
        ),
    ),
    PressureLevel.PRESSURE: Advice(
        "less than 5 % is available, and the guest swaps or reads its programs from disk again",
        (
            "if the balloon's `actual` is below the configured memory, deflate the balloon; otherwise find"
            " the process that grows, and give the VM more memory"
        ),
    ),
    PressureLevel.LOW: Advice(
        "less than 3 % has been available for half an hour, without swapping",
        "plan more memory for the VM; a load that grows leads to `pressure` or `oom`",
    ),
}
"""By the level, but for `none`. docs/pressure.md shows the same texts."""


_COMPONENT_STEPS: Mapping[str, str] = {
    "discovery": "run `barograph doctor` with the agent's settings, to check the globs and libvirts",
    "spool": "run `barograph doctor` with the agent's settings, to check the state directory",
    "kafka": "run `barograph doctor` with the agent's settings, to check each broker",
    "otlp": "run `barograph doctor` with the agent's settings, to check the backend",
    "lines": "check the program that reads the standard output of the agent",
}
"""By the part of the component's name before the first dot."""


def component_step(name: str) -> str:
    """Return what to do about a degraded component of the agent. Its `why` has the cause."""
    return _COMPONENT_STEPS.get(name.partition(".")[0], "see the log of the agent")


def explain(state: State, reason: str) -> Explanation | None:
    """Return the explanation; `None`: the reason is not known here."""
    if state is State.PAUSED:
        meaning, step = RUN_STATES.get(reason, ("QEMU does not run the VM", "check the VM's manager"))
        return Explanation(State.PAUSED, meaning, step)
    return EXPLANATIONS.get((state, reason))
