"""One queue of the disk spool: its records on disk, those of them in memory, and those only in memory.

What has been committed is sent from memory while it fits there, and only a backlog is read back. Then the
next blocks are read while a batch is being sent.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import anyio

from agent.core.reading import Record
from agent.errors import SpoolError
from agent.spool.block import Rows
from agent.spool.queues import Queue
from agent.spool.record_queue import DeadLetter
from agent.threads import Call

READY_BYTES = 2 << 20
"""Of the records of one queue that stay in memory after their commit."""

_NOTHING_DROPPED = 1 << 62
"""A position above all others: while blocks are being read, none may be dropped."""


class Spool(Protocol):
    """What a queue needs of its spool."""

    trouble: SpoolError | None  # why the disk cannot be written now

    @property
    def is_open(self) -> bool:
        """Whether there is a file to read from."""
        ...

    def read(self, name: Queue, *, after: int, size_bytes_max: int) -> Call[Rows] | None:
        """Begin to read the blocks after a position; `None`: no file is open."""
        ...

    async def rows_of(self, job: Call[Rows]) -> Rows:
        """Return the records that `read` began to read; none if they cannot be read."""
        ...

    async def before_sending_from_memory(self) -> None:
        """Records are about to be sent that were never on disk."""
        ...

    def sent_from_memory(self, batch: Rows) -> None:
        """Records sent from memory are settled."""
        ...

    def settled(self, queue: "DiskQueue", refused: Sequence[DeadLetter]) -> None:
        """Records of `queue` are settled, some of them refused."""
        ...


class DiskQueue:
    """One queue of the spool, for its deliverer."""

    def __init__(self, spool: Spool, name: Queue, sink: str) -> None:
        self.name = name
        self.sink = sink
        self.position = 0  # of the newest record
        self.front: deque[tuple[int, Record]] = deque()  # neither on disk nor in the commit under way
        self.committing: Rows = ()
        self.rows = 0  # on disk, neither in flight nor settled
        self.settled = 0  # up to this position
        self._ready: deque[tuple[int, Record]] = deque()  # the first of `rows`, in memory as well
        self._taken_to = 0  # taken up to this position
        self._ahead: Call[Rows] | None = None  # the blocks after `_ready`, read while a batch is sent
        self._taken: Rows = ()
        self._taken_from_disk = True
        self._spool = spool
        self._arrival = anyio.Event()

    @property
    def held(self) -> int:
        """How many records are neither delivered nor lost, including those that cannot be taken now."""
        return len(self._taken) + self.rows + len(self.committing) + len(self.front)

    @property
    def waiting(self) -> int:
        """How many records can be taken now, including the batch in flight."""
        rows = self.rows if self._spool.is_open else 0
        return len(self._taken) + rows + (len(self.front) if self._front_is_next else 0)

    @property
    def oldest_ms(self) -> int | None:
        """When the next record to send was observed (Unix); `None`: there is none, or it is on disk."""
        in_memory = () if self.rows else self.committing or self.front
        for _, record in self._taken or self._ready or in_memory:
            return record.timestamp_ms
        return None

    @property
    def sending(self) -> int:
        """The highest position of a record on disk that may be in flight, or is in memory to be sent."""
        if self._ahead is None:
            return self._known_to
        rows = self._ahead.result
        return rows[-1][0] if rows else _NOTHING_DROPPED

    @property
    def _known_to(self) -> int:
        return self._ready[-1][0] if self._ready else self._taken_to

    @property
    def _front_is_next(self) -> bool:
        # Only while the disk cannot be written, and after the records on it or in the commit under way.
        return self._spool.trouble is not None and not self.rows and not self.committing

    def wake(self) -> None:
        """Wake the deliverer if records can be taken."""
        if self.waiting:
            self._arrival.set()

    async def arrival(self) -> None:
        """Return when at least one record can be taken."""
        while not self.waiting:
            self._arrival = anyio.Event()
            await self._arrival.wait()

    async def take(self, *, records_max: int, size_bytes_max: int) -> Sequence[Record]:
        """Return the oldest records, the same ones until `settle`; none if none can be read now."""
        if not self._taken and self.rows:
            if len(self._ready) < min(records_max, self.rows):
                await self._read(size_bytes_max)
            self._taken, self._taken_from_disk = _batch(self._ready, records_max, size_bytes_max), True
            if self._taken:
                self.rows -= len(self._taken)
                self._taken_to = self._taken[-1][0]
            if self._ahead is None and len(self._ready) < min(records_max, self.rows):
                self._ahead = self._begin_to_read(size_bytes_max)
        elif not self._taken and self._front_is_next:
            await self._spool.before_sending_from_memory()
            if self._front_is_next:  # still
                self._taken_from_disk = False
                self._taken = _batch(self.front, records_max, size_bytes_max)
        return [record for _, record in self._taken]

    async def settle(self, refused: Sequence[DeadLetter]) -> None:
        """The last batch taken is delivered, except for `refused`. The next commit deletes it from disk."""
        if self._taken_from_disk and self._taken:
            self.settled = self._taken[-1][0]
        elif self._taken:
            self._spool.sent_from_memory(self._taken)
        self._taken = ()
        self._spool.settled(self, refused)

    def abandon(self) -> int:
        """Return 0: the last commit writes what is not on disk, and the next run sends it."""
        if self._taken_from_disk:
            self.rows += len(self._taken)
        else:
            self.front.extendleft(reversed(self._taken))
        self._taken = ()
        return 0

    def committed(self, size_bytes: int, *, keep: bool) -> None:
        """The commit under way has ended well. Keep its records in memory if they are the next ones and fit.

        Args:
            size_bytes: of its records.
            keep: none of them has been dropped.
        """
        rows, self.committing = self.committing, ()
        are_next = self._ahead is None and self.rows == len(self._ready)
        self.rows += len(rows)
        if keep and are_next and _size_bytes(self._ready) + size_bytes <= READY_BYTES:
            self._ready.extend(rows)

    def forget_expired(self, before_ms: int) -> None:
        """Leave what is too old to the next commit, which drops it from the disk."""
        if self._ready and self._ready[0][1].timestamp_ms < before_ms:
            self._ready.clear()
            self._ahead = None

    def rescue(self) -> tuple[int, int]:
        """The file is lost. Commit what is in memory to the next one.

        Return how many records are lost, and the size of those that are not.
        """
        lost, saved_bytes = self.rows - len(self._ready), _size_bytes(self._ready)
        self.front.extendleft(reversed(self._ready))
        self._ready.clear()
        self.rows = 0
        return lost, saved_bytes

    def reopened(self, position: int, rows: int) -> None:
        """The file has been opened, for the first time or after another one."""
        if position >= self.position - len(self.front):  # the file has unknown records
            self.front = deque((position + number, each) for number, (_, each) in enumerate(self.front, 1))
            self.position = position + len(self.front)
        self.rows, self.settled, self._taken_to, self._ahead = rows, 0, 0, None
        self._ready.clear()

    def _begin_to_read(self, size_bytes_max: int) -> Call[Rows] | None:
        return self._spool.read(self.name, after=self._known_to, size_bytes_max=size_bytes_max)

    async def _read(self, size_bytes_max: int) -> None:
        job = self._ahead = self._ahead or self._begin_to_read(size_bytes_max)
        rows = () if job is None else await self._spool.rows_of(job)
        if self._ahead is job:  # otherwise of a file that has been replaced
            self._ahead = None
            self._ready.extend(rows)  # none: unreadable, or dropped by a commit whose end is not known yet


def _batch(queue: deque[tuple[int, Record]], records_max: int, size_bytes_max: int) -> Rows:
    """Remove and return the first records, at least one if there is any."""
    batch: list[tuple[int, Record]] = []
    size_bytes = 0
    while queue and len(batch) < records_max:
        size_bytes += queue[0][1].size_bytes
        if batch and size_bytes > size_bytes_max:
            break
        batch.append(queue.popleft())
    return batch


def _size_bytes(rows: Iterable[tuple[int, Record]]) -> int:
    return sum([record.size_bytes for _, record in rows])
