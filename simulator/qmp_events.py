"""QMP events: their subscribers, and the limit of one per second for some of them."""

import json
from collections.abc import Callable, Mapping

RATE_LIMITED = frozenset({"BALLOON_CHANGE"})
"""The simulated events that QEMU limits; within a second the last one wins (monitor/monitor.c,
monitor_qapi_event_conf)."""

PERIOD_NS = 1_000_000_000


class Events:
    """Sends the events of one QEMU to every session that has negotiated its capabilities."""

    def __init__(self) -> None:
        self.subscribers: list[Callable[[bytes], None]] = []
        self._limited_until_ns: dict[str, int] = {}
        self._withheld: dict[str, bytes] = {}

    def emit(self, name: str, data: Mapping[str, object] | None, mono_ns: int, wall_ns: int) -> None:
        """Send an event now, or when its rate limit permits."""
        seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
        stamp = {"seconds": seconds, "microseconds": rest_ns // 1000}
        event: dict[str, object] = {"timestamp": stamp, "event": name}
        if data is not None:
            event["data"] = data
        line = json.dumps(event).encode() + b"\r\n"
        if name not in RATE_LIMITED:
            self._send(line)
        elif mono_ns < self._limited_until_ns.get(name, 0):
            self._withheld[name] = line
        else:
            self._limited_until_ns[name] = mono_ns + PERIOD_NS
            self._send(line)

    def due_ns(self) -> int | None:
        """Return when the next withheld event is due, on the host's monotonic clock; `None`: none is."""
        return min((self._limited_until_ns[name] for name in self._withheld), default=None)

    def advance(self, mono_ns: int) -> None:
        """Send the withheld events that are due."""
        for name in [name for name in self._withheld if self._limited_until_ns[name] <= mono_ns]:
            self._limited_until_ns[name] = mono_ns + PERIOD_NS
            self._send(self._withheld.pop(name))

    def _send(self, line: bytes) -> None:
        for send in tuple(self.subscribers):
            send(line)
