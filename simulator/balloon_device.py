"""The balloon device and its statistics, as in hw/virtio/virtio-balloon.c of QEMU 7.2 to 10.2.

Two facts determine its behavior. The timer uses the VM's own clock (`QEMU_CLOCK_VIRTUAL`), so it stops while
the VM is stopped. And a request does not rearm the timer; only the guest's answer does, so a silent guest is
not asked again. All times are arguments: `clock_ms` of the VM's clock, `wall_s` of the host's wall clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAMES = (
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-oom-kills",
    "stat-alloc-stalls",
    "stat-async-scans",
    "stat-direct-scans",
    "stat-async-reclaims",
    "stat-direct-reclaims",
)
"""The names of the statistics; the index is the tag. QEMU before 9.2 knows the first ten
(include/standard-headers/linux/virtio_balloon.h)."""

UNSET = 2**64 - 1
"""The value of an unset statistic: -1, which QEMU prints unsigned."""

INTERVAL_MAX_S = 2**32 - 1


class BadInterval(Exception):
    """The value is not a valid interval; the message is QEMU's."""


@dataclass(frozen=True, slots=True)
class BalloonState:
    """What a migration or a snapshot transfers of the device: neither the interval nor the statistics."""

    target_bytes: int
    actual_bytes: int
    buffer: Mapping[int, int] | None  # the device holds it; `None`: the guest does, or there is no driver
    negotiated: bool


class Balloon:
    """One balloon device. Whether it sends the guest a request is a return value."""

    def __init__(self, names: Sequence[str], memory_bytes: int, *, clears_on_reset: bool) -> None:
        """Create the device.

        Args:
            names: the statistics that this QEMU knows; the index is the tag.
            memory_bytes: of the VM.
            clears_on_reset: whether a system reset clears the values and their time, as from QEMU 10.0 on.
        """
        self.names = names
        self.memory_bytes = memory_bytes
        self.target_bytes = memory_bytes
        self.actual_bytes = memory_bytes
        self.interval_s = 0
        self.due_ms: int | None = None
        self.values = [UNSET] * len(names)
        self.last_update_s = 0
        self.negotiated = False
        self._clears_on_reset = clears_on_reset
        self._buffer: Mapping[int, int] | None = None  # stats_vq_elem
        self._buffer_to_reread: Mapping[int, int] | None = None  # what virtqueue_rewind() would find

    def set_interval(self, value: object, clock_ms: int) -> None:
        """Set `guest-stats-polling-interval`, as `qom-set` does.

        Raises:
            BadInterval: `value` is not an integer or out of range; nothing has changed.
        """
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise BadInterval("Invalid parameter type for 'guest-stats-polling-interval', expected: integer")
        if value < 0:
            raise BadInterval("timer value must be greater than zero")
        if value > INTERVAL_MAX_S:
            raise BadInterval("timer value is too big")
        if value == self.interval_s:
            return  # the timer is not touched
        if value == 0:
            self.due_ms = None
        elif self.interval_s == 0:
            self.due_ms = clock_ms
        else:
            self.due_ms = clock_ms + value * 1000
        self.interval_s = value

    def expire(self, clock_ms: int) -> bool:
        """Run the timer's callback; return whether the guest gets its buffer back, which is a request."""
        self.due_ms = None
        if self._buffer is None:  # no answer yet, or no driver
            self.due_ms = clock_ms + self.interval_s * 1000
            return False
        self._buffer = None
        return True

    def receive(self, buffer: Mapping[int, int], clock_ms: int, wall_s: int) -> None:
        """Process a buffer from the guest: values by tag."""
        self._buffer = buffer
        self.values = [UNSET] * len(self.names)
        for tag, value in buffer.items():
            if tag < len(self.values):
                self.values[tag] = value
        self.last_update_s = wall_s
        if self.interval_s:
            self.due_ms = clock_ms + self.interval_s * 1000

    def start_driver(self) -> None:
        """Record that a driver has negotiated its features; the caller delivers its first buffer."""
        self.negotiated = True

    def reset(self) -> None:
        """Reset the device, as a driver does when it is unloaded; interval, timer and values are kept."""
        self._buffer = None
        self._buffer_to_reread = None
        self.negotiated = False

    def reset_system(self) -> None:
        """Reset the device as part of a system reset."""
        self.reset()
        if self._clears_on_reset:
            self.values = [UNSET] * len(self.names)
            self.last_update_s = 0

    def save(self) -> BalloonState:
        """Return the state to transfer."""
        return BalloonState(self.target_bytes, self.actual_bytes, self._buffer, self.negotiated)

    def load(self, state: BalloonState, clock_ms: int) -> None:
        """Load a transferred state. A buffer that the source held is not held here but reread at resume."""
        self.target_bytes = state.target_bytes
        self.actual_bytes = state.actual_bytes
        self.negotiated = state.negotiated
        self._buffer = None
        self._buffer_to_reread = state.buffer
        if self.interval_s:
            self.due_ms = clock_ms + self.interval_s * 1000

    def resume(self, clock_ms: int, wall_s: int) -> bool:
        """Handle the start of the VM; return whether a transferred buffer was reread, with a new time."""
        buffer, self._buffer_to_reread = self._buffer_to_reread, None
        if self._buffer is not None or buffer is None:
            return False
        self.receive(buffer, clock_ms, wall_s)
        return True
