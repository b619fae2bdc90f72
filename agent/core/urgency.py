"""Which VM needs attention first: the order of the page and of the commands. Pure.

`urgency` takes the texts of `/status`, because a command may ask a later agent, with states that are unknown
here.
"""

from collections.abc import Mapping
from enum import IntEnum

from agent.core.pressure import PressureLevel
from agent.core.reading import State, VmView
from agent.core.states import Reason, is_expected


class Urgency(IntEnum):
    """How urgently people should look at a VM, most urgent first."""

    OOM = 0
    PRESSURE = 1
    LOW = 2
    UNEXPECTED = 3  # a state that is neither normal nor configured
    PENDING = 4  # a normal state without values, which should pass: connecting, waiting
    NONE = 5


_BY_LEVEL: Mapping[str, Urgency] = {
    PressureLevel.OOM: Urgency.OOM,
    PressureLevel.PRESSURE: Urgency.PRESSURE,
    PressureLevel.LOW: Urgency.LOW,
}
_STATES: frozenset[str] = frozenset(State)
_FAILED_RUN_STATES = frozenset({"guest-panicked", "internal-error", "io-error", "watchdog"})


def urgency(state: str, reason: str, level: str | None) -> Urgency:
    """Return the place of a VM in the order.

    Args:
        state: of the VM; an unknown one is `UNEXPECTED`.
        reason: of the state.
        level: of pressure; `None`: it is not known. It counts only while the VM reports: an old level is
            not known to be true now.
    """
    if state == State.REPORTING:
        return Urgency.NONE if level is None else _BY_LEVEL.get(level, Urgency.NONE)
    if state not in _STATES or (state == State.PAUSED and reason in _FAILED_RUN_STATES):
        return Urgency.UNEXPECTED
    if not is_expected(State(state), reason):
        return Urgency.UNEXPECTED
    return Urgency.PENDING if state in (State.CONNECTING, State.WAITING) else Urgency.NONE


def is_well(state: str, reason: str) -> bool:
    """Return whether a VM reports, or is excused: paused, gone, or configured not to report."""
    if state == State.OFF:
        return reason == Reason.POLLING_DISABLED
    return urgency(state, reason, None) is Urgency.NONE


def level_now(view: VmView) -> PressureLevel | None:
    """Return the level of pressure; `None`: it is not known, or not known to be true now."""
    pressure = view.pressure
    if pressure is None or pressure.score is None or view.state.state is not State.REPORTING:
        return None
    return pressure.level


def urgency_of(view: VmView) -> Urgency:
    """Return the place of a VM of this agent in the order."""
    return urgency(view.state.state, view.state.reason, level_now(view))


def since_ms_of(view: VmView) -> int:
    """Return since when the VM has had its state, or the level of pressure that makes it urgent."""
    pressure = view.pressure
    if pressure is not None and urgency_of(view) <= Urgency.LOW:
        return pressure.since_s * 1000
    return view.state.since_ms
