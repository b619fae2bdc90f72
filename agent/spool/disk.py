"""The spool: the queues for Kafka and OTLP's logs and the memory of each VM, on disk before anything is sent.

Constraints (each has a test of the same name in tests/unit/spool/test_disk.py):

- a record is sent only after the commit that wrote it, and again by the next run if this one is killed;
- records gather for a moment before a commit (core/gathering.py);
- while the disk cannot be written, records are sent from memory in order, after those on disk;
- after a kill in that time, the next run begins new epochs, since the disk does not know what was sent;
- what fits neither disk nor memory is dropped oldest first, in the order of the store, and counted;
- a file of a newer version is left unchanged, and prevents the start;
- an unusable file is set aside under a dated name, what was lost with it is counted, and a new file is made
  with the memory of every VM;
- a hung disk delays neither collection nor the end.
"""

import math
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import structlog

from agent.core import gathering
from agent.core.gathering import Commit, GatherSettings, Wait
from agent.core.memory import Memory
from agent.core.reading import Record
from agent.errors import SET_ASIDE, SpoolError, SpoolFault, StateFileError
from agent.spool.block import RECORD_BYTES_MAX, Rows
from agent.spool.disk_queue import DiskQueue
from agent.spool.files import is_current, mark_current, mark_stale, set_aside
from agent.spool.losses import LossLog
from agent.spool.queues import DROPPED_FIRST, Queue
from agent.spool.record_queue import DeadLetter
from agent.spool.store import VMS_REMEMBERED, Bounds, Change, Store, Totals, open_store
from agent.telemetry import Count, Counters
from agent.threads import Call, WorkerThread

log = structlog.get_logger("barograph.spool")

FILE_NAME = "spool.sqlite"

