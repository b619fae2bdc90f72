"""The newest records, for `barograph tap`. Pure, and bounded.

Records are kept only while a client reads them: the first `read` opens the tap, and `IDLE_S` seconds without
one close it. Records are also numbered while it is closed, so that a reader learns how many it has missed.
Each reader keeps its own position, so no reader can hold up another one, or the delivery of records.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from agent.core.address import Address
from agent.core.reading import RecordKind, VmIdentity

KINDS = frozenset(RecordKind) - {RecordKind.LOG}
"""The kinds that are shown. A log record repeats a state."""

RECORDS_MAX = 4_096
SIZE_BYTES_MAX = 4 << 20
"""What is kept for all readers together. The oldest record is forgotten first."""

PAGE_RECORDS_MAX = 512
PAGE_BYTES_MAX = 512 << 10
"""What one `read` returns. A larger record is returned alone."""

IDLE_S = 30


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asks for."""

    vm: str | None = None  # a name, id or path; None: records of all VMs, of the host and of the agent
    kinds: frozenset[RecordKind] = KINDS

    def names(self, vm: VmIdentity | None, address: Address) -> bool:
        """Return whether the records of this VM are wanted."""
        return self.vm is None or self.vm in _names(vm, address)


@dataclass(frozen=True, slots=True)
class Shown:
    """One record."""

    kind: RecordKind
    names: Sequence[str]  # of its VM; empty: it is of none
    value: bytes  # JSON, as emitted


@dataclass(frozen=True, slots=True)
class Page:
    """What one `read` returns."""

    records: Sequence[Shown]
    next: int  # the position after this page
    skipped: int  # records after the reader's position that are no longer kept, of any VM and kind


class Tap:
    """Owned by the event loop's thread."""

    def __init__(self, records_max: int = RECORDS_MAX, size_bytes_max: int = SIZE_BYTES_MAX) -> None:
        self._records_max = records_max
        self._size_bytes_max = size_bytes_max
        self._kept: deque[Shown] = deque()
        self._size_bytes = 0
        self._newest = 0  # the number of the newest record of this run, kept or not
        self._is_open = False
        self._idle_s = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_open(self) -> bool:
        """Whether records are kept."""
        return self._is_open

    def put(
        self, kind: RecordKind, value: bytes, vm: VmIdentity | None = None, address: Address | None = None
    ) -> None:
        """Add a record. `address` is absent if it is not of a VM, `vm` if that is not identified."""
        self._newest += 1
        if not self._is_open:
            return
        self._kept.append(Shown(kind, () if address is None else _names(vm, address), value))
        self._size_bytes += len(value)
        while len(self._kept) > self._records_max or self._size_bytes > self._size_bytes_max:
            self._size_bytes -= len(self._kept.popleft().value)

    def read(self, after: int | None, wanted: Wanted) -> Page:
        """Return the next records that a reader wants, oldest first.

        Args:
            after: the reader's position; `None`, or one that this run has not reached: from now on.
            wanted: what it asks for.
        """
        self._is_open, self._idle_s = True, 0
        if after is None or after > self._newest:
            after = self._newest
        before_kept = self._newest - len(self._kept)
        skipped = max(0, before_kept - after)
        position = after + skipped
        found: list[Shown] = []
        size_bytes = 0
        for record in islice(self._kept, position - before_kept, None):
            if record.kind in wanted.kinds and (wanted.vm is None or wanted.vm in record.names):
                size_bytes += len(record.value)
                if found and (len(found) == PAGE_RECORDS_MAX or size_bytes > PAGE_BYTES_MAX):
                    break
                found.append(record)
            position += 1
        return Page(found, position, skipped)

    def end_second(self) -> None:
        """Close the tap if no client has read it for `IDLE_S`. Call it every second."""
        self._idle_s += 1
        if self._is_open and self._idle_s > IDLE_S:
            self._is_open = False
            self._kept.clear()
            self._size_bytes = 0


def _names(vm: VmIdentity | None, address: Address) -> Sequence[str]:
    if vm is None:
        return (str(address),)
    return tuple(name for name in (vm.id, vm.name, str(address)) if name is not None)
