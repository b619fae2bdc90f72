"""Model test of the disk spool and its delivery, with failures at every step, against the records put in.

The spool, its file, its queues and their deliverers are the agent's own. The model chooses when the disk's
thread does its next job, what the sinks answer and when, when the disk is full, and when the agent is killed,
even between a commit and its report, and while a batch is in flight. The kernel keeps what a killed process
wrote, so the model simulates a kill: it copies the files, and starts a new agent on the copy.
"""

import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import anyio
import anyio.lowlevel
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.contract.headers import encode_headers
from agent.contract.redelivered import is_redelivered, redelivered
from agent.core.delivery import DeliverySettings
from agent.core.epochs import History
from agent.core.memory import Memory
from agent.core.reading import Record, RecordKind, VmId
from agent.errors import SinkUnavailable
from agent.runtime.deliver import Deliverer
from agent.sinks.record_sink import Receipt, RefusedRecord
from agent.spool.dead_letters import requeue
from agent.spool.disk import FILE_NAME, DiskSpool, Settings
from agent.spool.files import is_current
from agent.spool.format import decode_memory
from agent.spool.inspect import records_of
from agent.spool.queues import DEAD_LETTERS, Queue
from agent.spool.store import Bounds, Change, Loss, Store, Totals
from agent.spool.tables import connect_read_only
from agent.telemetry import Count, Counters
from agent.threads import Call, WorkerThread
from tests.unit.spool.making import NOW_MS

T = TypeVar("T")

BOUNDS = Bounds(size_bytes=400 << 10)
MEMORY_BYTES = 60_000
SIZES_BYTES = (100, 5_000, 20_000)
FAST = next((each for each in ("/dev/shm",) if os.access(each, os.W_OK)), None)
"""The folder of the files. A kill loses nothing that was written, so a flush to disk would prove nothing."""

TURNS = 12
"""Turns of the event loop after which nothing can continue without the disk or the sinks."""


class SteppedThread(WorkerThread):
    """The disk's thread, which does a job only on request."""

    def __init__(self) -> None:
        self.jobs: list[Call[object]] = []
        self.free = False  # the run has ended: do each job at once

    def submit(
        self,
        function: Callable[[], T],
        ended: Callable[[], None] = lambda: None,
        orphaned: Callable[[], None] = lambda: None,
    ) -> Call[T]:
        job = Call(function)
        self.jobs.append(cast("Call[object]", job))
        if self.free:
            self.step().done.set()
        return job

    def step(self) -> Call[object]:
        """Do the next job."""
        job = self.jobs.pop(0)
        job.perform()
        return job


class Sink:
    """A sink that keeps a batch in flight until the model chooses the answer."""

    batch_records_max = 3
    batch_bytes_max = 1 << 20
    problem: str | None = None

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.name = queue.sink
        self.batch: Sequence[Record] = ()
        self.offered: set[int] = set()
        self.answer: Receipt | SinkUnavailable | None = None
        self.answered = anyio.Event()

    async def send(self, records: Sequence[Record]) -> Receipt:
        self.batch, self.answered = records, anyio.Event()
        self.offered |= {number_of(each) for each in records}
        await self.answered.wait()
        self.batch = ()
        if isinstance(self.answer, SinkUnavailable):
            raise self.answer
        assert self.answer is not None
        return self.answer

    async def aclose(self) -> None:
        self.batch = ()


@dataclass
class Truth:
    """What was put into one queue, and what really happened to each record, by its number."""

    put_in: list[int] = field(default_factory=list[int])
    delivered: set[int] = field(default_factory=set[int])
    refused: set[int] = field(default_factory=set[int])
    gone: set[int] = field(default_factory=set[int])  # dropped and counted, or lost in a kill
    newest: int = 0  # the last one delivered for the first time


