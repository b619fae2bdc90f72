"""The table of states: from the facts about a VM to its state, the reason, and a detail for people.

The first row that holds is the state. If a row cannot be judged yet, `judge` returns `None` and the state
reported last stands, so that states of a millisecond are not reported.
"""

from enum import StrEnum

from msgspec import Struct

from agent.core.address import Address, Via
from agent.core.reading import State
from agent.errors import LinkFault


class Reason(StrEnum):
    """Reasons besides the link's faults and QEMU's run states. Readers treat unknown ones as "other"."""

    EXCLUDED = "excluded"  # the configuration excludes the VM; the last event of it
    NOT_OBSERVED = "not_observed"  # the path is refused, or makes room for others; the last event of the VM
    FIRST_ATTEMPT = "first_attempt"  # no answer yet, or polling has just been switched on
    SETTLING = "settling"  # the VM answers; its last update is old, and the next one is not due yet
    UUID_IN_USE = "uuid_in_use"  # another monitor on this host already has this uuid
    NO_ANSWER = "no_answer"  # a question is past its deadline: QEMU is stopped or hangs
    NO_DEVICE = "no_device"  # QEMU has no virtio balloon
    POLLING_DISABLED = "polling_disabled"  # the interval is 0, and the policy forbids the agent to set it
    SET_BACK = "set_back"  # another client set the interval to 0; the agent sets it once more after a pause
    CONTENDED = "contended"  # another client set it to 0 again: the agent leaves it
    CANNOT_SET = "cannot_set"  # QEMU refused the interval, or the change could not be recorded
    NO_UPDATE_YET = "no_update_yet"  # last-update is 0: no driver, no statistics support, or booting
    REBOOTED = "rebooted"  # RESET came, and no update since
    ALL_UNSET = "all_unset"  # updates come without any statistic: the guest's balloon service is not running
    NO_ADVANCE = "no_advance"  # no update within the deadline
    ADVANCING = "advancing"


NO_GREETING_FAULTS = frozenset({LinkFault.SILENT, LinkFault.BUSY, LinkFault.NOT_QMP})
"""Faults that look alike from outside: the monitor is in use by another client, QEMU hangs, or it is not
QMP."""

_FAULT_DETAILS = {
    LinkFault.SILENT: "the socket accepts connections but sends no greeting: another client uses the monitor,"
    " QEMU hangs, or it is not a QMP monitor but, for example, a guest agent or the HTTP API of another VMM"
    " (Cloud Hypervisor, Firecracker); give the agent its own monitor (a second -qmp option), or narrow the"
    " globs",
    LinkFault.BUSY: "another client uses the monitor and others wait for it, or QEMU hangs; give the agent"
    " its own monitor (a second -qmp option)",
    LinkFault.NOT_QMP: "not a QMP monitor; match only QMP monitors in the globs, or replace the socket",
    LinkFault.NOT_A_VM: "the peer uses QMP but is not a VM (for example, qemu-storage-daemon); narrow the"
    " globs; the agent tries again when the socket is replaced",
    LinkFault.DENIED: "permission denied; run the agent as the socket's owner, or in a group that may write"
    " to it",
    LinkFault.REFUSED: "no listener on the socket; start QEMU, or correct the glob",
    LinkFault.MISSING: "the socket was removed",
    LinkFault.NO_ANSWER: "no answer on an open link: QEMU is stopped or hangs; check the QEMU process",
}

_OVERDUE_CAUSES = {
    Via.QMP: "QEMU is stopped or hangs; check the QEMU process",
    Via.LIBVIRT: "QEMU or libvirt's daemon is stopped or hangs, or another libvirt job blocks the domain;"
    " check their processes, and run virsh domjobinfo",
}

_HANGS_AT_EXIT = "the VM has shut down, but QEMU hangs at its exit; end the QEMU process with SIGTERM"


STEPPED_ASIDE = "; the agent shares the monitor now, because another client waited for it"
"""Added to the detail of a VM whose monitor the agent used to hold."""


_EXPECTED = frozenset({State.CONNECTING, State.REPORTING, State.PAUSED, State.WAITING, State.GONE})


def is_expected(state: State, reason: str) -> bool:
    """Return whether a state is normal or configured. People should know of any other one."""
    return state in _EXPECTED or reason == Reason.POLLING_DISABLED


class Facts(Struct, frozen=True):
    """The facts that the table judges. `None`: not known."""

    via: Via
    link_open: bool
    claimed: bool  # the VM was introduced on this link, and its id is claimed
    fault: LinkFault | None  # how the link, or the last attempt at it, ended
    fault_detail: str
    path_refused: bool  # the agent must not use the path any more, or leaves it to make room
    greeted_before: bool  # this very socket sent a greeting before
    other_address: Address | None  # where this uuid is observed already
    overdue: bool  # a question is past its deadline
    answer_within_s: float  # the deadline of a question
    has_balloon: bool
    has_shut_down: bool  # QEMU announced the end of the VM
    run_state: str | None  # None: it has just changed and is being read
    interval_s: int
    about_to_set: bool  # the interval will be set as soon as the first reading is in
    set_back: bool
    contended: bool
    blocked: str | None
    rebooted: bool
    last_update_s: int | None  # None: nothing read from this process yet
    all_unset: bool
    kicked: bool  # setting the interval has just made QEMU ask; the update comes within milliseconds
    advancing: bool  # an update came within the deadline, or the first reading was that young
    silent_s: float  # on the VM's running time, since the last update or since one was due
    checking: bool  # run state and interval are being read and may have changed
    deadline_s: float


