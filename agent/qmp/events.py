"""The monitor's events that decide something, and the bounded queue they wait in."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

LISTENED = frozenset(
    {"STOP", "RESUME", "SUSPEND", "WAKEUP", "RESET", "SHUTDOWN", "BALLOON_CHANGE", "DEVICE_DELETED"}
)
"""Source: QEMU qapi/run-state.json, qapi/machine.json, qapi/qdev.json. MIGRATION needs a capability."""

OVERFLOW = "OVERFLOW"
"""Ours, not QEMU's: more came than was taken. Read again what events would have told."""

QUEUED_MAX = 64

_NO_DATA: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """One of `LISTENED`, or `OVERFLOW`, with QEMU's `data`, not judged."""

    name: str
    data: Mapping[str, object]


def parse_event(message: Mapping[str, object]) -> MonitorEvent | None:
    """Return the event in a QMP message; `None`: not one of `LISTENED`."""
    name = message.get("event")
    if not isinstance(name, str) or name not in LISTENED:
        return None
    data = message.get("data")
    if not isinstance(data, Mapping):
        return MonitorEvent(name, _NO_DATA)
    return MonitorEvent(name, cast(Mapping[str, object], data))


class EventQueue:
    """First in, first out, at most `QUEUED_MAX`.

    At the bound it shrinks to `OVERFLOW` and the newest of each name, in their order: what has happened
    is still told, how often is not.
    """

    def __init__(self) -> None:
        self._events: deque[MonitorEvent] = deque()

    def __bool__(self) -> bool:
        return bool(self._events)

    def put(self, event: MonitorEvent) -> None:
        """Add the newest."""
        if len(self._events) >= QUEUED_MAX:
            self._shrink()
        self._events.append(event)

    def _shrink(self) -> None:
        newest = {queued.name: queued for queued in self._events if queued.name != OVERFLOW}
        kept = [queued for queued in self._events if queued is newest.get(queued.name)]
        self._events = deque([MonitorEvent(OVERFLOW, _NO_DATA), *kept])

    def take(self) -> MonitorEvent:
        """Remove and return the oldest; there must be one."""
        return self._events.popleft()
