"""The table of states: from what is known of a VM to its state, reason and words for people.

The first row that holds is the state. A row that cannot be judged yet returns `None`, and the state
announced before stands until it can: nobody is told of states that last a millisecond.
"""

from dataclasses import dataclass
from enum import StrEnum

from agent.core.address import Address, Via
from agent.core.reading import State
from agent.errors import LinkFault


class Reason(StrEnum):
    """Reasons beside the link's faults and QEMU's run states. Readers treat unknown ones as "other"."""

    FIRST_ATTEMPT = "first_attempt"  # no answer yet, or polling has just been switched on
    SETTLING = "settling"  # answers; the last update is old, and the next one is not due yet
    UUID_IN_USE = "uuid_in_use"  # another monitor on this host already has this uuid
    NO_ANSWER = "no_answer"  # a command is past its deadline: QEMU is stopped or wedged
    NO_DEVICE = "no_device"  # QEMU has no virtio balloon
    POLLING_DISABLED = "polling_disabled"  # interval 0, and policy does not let us set it
    SET_BACK = "set_back"  # somebody set our interval to 0; we set it once more after a pause
    CONTENDED = "contended"  # somebody keeps setting the interval back: left alone
    CANNOT_SET = "cannot_set"  # QEMU refused the interval, or it could not be remembered
    NO_UPDATE_YET = "no_update_yet"  # last-update is 0: no driver, no statistics support, or booting
    REBOOTED = "rebooted"  # RESET came and nothing since
    ALL_UNSET = "all_unset"  # the guest answers without one statistic: its balloon service does not run
    NO_ADVANCE = "no_advance"  # no update within the deadline
    ADVANCING = "advancing"


LEFT_ALONE = frozenset({LinkFault.SILENT, LinkFault.BUSY, LinkFault.NOT_QMP})
"""Faults that look alike from outside: held by another client, wedged, or not QMP."""

_ADVICE = {
    LinkFault.SILENT: "accepts and says nothing: held by another client, wedged, or not a QMP monitor;"
    " give the agent a monitor of its own (a second -qmp option)",
    LinkFault.BUSY: "held by another client while others wait for it, or QEMU is wedged;"
    " give the agent a monitor of its own (a second -qmp option)",
    LinkFault.NOT_QMP: "does not speak QMP: left alone until another socket takes its place",
    LinkFault.DENIED: "permission denied: run the agent as the socket's owner, or in a group that may write",
    LinkFault.REFUSED: "nobody listens on the socket",
    LinkFault.MISSING: "the socket is gone",
    LinkFault.NO_ANSWER: "no answer in the middle of a conversation: QEMU is stopped or wedged",
}

_SILENT = {
    Via.QMP: "QEMU is stopped or wedged",
    Via.LIBVIRT: "QEMU or libvirt's daemon is stopped or wedged, or something else has libvirt's job on the"
    " domain; from outside these look alike",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the table judges. `None`: not known."""

    via: Via
    link_open: bool
    answered: bool  # somebody introduced itself on this link
    fault: LinkFault | None  # how the link, or the last attempt at it, ended
    fault_detail: str
    greeted_before: bool  # this very socket has greeted us
    other_address: Address | None  # who already has this uuid
    silent_for_s: float | None  # a command is this long past its deadline
    has_balloon: bool
    run_state: str | None  # None: it has just changed and is being asked
    interval_s: int
    about_to_set: bool  # the interval will be set as soon as the first reading is in
    set_back: bool
    contended: bool
    blocked: str | None
    rebooted: bool
    last_update_s: int | None  # None: nothing read from this process yet
    all_unset: bool
    kicked: bool  # we have just asked for an update, which comes within milliseconds
    advancing: bool  # an advance was seen within the deadline, or the first reading was that young
    quiet_for_s: float  # on the VM's running time, since the last advance or since one was due
    checking: bool  # run state and interval are being asked: it may be another one by now
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row of the table."""

    state: State
    reason: str
    detail: str


def judge(f: Facts) -> Judgement | None:
    """Return the first state that holds, or `None` while what was announced before still stands."""
    if not f.link_open:
        return _judge_no_link(f)
    if f.silent_for_s is not None:
        said = f"no answer for {f.silent_for_s:.1f} s: {_SILENT[f.via]}"
        return Judgement(State.UNREACHABLE, Reason.NO_ANSWER, said)
    if not f.answered:
        return None
    if not f.has_balloon:
        return Judgement(State.NO_BALLOON, Reason.NO_DEVICE, "QEMU has no virtio balloon: add one")
    if f.run_state is None:
        return None
    if f.run_state != "running":
        return Judgement(State.PAUSED, f.run_state, f"the VM is not running: {f.run_state}")
    if f.last_update_s is None or f.about_to_set:
        return None
    if f.interval_s == 0:
        return _judge_off(f)
    return _judge_updates(f)


def _judge_no_link(f: Facts) -> Judgement | None:
    if f.fault is not None:
        # libvirt knows more of an end than a socket does.
        said = f.fault_detail if f.via is Via.LIBVIRT else _ADVICE.get(f.fault, f.fault_detail)
        if f.fault is LinkFault.MISSING:
            return Judgement(State.GONE, f.fault, said)
        if f.fault is LinkFault.REFUSED and f.greeted_before:
            return Judgement(State.GONE, f.fault, "QEMU has gone; its socket file is still there")
        if f.fault in LEFT_ALONE:
            return Judgement(State.NO_GREETING, f.fault, said)
        return Judgement(State.UNREACHABLE, f.fault, said)
    if f.other_address is not None:
        said = f"its uuid is already watched at {f.other_address}: two monitors of one VM, or a cloned uuid"
        return Judgement(State.DUPLICATE, Reason.UUID_IN_USE, said)
    return None


def _judge_off(f: Facts) -> Judgement:
    if f.contended:
        said = "somebody keeps switching polling off: left alone"
        return Judgement(State.OFF, Reason.CONTENDED, said)
    if f.set_back:
        said = "somebody switched polling off: set once more after polling.set_again"
        return Judgement(State.OFF, Reason.SET_BACK, said)
    if f.blocked is not None:
        return Judgement(State.OFF, Reason.CANNOT_SET, f.blocked)
    said = "polling is disabled and the policy does not let us enable it"
    return Judgement(State.OFF, Reason.POLLING_DISABLED, said)


def _judge_updates(f: Facts) -> Judgement | None:
    if f.rebooted:
        return Judgement(State.WAITING, Reason.REBOOTED, "reset; no update from the new boot yet")
    if f.last_update_s == 0:
        said = "no update yet: no balloon driver in the guest, no statistics support, or still booting"
        return Judgement(State.WAITING, Reason.NO_UPDATE_YET, said)
    if f.all_unset:
        said = "the guest answers without any statistic: its balloon service is not running"
        return Judgement(State.EMPTY, Reason.ALL_UNSET, said)
    if f.quiet_for_s > f.deadline_s and f.checking:
        return None
    if f.quiet_for_s > f.deadline_s:
        said = f"no update for {f.quiet_for_s:.0f} s at an interval of {f.interval_s} s"
        return Judgement(State.STALLED, Reason.NO_ADVANCE, said)
    if not f.advancing:
        if f.kicked:
            return None
        said = "answers; its last update is old and the next one not due yet"
        return Judgement(State.CONNECTING, Reason.SETTLING, said)
    return Judgement(State.REPORTING, Reason.ADVANCING, "all is well")