class Agent:
    """One run of the agent, from its start to its kill or its end."""

    def __init__(self, portal: BlockingPortal, folder: Path) -> None:
        self.folder = folder
        self.portal = portal
        self.path = folder / FILE_NAME
        self.counters = Counters()
        self.thread = SteppedThread()
        self.spool: DiskSpool = portal.call(self._made)
        self.sinks = {queue: Sink(queue) for queue in Queue}
        patience = DeliverySettings(first_retry_ns=0, longest_retry_ns=0)
        self.deliverers = {
            queue: Deliverer(
                sink, self.spool.queue(queue), self.counters, patience, on_output_closed=lambda: None
            )
            for queue, sink in self.sinks.items()
        }
        self.tasks: list[Future[None]] = []
        self.opening = portal.start_task_soon(self.spool.open)
        self.flushing: Future[bool] | None = None

    async def _made(self) -> DiskSpool:
        where = Settings(directory=self.folder, bounds=BOUNDS, memory_bytes=MEMORY_BYTES)
        return DiskSpool(where, self.thread, self.counters, lambda: NOW_MS)

    def deliver(self) -> None:
        """Start the deliverers."""
        self.tasks += [self.portal.start_task_soon(each.run) for each in self.deliverers.values()]
        self.settle()

    def settle(self, first: Callable[[], object] | None = None) -> None:
        """Call `first`, then let each task continue as far as it can."""
        self.portal.call(_turn, first)

    def in_memory(self, queue: Queue) -> set[int]:
        """Return the records that are only in memory or in flight."""
        its = self.spool.queue(queue)
        rows = (*its.front, *its.committing, *its._taken)  # pyrefly: ignore[protected-access]
        return {number_of(each) for _, each in rows}

    def append(self, record: Record, memory: Memory) -> None:
        """Append a record and its VM's memory."""
        self.settle(partial(self.spool.append, record, memory))

    def flush(self) -> None:
        """Begin a commit."""
        if self.flushing is None or self.flushing.done():
            self.flushing = self.portal.start_task_soon(self.spool.flush)
        self.settle()

    def step(self) -> Call[object]:
        """Let the disk do its next job."""
        job = self.thread.jobs[0]
        self.settle(lambda: self.thread.step().done.set())
        return job

    @property
    def store(self) -> Store | None:
        """The open file."""
        return self.spool._store  # pyrefly: ignore[protected-access]

    def resize(self, pages_max: int) -> None:
        """Limit the file to so many pages, or to its current size if it is larger."""
        if self.store is not None:
            connection = self.store._connection  # pyrefly: ignore[protected-access]
            self.portal.call(connection.execute, f"PRAGMA max_page_count = {pages_max}")

    def let_go(self) -> None:
        """Stop everything, at once."""

        async def ending() -> None:
            self.thread.free = True
            while self.thread.jobs:
                self.thread.step().done.set()
            await self.spool.close()

        futures = [*self.tasks, self.opening, *([self.flushing] if self.flushing else [])]
        for each in futures:
            each.cancel()
        self.portal.call(ending)
        for each in futures:
            with suppress(CancelledError):
                each.result(60)

    def counted(self, count: Count, sink: str) -> int:
        """Sum one counter over its reasons."""
        names = (f"{count}/{sink}", f"{count}/{sink}:")
        totals = self.counters.snapshot().items()
        return sum(total for name, total in totals if name == names[0] or name.startswith(names[1]))


async def _turn(first: Callable[[], object] | None) -> None:
    if first is not None:
        first()
    for _ in range(TURNS):
        await anyio.lowlevel.checkpoint()


@dataclass(frozen=True)
class OnDisk:
    """The contents of the file."""

    rows: Mapping[str, Sequence[int]]  # numbers of the records, by table
    positions: Mapping[int, int]  # of the records in queues, by number
    memories: Mapping[str, Memory]


def on_disk(path: Path) -> OnDisk:
    with closing(connect_read_only(path)) as connection:
        rows: dict[str, Sequence[int]] = {}
        positions: dict[int, int] = {}
        for queue in Queue:
            found = [(at, cast(Record, record)) for at, record in records_of(connection, queue)]
            rows[queue] = [number_of(record) for _, record in found]
            positions |= dict(zip(rows[queue], (position for position, _ in found), strict=True))
        letters = connection.execute(f"SELECT id FROM {DEAD_LETTERS} ORDER BY position")
        rows[DEAD_LETTERS] = [int(id.removeprefix("id-")) for (id,) in letters]
        memories = [decode_memory(each) for (each,) in connection.execute("SELECT memory FROM vms")]
    return OnDisk(rows, positions, {each.path: each for each in memories})


class SpoolModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=FAST)))
        self.portal = self.stack.enter_context(start_blocking_portal())
        self.records: list[Record] = []
        self.made_by: list[Memory] = []  # the memory of each record's VM
        self.truth = {queue: Truth() for queue in Queue}
        self.disk = OnDisk({table: [] for table in (*Queue, DEAD_LETTERS)}, {}, {})
        self.ever_on_disk: set[int] = set()
        self.again: set[int] = set()  # requeued: they come after newer ones
        self.sequences: dict[tuple[str, int], int] = {}  # (epoch, sequence) -> the record that arrived
        self.letters_ever: set[int] = set()
        self.unwelcome: set[int] = set()  # refused, and refused again at each retry
        self.lives = 0
        self.troubled = False  # whether the disk has failed in this run
        self.epochs = 0
        self.start(self.folder / "0")

    # --- lives ---

    def start(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.agent = Agent(self.portal, folder)
        self.agent.settle()
        while not self.agent.opening.done():
            self.agent.step()
        self.letters_nowhere = set[int]()
        self.disk_drops, self.memory_drops = Counter[Queue](), Counter[Queue]()
        assert self.agent.spool.trouble is None
        found = on_disk(self.agent.path)
        known = self.agent.spool.memories
        assert (found.rows, found.memories) == (self.disk.rows, known)
        if known != self.disk.memories:
            assert not known
            assert self.troubled, "memories were forgotten without a failure of the disk"
        self.disk, self.troubled = found, False
        self.vms = {str(each.vm_id): (each.history, each.sequence) for each in known.values()}
        self.agent.deliver()

    def teardown(self) -> None:
        try:
            self.stopped(requeues=False)
            for _ in range(1000):
                if not any(self.agent.spool.queue(queue).held for queue in Queue):
                    break
                for queue, sink in self.agent.sinks.items():
                    if sink.batch:
                        self.taken(queue, set())
                if self.agent.thread.jobs:
                    self.the_disk_does_a_job()
            self.stopped(requeues=False)
            assert not self.disk.rows[Queue.SAMPLES]
            assert not self.disk.rows[Queue.STATES]
            for truth in self.truth.values():
                assert set(truth.put_in) == truth.delivered | truth.refused | truth.gone
        finally:
            self.agent.let_go()
            self.stack.close()

    # --- what happens ---

    @rule(
        vm=st.sampled_from("abc"), kind=st.sampled_from(RecordKind), size_bytes=st.sampled_from(SIZES_BYTES)
    )
    def a_record_comes(self, vm: str, kind: RecordKind, size_bytes: int) -> None:
        history, said = self.vms.get(vm, (History(), 0))
        number = len(self.records) + 1
        if kind is RecordKind.SAMPLE:
            if history.epoch is None:
                self.epochs += 1
                history = History(f"epoch-{self.epochs:04}")  # compared as text
            history = msgspec.structs.replace(history, sequence=history.sequence + 1)
        else:
            said += 1
        filling = random.Random(number).randbytes(size_bytes // 2).hex()  # half of it after compression
        document = {"epoch": history.epoch, "sequence": history.sequence, "x": filling}
        value = json.dumps(document).encode()
        record = Record(kind, f"id-{number}", vm, NOW_MS, encode_headers([("ce_id", b"1")]), value)
        memory = Memory(f"/run/{vm}", None, VmId(vm), history, None, sequence=said)
        self.vms[vm] = (history, said)
        self.records.append(record)
        self.made_by.append(memory)
        self.truth[Queue.of(record)].put_in.append(number)
        self.agent.append(record, memory)

    @rule(vm=st.sampled_from("ab"), kind=st.sampled_from(RecordKind))
    def records_come_while_the_disk_is_full(self, vm: str, kind: RecordKind) -> None:
        self.the_disk_is_full()
        for size_bytes in SIZES_BYTES:
            self.a_record_comes(vm, kind, size_bytes)
        self.the_disk_does_all_it_has_to()

    @rule()
    def a_commit_begins(self) -> None:
        self.agent.flush()

    @precondition(lambda self: self.agent.thread.jobs)
    @rule()
    def the_disk_does_a_job(self) -> None:
        job = self.agent.step()
        self.troubled |= self.agent.spool.trouble is not None
        function = job.function
        if isinstance(function, partial) and isinstance(function.args[0] if function.args else None, Change):
            self.committed(function.args[0], job.result)

    @rule()
    def the_disk_does_all_it_has_to(self) -> None:
        self.agent.flush()
        for _ in range(20):
            if self.agent.thread.jobs:
                self.the_disk_does_a_job()

    @precondition(lambda self: any(sink.batch for sink in self.agent.sinks.values()))
    @rule(data=st.data())
    def a_sink_takes_a_batch(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from([each for each in Queue if self.agent.sinks[each].batch]))
        self.taken(queue, data.draw(st.sets(st.integers(0, 2), max_size=1)))

    @precondition(lambda self: any(sink.batch for sink in self.agent.sinks.values()))
    @rule(data=st.data())
    def a_sink_is_away_or_its_answer_is_lost(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from([each for each in Queue if self.agent.sinks[each].batch]))
        arrived = data.draw(st.integers(0, len(self.agent.sinks[queue].batch)))
        self.answered(queue, arrived, SinkUnavailable("away"))

    @rule()
    def the_disk_is_full(self) -> None:
        self.agent.resize(1)  # as many as it has now

    @rule()
    def the_disk_has_room(self) -> None:
        self.agent.resize(1 << 30)

    @rule()
    def killed(self) -> None:
        self.lives += 1
        folder = self.folder / f"{self.lives}"
        folder.mkdir()
        for each in self.agent.folder.iterdir():
            if not each.name.endswith("-shm"):  # useless once its processes are dead
                shutil.copy(each, folder)
        self.agent.let_go()
        shutil.rmtree(self.agent.folder)
        for queue, truth in self.truth.items():
            safe = truth.delivered | truth.refused | set(self.disk.rows[queue])
            truth.gone |= set(truth.put_in) - safe
        self.refusals_stand_if_committed()
        self.start(folder)

    @rule(requeues=st.booleans())
    def stopped(self, requeues: bool) -> None:
        self.agent.resize(1 << 30)
        for deliverer in self.agent.deliverers.values():
            self.portal.call(deliverer.close)
        self.agent.settle()
        for _ in range(100):
            if self.agent.thread.jobs:
                self.the_disk_does_a_job()
            for queue, sink in self.agent.sinks.items():
                if sink.batch:
                    self.answered(queue, 0, SinkUnavailable("away"))
        assert all(task.done() for task in self.agent.tasks)
        for _ in range(2):  # the commit under way, and then the last one
            self.agent.flush()
            while not cast("Future[bool]", self.agent.flushing).done():
                self.the_disk_does_a_job()
        self.agent.let_go()
        for queue, truth in self.truth.items():
            safe = truth.delivered | truth.refused | set(self.disk.rows[queue])
            missing = set(truth.put_in) - safe - truth.gone
            self.dropped_in_memory(queue, missing)
            dropped = self.agent.counted(Count.DROPPED, self.agent.sinks[queue].name)
            assert dropped == self.disk_drops[queue] + self.memory_drops[queue]
        if requeues:
            requeue(self.agent.path, None, now_ms=NOW_MS, age_ms=BOUNDS.age_ms)
            letters = set(self.disk.rows[DEAD_LETTERS])
            self.again |= letters
            self.unwelcome -= letters  # the topic accepts larger records now
            for truth in self.truth.values():
                truth.refused -= letters
            self.disk = on_disk(self.agent.path)
            assert not self.disk.rows[DEAD_LETTERS]
            assert letters <= set(self.disk.positions)
            self.ever_on_disk |= (
                letters  # one that was sent from memory had never been in a queue of the file
            )
        self.start(self.agent.folder)

    # --- what must hold ---

    def taken(self, queue: Queue, refused: set[int]) -> None:
        """Let a sink accept its batch, except what it refuses now or has refused before."""
        batch = self.agent.sinks[queue].batch
        self.unwelcome |= {number_of(each) for at, each in enumerate(batch) if at in refused}
        refusals = [at for at, each in enumerate(batch) if number_of(each) in self.unwelcome]
        receipt = Receipt(tuple(RefusedRecord(at, "too_large", "") for at in refusals))
        self.answered(queue, len(batch), receipt)

    def answered(self, queue: Queue, arrived: int, answer: Receipt | SinkUnavailable) -> None:
        sink = self.agent.sinks[queue]
        refused = {each.index for each in answer.refused} if isinstance(answer, Receipt) else set[int]()
        for index, record in enumerate(sink.batch[:arrived]):
            number = self.same(record)
            if index in refused:
                self.truth[queue].refused.add(number)
            elif number not in self.unwelcome:
                self.arrived(queue, number)
        sink.answer = answer
        self.agent.settle(sink.answered.set)

    def same(self, record: Record) -> int:
        """Assert that a record arrives as it was put in, and return its number."""
        number = int(record.id.removeprefix("id-"))
        assert is_redelivered(record) is (number in self.again)
        original = self.records[number - 1]
        assert (redelivered(original) if number in self.again else original) == record
        assert number in self.ever_on_disk or self.troubled, "sent before it was safe"
        if number not in self.ever_on_disk and not self.is_remembered(number):
            assert not is_current(self.agent.path), "sent from memory, but the file is marked current"
        return number

    def is_remembered(self, number: int) -> bool:
        """Return whether the VM's memory in the file covers a record that was never in the file."""
        made_by = self.made_by[number - 1]
        memory = self.disk.memories.get(made_by.path)
        if memory is None or memory.sequence < made_by.sequence:
            return False
        ours, its = made_by.history, memory.history
        return (its.epoch or "", its.sequence) >= (ours.epoch or "", ours.sequence)

    def arrived(self, queue: Queue, number: int) -> None:
        truth = self.truth[queue]
        assert number not in truth.gone
        if queue is Queue.SAMPLES:
            assert self.sequences.setdefault(self.place(number), number) == number, "a sequence used twice"
        if number not in truth.delivered and number not in self.again:
            assert number > truth.newest, "out of order"
            settled = truth.delivered | truth.refused | truth.gone | self.again | self.unwelcome
            skipped = {each for each in truth.put_in if truth.newest < each < number} - settled
            assert not skipped & self.disk.positions.keys(), "overtaken"
            self.dropped_in_memory(queue, skipped)
            truth.newest = number
        truth.delivered.add(number)

    def dropped_in_memory(self, queue: Queue, numbers: set[int]) -> None:
        self.truth[queue].gone |= numbers
        self.memory_drops[queue] += len(numbers)

    def refusals_stand_if_committed(self) -> None:
        """Forget each refusal that was not committed: a kill loses it, and the record is sent again."""
        for queue, truth in self.truth.items():
            truth.refused -= set(self.disk.rows[queue])
            lost = truth.refused - self.letters_ever
            truth.gone |= lost - truth.delivered
            truth.refused -= lost

    def committed(self, change: Change, totals: object) -> None:
        """Assert that a record leaves the file only if it arrived, was refused, or is counted as dropped."""
        before, self.disk = self.disk, on_disk(self.agent.path)
        if not isinstance(totals, Totals):
            assert self.disk == before, "a failed commit changed the file"
            return
        assert dict(totals.rows) == {table: len(rows) for table, rows in self.disk.rows.items()}
        letters_due = Counter(before.rows[DEAD_LETTERS])
        letters_owed = set[int]()
        for queue, truth in self.truth.items():
            rows, was = self.disk.rows[queue], before.rows[queue]
            kept = [each for each in was if each in self.disk.positions]
            added = [each for each in rows if each not in before.positions]
            for each in added if queue is Queue.SAMPLES else ():
                memory = self.disk.memories.get(f"/run/{self.records[each - 1].key}")
                assert memory is not None, "a record without its memory"
                assert (memory.history.epoch, memory.history.sequence) >= self.place(each)
            fresh = [each for each in rows if each not in self.again]
            assert fresh == sorted(fresh), "the order has changed"
            assert not set(added) & (self.ever_on_disk | truth.gone)
            removed = set(was) - set(rows)
            dropped = removed - truth.delivered - truth.refused
            counted = sum(count for (table, _), count in totals.dropped.items() if table == queue)
            self.disk_drops[queue] += counted
            # Records that were added and removed in one commit.
            late = {number_of(each) for _, each in change.records if Queue.of(each) is queue} - set(rows)
            assert len(dropped | late) <= counted <= len(removed | late), "deleted before it was delivered"
            assert not dropped & {number_of(each) for each in self.agent.sinks[queue].batch}, (
                "dropped in flight"
            )
            letters_owed |= removed & truth.refused
            truth.gone |= dropped | (late - truth.delivered - truth.refused)
            if counted:
                in_flight = change.sending.get(queue, 0)
                left = [each for each in kept if before.positions[each] > in_flight]
                assert not left or max(dropped | late, default=0) < min(left) or self.again, "not the oldest"
            if added:
                known = truth.delivered | truth.refused | truth.gone | self.ever_on_disk | set(added)
                held = self.agent.in_memory(queue)
                between = {each for each in truth.put_in if each < added[-1]}
                self.dropped_in_memory(queue, between - known - held)
        letters_due.update(number_of(each.record) for each in change.refused)
        letters_dropped = totals.dropped.get((DEAD_LETTERS, Loss.FULL), 0)
        assert sum(letters_due.values()) - letters_dropped == len(self.disk.rows[DEAD_LETTERS])
        assert not Counter(self.disk.rows[DEAD_LETTERS]) - letters_due
        self.letters_nowhere |= letters_owed - set(self.disk.rows[DEAD_LETTERS])
        letters_counted = self.agent.counters.snapshot().get(
            Count.DEAD_LETTERS_DROPPED, 0
        )  # from memory, too
        assert len(self.letters_nowhere) <= letters_counted, "a refused record is nowhere"
        self.letters_ever |= letters_due.keys()
        self.ever_on_disk |= self.disk.positions.keys()
        self.remembered()

    def remembered(self) -> None:
        """Assert that no memory is ahead of its VM's records, or behind those on disk."""
        highest: dict[str, int] = {}
        for number in self.disk.rows[Queue.SAMPLES]:
            epoch, sequence = self.place(number)
            highest[epoch] = max(sequence, highest.get(epoch, 0))
        # A record sent from memory and not accepted is in `front` again; its VM's memory covers it by then.
        offered = self.agent.sinks[Queue.SAMPLES].offered
        front = {number_of(each) for _, each in self.agent.spool.queue(Queue.SAMPLES).front}
        to_come = {self.place(each) for each in front - offered}
        for memory in self.disk.memories.values():
            history = memory.history
            if history.epoch is not None:
                assert history.sequence >= highest.get(history.epoch, 0), "a memory behind its records"
                assert (history.epoch, history.sequence) not in to_come, "a memory ahead of its records"

    def place(self, number: int) -> tuple[str, int]:
        document = json.loads(self.records[number - 1].value)
        return document["epoch"], document["sequence"]

    @invariant()
    def counts_are_conserved(self) -> None:
        for queue, sink in self.agent.sinks.items():
            came = sum(self.agent.counted(each, sink.name) for each in (Count.QUEUED, Count.CARRIED))
            went = (Count.DELIVERED, Count.DROPPED, Count.DEAD_LETTERED)
            left = sum(self.agent.counted(each, sink.name) for each in went)
            assert came == left + self.agent.spool.queue(queue).held


def number_of(record: Record) -> int:
    return int(record.id.removeprefix("id-"))


@contextmanager
def history() -> Generator[SpoolModel]:
    """Yield a model for a test to drive, and end it as hypothesis ends each one."""
    model = SpoolModel()
    try:
        yield model
    finally:
        model.teardown()


def test_a_commit_begun_earlier_does_not_mark_the_file_current_after_records_are_sent_from_memory() -> None:
    with history() as model:
        model.records_come_while_the_disk_is_full("a", RecordKind.SAMPLE)
        model.a_commit_begins()
        model.taken(Queue.SAMPLES, set())
        model.records_come_while_the_disk_is_full("a", RecordKind.SAMPLE)  # and that commit succeeds

        assert model.agent.spool.trouble is None
        assert model.agent.sinks[Queue.SAMPLES].batch
        model.taken(Queue.SAMPLES, set())


def test_nothing_is_sent_from_memory_before_the_file_is_marked_stale_for_the_other_queue() -> None:
    with history() as model:
        model.a_commit_begins()
        for kind in (RecordKind.SAMPLE, RecordKind.VM_STATE):
            model.a_record_comes("a", kind, 20_000)
        model.the_disk_does_a_job()
        model.the_disk_is_full()
        model.a_commit_begins()
        model.the_disk_does_a_job()

        assert not model.agent.sinks[Queue.STATES].batch
        model.the_disk_does_a_job()
        assert model.agent.sinks[Queue.STATES].batch
        model.taken(Queue.STATES, set())


TestSpool = SpoolModel.TestCase
# The profile's (the default was fixed when hypothesis was imported), with fewer examples: the files are real.
TestSpool.settings = settings(max_examples=settings().max_examples * 2 // 5)
