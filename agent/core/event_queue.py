"""The bounded queue of a link's events, and what is kept of them when there are too many."""

from collections.abc import Iterable

from agent.core.events import (
    BalloonChanged,
    LinkEvent,
    MonitorEvent,
    MonitorEventKind,
    OthersUnseen,
    OthersWait,
)

QUEUED_MAX = 64
"""A VM makes a few events at a reboot; more than this come from a monitor that floods."""

OVERFLOW = MonitorEvent(MonitorEventKind.LOST)
"""Events were dropped: what they would have reported must be read."""


class EventQueue:
    """First in, first out, at most `QUEUED_MAX` events. Owned by one link."""

    def __init__(self) -> None:
        self._events: list[LinkEvent] = []  # mostly empty; an empty deque takes ten times as much memory

    def __bool__(self) -> bool:
        return bool(self._events)

    def put(self, event: LinkEvent) -> None:
        """Add the newest event. A full queue is reduced first, as `newest_of_each_kind` does."""
        if len(self._events) >= QUEUED_MAX:
            self._events = newest_of_each_kind(self._events)
        self._events.append(event)

    def take(self) -> LinkEvent:
        """Remove and return the oldest event. The queue must not be empty."""
        return self._events.pop(0)


def newest_of_each_kind(events: Iterable[LinkEvent]) -> list[LinkEvent]:
    """Return `OVERFLOW` and the newest event of each kind, in their order.

    What has happened is kept; how often it happened is not.
    """
    newest: dict[MonitorEventKind | type[LinkEvent], LinkEvent] = {}
    for event in reversed(list(events)):
        newest.setdefault(_kind(event), event)
    newest.pop(MonitorEventKind.LOST, None)
    return [OVERFLOW, *reversed(newest.values())]


def _kind(event: LinkEvent) -> MonitorEventKind | type[LinkEvent]:
    match event:
        case MonitorEvent(kind):
            return kind
        case BalloonChanged() | OthersWait() | OthersUnseen():
            return type(event)
