"""QMP events: who hears them, and the ones that QEMU sends once a second at most."""

import json
from collections.abc import Callable, Mapping

RATE_LIMITED = frozenset({"BALLOON_CHANGE"})
"""Of those simulated; the last one wins: monitor/monitor.c, monitor_qapi_event_conf."""

PERIOD_NS = 1_000_000_000


class Events:
    """What one QEMU has to say unasked, to every monitor past its capabilities."""

    def __init__(self) -> None:
        self.hearers: list[Callable[[bytes], None]] = []
        self._quiet_until_ns: dict[str, int] = {}
        self._withheld: dict[str, bytes] = {}

    def emit(self, name: str, data: Mapping[str, object] | None, mono_ns: int, wall_ns: int) -> None:
        """Send an event, or withhold it until its second is over."""
        seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
        stamp = {"seconds": seconds, "microseconds": rest_ns // 1000}
        event: dict[str, object] = {"timestamp": stamp, "event": name}
        if data is not None:
            event["data"] = data
        line = json.dumps(event).encode() + b"\r\n"
        if name not in RATE_LIMITED:
            self._send(line)
        elif mono_ns < self._quiet_until_ns.get(name, 0):
            self._withheld[name] = line
        else:
            self._quiet_until_ns[name] = mono_ns + PERIOD_NS
            self._send(line)

    def due_ns(self) -> int | None:
        """Return when something withheld is to be sent, on the host's monotonic clock."""
        return min((self._quiet_until_ns[name] for name in self._withheld), default=None)

    def advance(self, mono_ns: int) -> None:
        """Send what was withheld long enough."""
        for name in [name for name in self._withheld if self._quiet_until_ns[name] <= mono_ns]:
            self._quiet_until_ns[name] = mono_ns + PERIOD_NS
            self._send(self._withheld.pop(name))

    def _send(self, line: bytes) -> None:
        for hear in tuple(self.hearers):
            hear(line)
