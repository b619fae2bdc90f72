"""The last half hour of each VM, for the page: its values and its changes of state. Pure, and bounded.

Values are kept in slots of `SLOT_S`: of several samples in one slot the newest counts. Time is `last_update`,
so only samples with origin `poll` are kept (core/pressure.py says why).
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import astuple

from agent.core.address import Address
from agent.core.pressure import NO_RATES, VmPressure, rates
from agent.core.reading import Sample, StateEvent, VmId, VmMemory
from agent.core.vm_memory import amounts
from agent.core.wording import printable

SPAN_S = 1_800
SLOT_S = 10
SLOTS = SPAN_S // SLOT_S
"""Of one VM: a longer polling interval leaves slots out."""

SPARK_MINUTES = SPAN_S // 60

VMS_MAX = 4_000
"""VMs with a history. Those that come later have none until another one is forgotten."""

CHANGES_MAX = 16
"""Changes of state of one VM. The oldest is forgotten first."""

DETAIL_CHARACTERS_MAX = 200
REASON_CHARACTERS_MAX = 64

_BACK_SLOTS = 6
"""The host's view of a VM and its samples come at different times: this much disorder is normal."""


class Values(Struct, frozen=True):
    """What is kept of a VM in one slot. `None`: not known."""

    available_share: float | None = None  # of the guest's total memory
    swap_bytes_per_s: float | None = None
    major_faults_per_s: float | None = None
    score: float | None = None
    actual_bytes: float | None = None
    resident_bytes: float | None = None


COLUMNS: Sequence[str] = Values.__struct_fields__
_WIDTH = len(COLUMNS)
_NO_VALUES = Values()


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a VM's state."""

    at_ms: int
    state: str
    reason: str
    detail: str


