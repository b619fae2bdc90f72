"""One queue of the disk spool: its rows taken, read ahead and settled, and its records only in memory."""

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Protocol, TypeAlias

import anyio

from agent.core.reading import Record
from agent.errors import SpoolError
from agent.spool.record_queue import DeadLetter
from agent.spool.store import Queue
from agent.threads import Call

Rows: TypeAlias = Sequence[tuple[int, Record]]
"""Records with their positions, in order."""

_NOTHING_DROPPED = 1 << 62
"""A position above all others: while rows are being read, none may be dropped."""


class Spool(Protocol):
    """What a queue needs of its spool."""

    trouble: SpoolError | None  # why the disk cannot be written now

    @property
    def is_open(self) -> bool:
        """Whether there is a file to read from."""
        ...

    def read(self, name: Queue, *, after: int, records_max: int, size_bytes_max: int) -> Call[Rows] | None:
        """Begin to read rows; `None`: no file is open."""
        ...

    async def rows_of(self, job: Call[Rows]) -> Rows:
        """Return the rows that `read` began to read; none if they cannot be read."""
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
        self._read_to = 0  # taken up to this position
        self._ahead: Call[Rows] | None = None  # the next rows, read while the taken ones are sent
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
        for _, record in self._taken or in_memory:
            return record.timestamp_ms
        return None

    @property
    def sending(self) -> int:
        """The highest position of a row that may be in flight."""
        if self._ahead is None:
            return self._read_to
        rows = self._ahead.result
        return rows[-1][0] if rows else _NOTHING_DROPPED

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
            await self._take_rows(records_max, size_bytes_max)
        elif not self._taken and self._front_is_next:
            await self._spool.before_sending_from_memory()
            if self._front_is_next:  # still
                self._taken_from_disk = False
                self._taken = self._take_front(records_max, size_bytes_max)
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

    def reopened(self, position: int, rows: int) -> None:
        """The file has been opened, for the first time or after another one."""
        if position >= self.position - len(self.front):  # the file has unknown records
            self.front = deque((position + number, each) for number, (_, each) in enumerate(self.front, 1))
            self.position = position + len(self.front)
        self.rows, self.settled, self._read_to, self._ahead = rows, 0, 0, None

    async def _take_rows(self, records_max: int, size_bytes_max: int) -> None:
        read = partial(self._spool.read, self.name, records_max=records_max, size_bytes_max=size_bytes_max)
        job = self._ahead = self._ahead or read(after=self._read_to)
        rows = () if job is None else await self._spool.rows_of(job)
        if self._ahead is not job:  # of a file that has been replaced
            return
        if not rows:  # unreadable, or dropped by a commit whose end is not known yet
            self._ahead = None
            return
        self.rows -= len(rows)
        self._taken, self._taken_from_disk = rows, True
        self._read_to = rows[-1][0]
        self._ahead = read(after=self._read_to) if self.rows else None

    def _take_front(self, records_max: int, size_bytes_max: int) -> Rows:
        batch: list[tuple[int, Record]] = []
        size_bytes = 0
        while self.front and len(batch) < records_max:
            size_bytes += self.front[0][1].size_bytes
            if batch and size_bytes > size_bytes_max:
                break
            batch.append(self.front.popleft())
        return batch
