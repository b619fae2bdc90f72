"""Which VM needs attention first: the order of the page. Pure."""

from enum import IntEnum

from agent.core.pressure import PressureLevel
from agent.core.reading import State, VmView
from agent.core.states import is_expected


class Attention(IntEnum):
    """How urgently people should look at a VM, most urgent first."""

    OOM = 0
    PRESSURE = 1
    LOW = 2
    SILENT = 3  # a state that is neither normal nor configured
    NONE = 4


_BY_LEVEL = {
    PressureLevel.OOM: Attention.OOM,
    PressureLevel.PRESSURE: Attention.PRESSURE,
    PressureLevel.LOW: Attention.LOW,
}


def level_now(view: VmView) -> PressureLevel | None:
    """Return the level of pressure; `None`: it is not known, or not known to be true now."""
    pressure = view.pressure
    if pressure is None or pressure.score is None or view.state.state is not State.REPORTING:
        return None
    return pressure.level


def attention(view: VmView) -> Attention:
    """Return the VM's place in the order."""
    level = level_now(view)
    if level is not None and level in _BY_LEVEL:
        return _BY_LEVEL[level]
    return Attention.NONE if is_expected(view.state.state, view.state.reason) else Attention.SILENT