_CLOSE_TIMEOUT_S = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the spool is and how much it keeps."""

    directory: Path
    queues: frozenset[Queue] = frozenset(Queue)  # those with a sink; of others no record is kept
    bounds: Bounds = field(default_factory=Bounds)
    vms_remembered: int = VMS_REMEMBERED  # in memory; the file has the same bound
    memory_bytes: int = 64 << 20  # of records kept in memory while the disk cannot be written
    gathering: GatherSettings = field(default_factory=GatherSettings)


class DiskSpool:
    """Owned by the event loop's thread. Made by `open_spool`; `run` performs the commits."""

    def __init__(
        self, settings: Settings, thread: WorkerThread, counters: Counters, wall_ms: Callable[[], int]
    ) -> None:
        self.memories: OrderedDict[str, Memory] = OrderedDict()  # by path, least recently written first
        self.trouble: SpoolError | None = None  # why the disk cannot be written now
        self.totals = Totals({}, 0)
        self._path = settings.directory / FILE_NAME
        self._settings = settings
        self._thread = thread
        self._counters = counters
        self._wall_ms = wall_ms
        self._store: Store | None = None
        self._file_in_use = anyio.Lock()  # by a commit, or while the file is replaced
        self._queues = {name: DiskQueue(self, name, name.sink) for name in Queue}
        self._touched: dict[str, Memory] = {}
        self._refused: deque[DeadLetter] = deque()
        self._memory_bytes = 0
        self._gathering = gathering.start(now_ns=_now_ns(), settings=settings.gathering)
        self._due = anyio.Event()  # a commit may be due sooner than `run` expects
        self._is_current = False  # the file has the mark
        self._marking_stale = anyio.Lock()
        self._sent_from_memory = False  # since the records of the last commit were gathered
        self._losses = LossLog()

    @property
    def is_open(self) -> bool:
        """Whether there is a file to read from."""
        return self._store is not None

    @property
    def problem(self) -> str | None:
        """Why records are lost or may be; `None`: they are safe."""
        if self.trouble is not None:
            kept = "records are kept in memory until it can be written; fix the disk"
            return f"the spool cannot be written ({self.trouble.fault}); {kept}"
        if self._losses.is_losing:
            return "the spool drops its oldest records because it is full or they are too old"
        return None

    @property
    def limit_bytes(self) -> int:
        """The bound of `totals.used_bytes`."""
        return self._settings.bounds.size_bytes

    def queue(self, name: Queue) -> DiskQueue:
        """Return a queue, for its deliverer."""
        return self._queues[name]

    def append(self, record: Record | None, memory: Memory | None) -> None:
        """Queue a record together with the memory of its VM. One commit has both or neither."""
        if memory is not None:
            self._touched.pop(memory.path, None)
            self._touched[memory.path] = memory
            self._forget_oldest_memories()
        if record is not None and (name := Queue.of(record)) in self._settings.queues:
            self._put(self._queues[name], record)
        self._pend()
        if self._pending >= self._settings.gathering.enough_records:
            self._due.set()

    def _put(self, queue: DiskQueue, record: Record) -> None:
        self._counters.add(Count.QUEUED, reason=queue.sink)
        if record.size_bytes + len(record.id) > RECORD_BYTES_MAX:
            self._counters.add(Count.DROPPED, reason=f"{queue.sink}:too_large")
            detail = f"larger than {RECORD_BYTES_MAX} bytes; later records of the VM are not affected"
            log.error("record dropped", sink=queue.sink, id=record.id[:1000], detail=detail)
            return
        queue.position += 1
        queue.front.append((queue.position, record))
        self._memory_bytes += record.size_bytes
        self._drop_oldest_records()
        queue.wake()

    # --- for the queues ---

    def read(self, name: Queue, *, after: int, size_bytes_max: int) -> Call[Rows] | None:
        """Begin to read the blocks after a position; `None`: no file is open."""
        store = self._store
        if store is None:
            return None
        return self._thread.submit(partial(store.read, name, after=after, size_bytes_max=size_bytes_max))

    async def rows_of(self, job: Call[Rows]) -> Rows:
        """Return the records that `read` began to read; none if they cannot be read."""
        store = self._store
        try:
            return await job.wait()
        except SpoolError as error:
            # Whatever the error is: the records behind must not be stuck for ever.
            async with self._file_in_use:
                if self._store is store:
                    await self._set_aside(error)
            return ()

    async def before_sending_from_memory(self) -> None:
        """Mark the file stale: records are about to be sent that were never on disk.

        After a kill, the next run would give their sequence numbers to other samples. The mark makes it begin
        new epochs.
        """
        async with self._marking_stale:  # the other queue must wait for it as well
            if self._is_current:
                self._is_current = False
                try:
                    await self._thread.run(partial(mark_stale, self._path))
                except SpoolError as error:
                    detail = (
                        "spool.sqlite.vouched cannot be removed; if the agent is killed now, its next run"
                        " uses an old spool, and sequence numbers may be used twice; fix the disk"
                    )
                    log.error("spool still marked as current", problem=str(error), detail=detail)
        self._sent_from_memory = True

    def sent_from_memory(self, batch: Rows) -> None:
        """Records sent from memory are settled."""
        self._memory_bytes -= _size_bytes(batch)

    def settled(self, queue: DiskQueue, refused: Sequence[DeadLetter]) -> None:
        """Records of `queue` are settled, some of them refused."""
        for each in refused:
            self._refused.append(each)
            self._memory_bytes += each.record.size_bytes
            self._counters.add(Count.DEAD_LETTERED, reason=f"{queue.sink}:{each.reason}")
        self._drop_oldest_records()
        self._pend()

    # --- committing ---

    async def open(self) -> None:
        """Open the file. If that fails, log why and continue without it; `run` tries again.

        Raises:
            StateFileError: the file is of a newer version.
        """
        try:
            await self._open()
        except SpoolError as error:
            if error.fault is SpoolFault.NEWER:
                what = "install that version again, or move the file away, which keeps its records"
                raise StateFileError(f"{error}; {what}") from error
            await self._failed(error)

    async def run(self) -> None:
        """Commit what is pending whenever it is due, until canceled."""
        while True:
            match gathering.next_action(
                self._gathering,
                records=self._pending,
                now_ns=_now_ns(),
                settings=self._settings.gathering,
            ):
                case Commit():
                    await self.flush()
                case Wait(until_ns):
                    self._due = anyio.Event()
                    with anyio.CancelScope(deadline=math.inf if until_ns is None else until_ns / 1e9):
                        await self._due.wait()

    async def flush(self) -> bool:
        """Commit everything pending now. Return whether it succeeded."""
        async with self._file_in_use:
            change: Change | None = None
            try:
                store = self._store or await self._open()
                change = self._gather()
                totals = await self._thread.run(partial(store.commit, change))
            except SpoolError as error:
                if change is not None:
                    self._put_back(change)
                await self._failed(error)
                return False
            self._committed(change, totals)
            if not self._is_current and not self._sent_from_memory:
                await self._mark_current()
            return True

    async def _mark_current(self) -> None:
        try:
            await self._thread.run(partial(mark_current, self._path))
        except SpoolError as error:
            detail = (
                "spool.sqlite.vouched cannot be written; if the agent ends now, its next run begins new"
                " epochs; fix the disk"
            )
            log.warning("spool not marked current", problem=str(error), detail=detail)
        else:
            self._is_current = True

    async def close(self) -> None:
        """Close the file, unless that takes too long."""
        store, self._store = self._store, None
        if store is not None:
            with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                try:
                    await self._thread.run(store.close)
                except SpoolError as error:
                    detail = "committed records are kept; check the disk"
                    log.warning("spool not closed", problem=str(error), detail=detail)

    @property
    def _pending(self) -> int:
        """How many records the next commit would write."""
        return sum([len(queue.front) for queue in self._queues.values()])

    def _pend(self) -> None:
        """There is something to commit."""
        if self._gathering.pending_since_ns is None:
            self._gathering = gathering.arrived(self._gathering, now_ns=_now_ns())
            self._due.set()

    def _gather(self) -> Change:
        self._gathering = gathering.begun(self._gathering)
        now_ms = self._wall_ms()
        for queue in self._queues.values():
            queue.committing = tuple(queue.front)
            queue.front.clear()
            queue.forget_expired(now_ms - self._settings.bounds.age_ms)
        change = Change(
            now_ms=now_ms,
            records=[each for queue in self._queues.values() for each in queue.committing],
            memories=tuple(self._touched.values()),
            settled={name: queue.settled for name, queue in self._queues.items() if queue.settled},
            refused=tuple(self._refused),
            sending={name: queue.sending for name, queue in self._queues.items()},
        )
        self._touched, self._refused = {}, deque()
        self._sent_from_memory = False  # once this is committed
        return change

    def _put_back(self, change: Change) -> None:
        for queue in self._queues.values():
            queue.front.extendleft(reversed(queue.committing))
            queue.committing = ()
        self._sent_from_memory = True
        self._touched = {each.path: each for each in change.memories} | self._touched
        self._refused.extendleft(reversed(change.refused))
        self._forget_oldest_memories()
        self._drop_oldest_records()
        self._pend()

    def _committed(self, change: Change, totals: Totals) -> None:
        self._counters.add(Count.SPOOL_COMMITS)
        losers = {table for table, _ in totals.dropped}
        for queue in self._queues.values():
            size_bytes = _size_bytes(queue.committing)
            self._memory_bytes -= size_bytes
            queue.committed(size_bytes, keep=queue.name not in losers)
        self._memory_bytes -= sum(each.record.size_bytes for each in change.refused)
        for memory in change.memories:
            self.memories[memory.path] = memory
            self.memories.move_to_end(memory.path)
        while len(self.memories) > self._settings.vms_remembered:
            self.memories.popitem(last=False)
        self._take_losses(totals)
        if totals.rescued:
            log.error(
                "spool file was deleted", path=str(self._path), detail="it was written again; nothing is lost"
            )
        if self.trouble is not None:
            log.info("spool writable again", path=str(self._path), failures=self._gathering.failures)
        self.trouble = None
        self._gathering = gathering.committed(
            self._gathering,
            records=len(change.records),
            now_ns=_now_ns(),
            settings=self._settings.gathering,
        )
        for queue in self._queues.values():
            queue.wake()

    def _take_losses(self, totals: Totals) -> None:
        for (table, loss), count in totals.dropped.items():
            if table in self._queues:
                queue = self._queues[Queue(table)]
                queue.rows -= count
                self._counters.add(Count.DROPPED, count, reason=f"{queue.sink}:{loss}")
            else:
                self._counters.add(Count.DEAD_LETTERS_DROPPED, count)
        self._losses.add(totals.dropped)
        self.totals = totals

    def _drop_oldest_records(self) -> None:
        """Keep within `memory_bytes`: drop records in the same order as on disk."""
        if self._memory_bytes <= self._settings.memory_bytes:
            return
        for table in DROPPED_FIRST:
            if not isinstance(table, Queue):
                while self._memory_bytes > self._settings.memory_bytes and self._refused:
                    self._memory_bytes -= self._refused.popleft().record.size_bytes
                    self._counters.add(Count.DEAD_LETTERS_DROPPED)
                continue
            queue = self._queues[table]
            while self._memory_bytes > self._settings.memory_bytes and queue.front:
                _, oldest = queue.front.popleft()
                self._memory_bytes -= oldest.size_bytes
                self._counters.add(Count.DROPPED, reason=f"{queue.sink}:full")

    def _forget_oldest_memories(self) -> None:
        """Keep within `vms_remembered`: drop the least recently written, as on disk."""
        while len(self._touched) > self._settings.vms_remembered:
            del self._touched[next(iter(self._touched))]

    # --- trouble ---

    async def _failed(self, error: SpoolError) -> None:
        self._counters.add(Count.SPOOL_FAILURES)
        self._gathering = gathering.failed(
            self._gathering, now_ns=_now_ns(), settings=self._settings.gathering
        )
        if error.fault in SET_ASIDE:
            await self._set_aside(error)
            return
        self._troubled(error)

    def _troubled(self, error: SpoolError) -> None:
        if self.trouble is None:
            detail = "records are kept in memory until it can be written; fix the disk"
            log.error("spool cannot be written", problem=str(error), detail=detail)
        self.trouble = error
        self._pend()
        for queue in self._queues.values():
            queue.wake()

    async def _set_aside(self, error: SpoolError) -> None:
        """Continue with a new file. The old one is kept for people, and its records are counted as lost."""
        await self.close()
        lost = 0
        for queue in self._queues.values():
            of_queue, saved_bytes = queue.rescue()
            self._memory_bytes += saved_bytes
            lost += of_queue
            if of_queue:
                self._counters.add(Count.DROPPED, of_queue, reason=f"{queue.sink}:damaged")
        self._drop_oldest_records()
        self._touched = dict(self.memories) | self._touched
        try:
            aside = await self._thread.run(partial(set_aside, self._path, self._wall_ms()))
            detail = "inspect the file with barograph spool verify --file, then delete it"
            log.error(
                "spool set aside", path=str(aside), problem=error.detail, records_lost=lost, detail=detail
            )
            await self._open()
        except SpoolError as another:
            self._troubled(another)

    async def _open(self) -> Store:
        opening = self._thread.submit(partial(open_store, self._path, self._settings.bounds))
        try:
            store = await opening.wait()
            memories, totals = await self._take_over(store)
        except BaseException:  # the file is damaged, or this was canceled, perhaps before the file was open
            self._thread.submit(partial(_close_opened, opening))
            raise
        self.memories = OrderedDict({**memories, **self.memories})
        self.totals = totals
        self._store = store
        if not self._is_current and self.trouble is None:
            await self._mark_current()
        return store

    async def _take_over(self, store: Store) -> tuple[Mapping[str, Memory], Totals]:
        """Continue the queues behind the rows of `store`; return its memories of VMs and its totals."""
        totals = await self._thread.run(store.totals)
        for name, queue in self._queues.items():
            position = await self._thread.run(partial(store.last_position, name))
            queue.reopened(position, totals.rows.get(name, 0))
            if queue.rows:
                self._counters.add(Count.CARRIED, queue.rows, reason=queue.sink)
        memories, problems = await self._thread.run(store.memories)
        for problem in problems:
            log.error("remembered VM unreadable", problem=problem, detail="it begins a new epoch")
        if memories and not await self._thread.run(partial(is_current, self._path)):
            detail = (
                "the agent was killed while it sent records from memory, or the spool is a copy;"
                " every VM begins a new epoch"
            )
            log.warning("remembered VMs discarded", path=str(self._path), detail=detail)
            await self._thread.run(store.forget_memories)
            memories = {}
        return memories, totals


def _close_opened(opening: Call[Store]) -> None:
    if opening.result is not None:
        opening.result.close()


def _now_ns() -> int:
    return int(anyio.current_time() * 1e9)


def _size_bytes(batch: Rows) -> int:
    return sum([record.size_bytes for _, record in batch])


@asynccontextmanager
async def open_spool(
    settings: Settings, counters: Counters, wall_ms: Callable[[], int]
) -> AsyncGenerator[DiskSpool, None]:
    """Open the spool with what the previous run left in it. If it is unusable, records are kept in memory.

    Args:
        settings: where it is and how much it keeps.
        counters: counts what is queued and what is lost.
        wall_ms: the wall clock, Unix milliseconds.

    Raises:
        StateFileError: the file is of a newer version. It is unchanged.
    """
    thread = WorkerThread("spool")
    spool = DiskSpool(settings, thread, counters, wall_ms)
    try:
        await spool.open()
        yield spool
    finally:
        await spool.close()
        thread.end()
