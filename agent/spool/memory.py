"""The records not yet delivered to one sink, in memory, in order.

Constraints (each has a test of the same name in tests/unit/spool/test_memory.py):

- records come out in the order they went in;
- a taken batch is returned again until it is settled;
- the buffer never holds more than its size, unless one batch alone is larger;
- what does not fit is dropped oldest first: memory records, then samples, then states;
- every drop is counted by sink and reason.

The queues of the disk spool (disk_queue.py) have the same interface.
"""

from collections import deque
from collections.abc import Collection, Sequence

import anyio

from agent.core.memory import Memory
from agent.core.reading import Record, RecordKind
from agent.spool.queues import DROPPED_FIRST, Queue
from agent.spool.record_queue import DeadLetter
from agent.telemetry import Count, Counters


class MemoryBuffer:
    """A bounded queue of records for one sink. One task appends, one takes."""

    def __init__(
        self,
        sink: str,
        size_bytes: int,
        counters: Counters,
        kinds: Collection[RecordKind] = tuple(RecordKind),
    ) -> None:
        """Make a buffer that ignores records of other `kinds`."""
        self._sink = sink
        self._kinds = kinds
        self._size_bytes = size_bytes
        self._counters = counters
        self._queues: dict[Queue, deque[tuple[int, Record]]] = {
            queue: deque() for queue in DROPPED_FIRST if isinstance(queue, Queue)
        }
        self._taken: tuple[Record, ...] = ()
        self._held_bytes = 0
        self._appended = 0
        self._arrival = anyio.Event()

    @property
    def waiting(self) -> int:
        """How many records are held, including the batch in flight."""
        return sum(map(len, self._queues.values())) + len(self._taken)

    @property
    def held(self) -> int:
        """The same: everything held can be taken."""
        return self.waiting

    @property
    def held_bytes(self) -> int:
        """The size of all records held."""
        return self._held_bytes

    @property
    def oldest_ms(self) -> int | None:
        """When the next record to send was observed (Unix); `None`: the buffer is empty."""
        queue = self._oldest()
        oldest = self._taken[0] if self._taken else queue[0][1] if queue else None
        return None if oldest is None else oldest.timestamp_ms

    def append(self, record: Record | None, memory: Memory | None = None) -> None:
        """Hold `record` until it is settled; drop the oldest if there is no room. `memory` is not kept."""
        if record is None or record.kind not in self._kinds:
            return
        self._queues[Queue.of(record)].append((self._appended, record))
        self._appended += 1
        self._held_bytes += record.size_bytes
        self._counters.add(Count.QUEUED, reason=self._sink)
        for queue in self._queues.values():
            while self._held_bytes > self._size_bytes and queue:
                _, oldest = queue.popleft()
                self._held_bytes -= oldest.size_bytes
                self._counters.add(Count.DROPPED, reason=f"{self._sink}:full")
        self._arrival.set()

    async def arrival(self) -> None:
        """Return when at least one record is held."""
        while not self.waiting:
            self._arrival = anyio.Event()
            await self._arrival.wait()

    async def take(self, *, records_max: int, size_bytes_max: int) -> tuple[Record, ...]:
        """Return the oldest records, at least one if any is held; the same ones until `settle`."""
        if self._taken:
            return self._taken
        batch: list[Record] = []
        size_bytes = 0
        while (queue := self._oldest()) and len(batch) < records_max:
            size_bytes += queue[0][1].size_bytes
            if batch and size_bytes > size_bytes_max:
                break
            batch.append(queue.popleft()[1])
        self._taken = tuple(batch)
        return self._taken

    async def settle(self, refused: Sequence[DeadLetter]) -> None:
        """The last batch taken is delivered, except for `refused`. They are dropped: no dead letters."""
        for each in refused:
            self._counters.add(Count.DROPPED, reason=f"{self._sink}:{each.reason}")
        self._held_bytes -= sum(record.size_bytes for record in self._taken)
        self._taken = ()

    def abandon(self) -> int:
        """The agent is ending. Drop and count all records, and return their number."""
        dropped = self.waiting
        if dropped:
            self._counters.add(Count.DROPPED, dropped, reason=f"{self._sink}:shutdown")
        for queue in self._queues.values():
            queue.clear()
        self._taken = ()
        self._held_bytes = 0
        return dropped

    def _oldest(self) -> deque[tuple[int, Record]] | None:
        held = filter(None, self._queues.values())
        return min(held, key=lambda queue: queue[0][0], default=None)
