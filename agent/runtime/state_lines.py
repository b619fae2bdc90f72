"""The log lines of state changes: one for each change, or one for many when many come at once.

An agent that starts beside 1,000 VMs, or a libvirt daemon that dies, changes the state of all of them within
seconds. The lines that are left out are written at the level debug.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import structlog

from agent.core.reading import State, StateEvent
from agent.core.states import is_expected

log = structlog.get_logger("barograph.vm")

LINES_MAX = 20
"""In a second, for each level."""


_Level: TypeAlias = Literal["debug", "info", "warning"]


@dataclass(slots=True)
class _Lines:
    level: _Level
    lines: int = 0
    left_out: Counter[str] = field(default_factory=Counter[str])

    def write(self, event: StateEvent) -> None:
        if self.lines < LINES_MAX:
            self.lines += 1
            _write(self.level, event)
        else:
            self.left_out[event.state.value] += 1
            _write("debug", event)

    def end_second(self) -> None:
        if self.left_out:
            states = ", ".join(f"{count} {state}" for state, count in self.left_out.most_common())
            getattr(log, self.level)(
                "vm states", changes=self.left_out.total(), states=states, detail=_DETAIL
            )
        self.lines, self.left_out = 0, Counter()


_DETAIL = "barograph status lists the VMs; to log each change, set log.level to debug"


class StateLines:
    """Owned by the event loop's thread."""

    def __init__(self) -> None:
        self._expected = _Lines("info")
        self._unexpected = _Lines("warning")

    def write(self, event: StateEvent) -> None:
        """Write the line of a change. `connecting` lasts for moments: the level of its line is debug."""
        if event.state is State.CONNECTING:
            _write("debug", event)
        elif is_expected(event.state, event.reason):
            self._expected.write(event)
        else:
            self._unexpected.write(event)

    def end_second(self) -> None:
        """Write one line for the changes of the last second that had none. Call it every second."""
        self._expected.end_second()
        self._unexpected.end_second()


def _write(level: _Level, event: StateEvent) -> None:
    getattr(log, level)(
        "vm state",
        path=str(event.address),
        vm=None if event.vm is None else event.vm.name or event.vm.id,
        state=event.state.value,
        reason=str(event.reason),
        before=None if event.previous_state is None else event.previous_state.value,
        detail=event.detail,
    )