class Verdict(Struct, frozen=True):
    """One row of the table."""

    state: State
    reason: str
    detail: str


def judge(f: Facts) -> Verdict | None:
    """Return the first state that holds; `None`: the state reported last stands."""
    if not f.link_open:
        return _judge_no_link(f)
    if f.overdue:
        cause = _HANGS_AT_EXIT if f.has_shut_down and f.via is Via.QMP else _OVERDUE_CAUSES[f.via]
        detail = f"no answer within {f.answer_within_s:g} s: {cause}"
        return Verdict(State.UNREACHABLE, Reason.NO_ANSWER, detail)
    if not f.claimed:
        return None
    if not f.has_balloon:
        detail = "QEMU has no virtio balloon; add the device virtio-balloon-pci"
        return Verdict(State.NO_BALLOON, Reason.NO_DEVICE, detail)
    if f.run_state is None:
        return None
    if f.run_state != "running":
        return Verdict(State.PAUSED, f.run_state, f"the VM is not running: {f.run_state}")
    if f.last_update_s is None or f.about_to_set:
        return None
    if f.interval_s == 0:
        return _judge_off(f)
    return _judge_updates(f)


def _judge_no_link(f: Facts) -> Verdict | None:
    if f.fault is LinkFault.MISSING and f.path_refused:
        detail = (
            "the agent no longer observes the VM: it refuses the path now, or makes room for the VMs of other"
            " owners (see the log line monitor refused); the VM may still be running"
        )
        return Verdict(State.GONE, Reason.NOT_OBSERVED, detail)
    if f.fault is not None:
        # libvirt gives the reason why a domain ended; a socket does not.
        detail = f.fault_detail if f.via is Via.LIBVIRT else _FAULT_DETAILS.get(f.fault, f.fault_detail)
        if f.fault is LinkFault.MISSING:
            return Verdict(State.GONE, f.fault, detail)
        if f.fault is LinkFault.REFUSED and f.greeted_before:
            return Verdict(State.GONE, f.fault, "QEMU has exited; its socket file is still there")
        if f.fault in NO_GREETING_FAULTS:
            return Verdict(State.NO_GREETING, f.fault, detail)
        return Verdict(State.UNREACHABLE, f.fault, detail)
    if f.other_address is not None:
        detail = (
            f"this uuid is already observed at {f.other_address}: two monitors of one VM, a migration within"
            " this host, or a cloned uuid; narrow the globs, or give the clone its own uuid"
        )
        return Verdict(State.DUPLICATE, Reason.UUID_IN_USE, detail)
    return None


def _judge_off(f: Facts) -> Verdict:
    if f.contended:
        detail = "another client disabled polling twice; stop that client, then restart the agent"
        return Verdict(State.OFF, Reason.CONTENDED, detail)
    if f.set_back:
        detail = "another client disabled polling; the agent enables it once more after polling.set_again"
        return Verdict(State.OFF, Reason.SET_BACK, detail)
    if f.blocked is not None:
        return Verdict(State.OFF, Reason.CANNOT_SET, f.blocked)
    detail = (
        "polling is disabled, and polling.policy does not allow the agent to enable it; set the interval in"
        " QEMU, or use the policy fill"
    )
    return Verdict(State.OFF, Reason.POLLING_DISABLED, detail)


def _judge_updates(f: Facts) -> Verdict | None:
    if f.rebooted:
        return Verdict(State.WAITING, Reason.REBOOTED, "the VM was reset; no update from the new boot yet")
    if f.last_update_s == 0:
        detail = (
            "no update yet: the guest has no balloon driver, does not support statistics, or is still"
            " booting; wait for the boot, or load virtio_balloon in the guest"
        )
        return Verdict(State.WAITING, Reason.NO_UPDATE_YET, detail)
    if f.all_unset:
        detail = "updates come without any statistic; start the balloon service in the guest"
        return Verdict(State.EMPTY, Reason.ALL_UNSET, detail)
    if f.silent_s > f.deadline_s and f.checking:
        return None
    if f.silent_s > f.deadline_s:
        detail = (
            f"no update within {f.deadline_s:g} s at an interval of {f.interval_s} s; check whether the"
            " guest hangs, or its balloon driver is unloaded"
        )
        return Verdict(State.STALLED, Reason.NO_ADVANCE, detail)
    if not f.advancing:
        if f.kicked:
            return None
        detail = "the VM answers; its last update is old, and the next one is not due yet"
        return Verdict(State.CONNECTING, Reason.SETTLING, detail)
    return Verdict(State.REPORTING, Reason.ADVANCING, "receiving updates")