class VmHistory:
    """The history of one VM."""

    __slots__ = (
        *("_next", "_slots", "_spark", "_values"),
        *("changes", "newest", "revision", "spark_minute", "vm_id"),
    )

    def __init__(self, vm_id: VmId | None) -> None:
        self.vm_id = vm_id
        self.changes: list[Change] = []  # the newest `CHANGES_MAX`
        self.newest = _NO_VALUES
        self.revision = 0
        """Changes with each value added."""
        self.spark_minute = 0
        """The minute, since the epoch of Unix, of the last character of `spark`."""
        self._slots = array("q")
        self._values = array("f")  # _WIDTH for each slot
        self._next = 0  # where the next slot is written
        self._spark = bytearray(b" " * SPARK_MINUTES)

    @property
    def spark(self) -> str:
        """The lowest available share of each minute, as one character each.

        "0" is nothing, "o" (63 characters later) is all, a space is not known.
        """
        return self._spark.decode()

    def add(self, at_s: int, values: Values) -> None:
        """Add values. Those of an earlier time belong to the newest slot, unless the clock was set back."""
        self.revision += 1
        slot = at_s // SLOT_S
        last = self._slots[self._next - 1] if self._slots else None
        if last is not None and slot < last - _BACK_SLOTS:
            self._forget()
            last = None
        if last is not None and slot <= last:
            self._write(self._next - 1, values)
            slot = last
        else:
            self._append(slot, values)
        self._add_to_spark(slot * SLOT_S // 60, values.available_share)
        self.newest = _merged(self.newest, values)

    def columns(self, from_s: int) -> tuple[list[int], Mapping[str, list[float]]]:
        """Return the times from `from_s` on (Unix seconds), and the values by name. NaN is not known."""
        order = [place for place in self._order() if self._slots[place] * SLOT_S >= from_s]
        times = [self._slots[place] * SLOT_S for place in order]
        values = self._values
        return times, {
            name: [values[place * _WIDTH + column] for place in order] for column, name in enumerate(COLUMNS)
        }

    def _order(self) -> Iterator[int]:
        """Yield the places of the slots, oldest first."""
        count = len(self._slots)
        start = self._next if count == SLOTS else 0
        for number in range(count):
            yield (start + number) % count

    def _append(self, slot: int, values: Values) -> None:
        if self._next == SLOTS:
            self._next = 0
        if len(self._slots) < SLOTS:
            self._slots.append(slot)
            self._values.extend([math.nan] * _WIDTH)
            self._next = len(self._slots)
        else:
            self._slots[self._next] = slot
            for column in range(_WIDTH):
                self._values[self._next * _WIDTH + column] = math.nan
            self._next += 1
        self._write(self._next - 1, values)

    def _write(self, place: int, values: Values) -> None:
        for at, value in enumerate(astuple(values), place * _WIDTH):
            if value is not None:
                self._values[at] = value

    def _add_to_spark(self, minute: int, share: float | None) -> None:
        ahead = minute - self.spark_minute
        if ahead > 0:
            kept = self._spark[min(ahead, SPARK_MINUTES) :]
            self._spark = kept + b" " * (SPARK_MINUTES - len(kept))
            self.spark_minute = minute
        if share is not None:
            character = ord("0") + round(63 * min(1.0, max(0.0, share)))
            before = self._spark[-1]
            self._spark[-1] = character if before == ord(" ") else min(before, character)

    def _forget(self) -> None:
        del self._slots[:], self._values[:]
        self._next = 0
        self.spark_minute = 0
        self._spark = bytearray(b" " * SPARK_MINUTES)


class VmHistories:
    """The histories of all VMs, by address. Owned by the event loop's thread."""

    def __init__(self, vms_max: int = VMS_MAX) -> None:
        self._vms_max = vms_max
        self._histories: dict[Address, VmHistory] = {}

    def __len__(self) -> int:
        return len(self._histories)

    def get(self, address: Address) -> VmHistory | None:
        """Return the history of a VM; `None`: there is none."""
        return self._histories.get(address)

    def sample(self, sample: Sample, before: VmPressure | None, after: VmPressure | None) -> None:
        """Add a sample with the VM's pressure before and after it."""
        if after is None or after is before:
            return  # not a sample whose age is known
        history = self._of(sample.address, sample.vm.id)
        if history is None:
            return
        now = NO_RATES if before is None else rates(before, after)
        history.add(
            sample.last_update_s,
            Values(
                available_share=share_available(sample.statistics),
                swap_bytes_per_s=now.swap_bytes_per_s,
                major_faults_per_s=now.major_faults_per_s,
                score=after.score,
                actual_bytes=None if sample.balloon is None else sample.balloon.actual_bytes,
            ),
        )

    def state(self, event: StateEvent) -> None:
        """Add a change of state."""
        history = self._of(event.address, None if event.vm is None else event.vm.id)
        if history is not None:
            detail = printable(event.detail, DETAIL_CHARACTERS_MAX)
            reason = printable(str(event.reason), REASON_CHARACTERS_MAX)  # a run state comes from QEMU
            history.changes.append(Change(event.since_ms, event.state.value, reason, detail))
            del history.changes[:-CHANGES_MAX]

    def memory(self, memory: VmMemory) -> None:
        """Add what the host sees of a VM."""
        history = self._of(memory.address, memory.vm.id)
        if history is not None:
            sizes = amounts(memory)
            history.add(
                memory.observed_at_ms // 1000,
                Values(actual_bytes=sizes.actual_bytes, resident_bytes=sizes.resident_bytes),
            )

    def forget(self, address: Address) -> None:
        """Forget a VM that is gone for good."""
        self._histories.pop(address, None)

    def _of(self, address: Address, vm_id: VmId | None) -> VmHistory | None:
        history = self._histories.get(address)
        if history is not None:
            if vm_id is None or history.vm_id in (None, vm_id):
                history.vm_id = history.vm_id or vm_id
                return history
            history = self._histories[address] = VmHistory(vm_id)  # another VM at this address
            return history
        if len(self._histories) >= self._vms_max:
            return None
        history = self._histories[address] = VmHistory(vm_id)
        return history


def share_available(statistics: Mapping[str, int]) -> float | None:
    """Return the available memory as a share of the guest's total, from 0 to 1."""
    available, total = statistics.get("available_memory"), statistics.get("total_memory")
    return None if available is None or not total else min(1.0, max(0.0, available / total))


def _merged(before: Values, after: Values) -> Values:
    """Return the newest values. A rate that a new sample does not have is not the one before."""
    is_host_view = after.available_share is None and after.score is None
    if not is_host_view:
        return Values(
            after.available_share,
            after.swap_bytes_per_s,
            after.major_faults_per_s,
            after.score,
            after.actual_bytes if after.actual_bytes is not None else before.actual_bytes,
            before.resident_bytes,
        )
    return Values(
        before.available_share,
        before.swap_bytes_per_s,
        before.major_faults_per_s,
        before.score,
        after.actual_bytes if after.actual_bytes is not None else before.actual_bytes,
        after.resident_bytes,
    )
