"""The balloon device's statistics, as hw/virtio/virtio-balloon.c has them from QEMU 7.2 to 10.2.

Two facts carry the rest. The timer is on the VM's own clock (`QEMU_CLOCK_VIRTUAL`), so it stands while the VM
does. And a request does not arm it again: only the guest's answer does, so a guest that stays silent is never
asked a second time. Every time here is an argument: `clock_ms` of the VM's clock, `wall_s` of the host's.
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
"""By tag. QEMU before 9.2 knows the first ten: include/standard-headers/linux/virtio_balloon.h."""

UNSET = 2**64 - 1
"""-1, which QEMU writes unsigned."""

INTERVAL_MAX_S = 2**32 - 1


class BadInterval(Exception):
    """The value is no interval; the message is QEMU's."""


@dataclass(frozen=True, slots=True)
class Travelling:
    """What a migration or a snapshot carries of the device: no interval, no statistics."""

    target_bytes: int
    actual_bytes: int
    buffer: Mapping[int, int] | None  # in the guest's memory; `None`: the guest has it, or there is no driver
    negotiated: bool


class Balloon:
    """One device. What it asks of the guest is a returned value."""

    def __init__(self, names: Sequence[str], memory_bytes: int, *, forgets_at_reset: bool) -> None:
        """Realize it.

        Args:
            names: of the statistics this QEMU knows, by tag.
            memory_bytes: of the VM.
            forgets_at_reset: QEMU 10.0 and later; before, values and their time outlive the machine's reset.
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
        self._forgets_at_reset = forgets_at_reset
        self._held: Mapping[int, int] | None = None  # stats_vq_elem
        self._to_read_again: Mapping[int, int] | None = None  # what virtqueue_rewind() would find

    def set_interval(self, value: object, clock_ms: int) -> None:
        """`qom-set guest-stats-polling-interval`.

        Raises:
            BadInterval: not an integer, or out of range. Nothing has changed.
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
        """The timer's callback: say whether the guest is given its buffer back, which asks it to answer."""
        self.due_ms = None
        if self._held is None:  # so it is, too, where no driver is
            self.due_ms = clock_ms + self.interval_s * 1000
            return False
        self._held = None
        return True

    def receive(self, buffer: Mapping[int, int], clock_ms: int, wall_s: int) -> None:
        """The guest has put a buffer into the queue: tags with values."""
        self._held = buffer
        self.values = [UNSET] * len(self.names)
        for tag, value in buffer.items():
            if tag < len(self.values):
                self.values[tag] = value
        self.last_update_s = wall_s
        if self.interval_s:
            self.due_ms = clock_ms + self.interval_s * 1000

    def start_driver(self) -> None:
        """A driver has negotiated its features. It owes a first buffer."""
        self.negotiated = True

    def reset(self) -> None:
        """The device's reset, as a driver does it when it leaves: interval, timer and values stay."""
        self._held = None
        self._to_read_again = None
        self.negotiated = False

    def reset_machine(self) -> None:
        """The machine's reset."""
        self.reset()
        if self._forgets_at_reset:
            self.values = [UNSET] * len(self.names)
            self.last_update_s = 0

    def save(self) -> Travelling:
        """Return what travels."""
        return Travelling(self.target_bytes, self.actual_bytes, self._held, self.negotiated)

    def load(self, state: Travelling, clock_ms: int) -> None:
        """Take over what has travelled. A buffer held at the source is not held here, but read at resume."""
        self.target_bytes = state.target_bytes
        self.actual_bytes = state.actual_bytes
        self.negotiated = state.negotiated
        self._held = None
        self._to_read_again = state.buffer
        if self.interval_s:
            self.due_ms = clock_ms + self.interval_s * 1000

    def resume(self, clock_ms: int, wall_s: int) -> bool:
        """The VM runs (again); say whether an old buffer was read again, under a new time."""
        buffer, self._to_read_again = self._to_read_again, None
        if self._held is not None or buffer is None:
            return False
        self.receive(buffer, clock_ms, wall_s)
        return True
