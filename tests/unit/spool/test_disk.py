"""The constraints of agent/spool/disk.py, one test each."""

import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agent.core.gathering import GatherSettings
from agent.core.reading import Record, RecordKind
from agent.errors import StateFileError
from agent.spool.block import RECORD_BYTES_MAX
from agent.spool.dead_letters import dead_letters
from agent.spool.disk import FILE_NAME, DiskSpool, Settings, open_spool
from agent.spool.disk_queue import READY_BYTES, DiskQueue
from agent.spool.format import FORMAT
from agent.spool.queues import Queue
from agent.spool.record_queue import DeadLetter
from agent.spool.store import Bounds, open_store
from agent.telemetry import Count, Counters
from agent.threads import WorkerThread
from tests.unit.spool.making import NOW_MS, memory, record

MS = 1_000_000
QUICK = GatherSettings(pause_ns=10 * MS, slow_pause_ns=20 * MS, first_retry_ns=20 * MS)
NEVER = GatherSettings(pause_ns=10**18, slow_pause_ns=10**18)


@asynccontextmanager
async def running(
    directory: Path, counters: Counters | None = None, **how: object
) -> AsyncGenerator[DiskSpool]:
    """Run a spool that commits, as in the agent."""
    quick = Settings(directory=directory, gathering=QUICK)
    settings = replace(quick, **how)  # pyrefly: ignore[bad-argument-type]
    async with open_spool(settings, counters or Counters(), lambda: NOW_MS) as spool:
        async with anyio.create_task_group() as group:
            group.start_soon(spool.run)
            yield spool
            group.cancel_scope.cancel()
        await spool.flush()


async def take(queue: DiskQueue, records_max: int = 1000) -> list[str]:
    """Take a batch as a deliverer does: retry if a commit has just begun with the records."""
    with anyio.fail_after(60):
        while True:
            await queue.arrival()
            if batch := await queue.take(records_max=records_max, size_bytes_max=1 << 20):
                return [each.id for each in batch]


async def until(spool: DiskSpool, *, trouble: bool) -> None:
    with anyio.fail_after(60):
        while (spool.trouble is not None) is not trouble:
            await spool.flush()


def block(directory: Path) -> None:
    """Make the spool unwritable, even for root: put a directory in the place of the file."""
    for each in list(directory.iterdir()):
        each.unlink()
    (directory / FILE_NAME).mkdir()


def samples(*numbers: int) -> Sequence[Record]:
    return [record(n) for n in numbers]


async def test_a_record_is_sent_only_after_the_commit_that_wrote_it(tmp_path: Path) -> None:
    async with running(tmp_path, gathering=NEVER) as spool:
        queue = spool.queue(Queue.SAMPLES)
        spool.append(record(1), memory())
        await checkpoint()
        assert (queue.waiting, queue.held) == (0, 1)

        await spool.flush()

        assert await take(queue) == ["id-1"]
        assert (queue.waiting, queue.held) == (1, 1)


async def test_a_record_is_sent_again_by_the_next_run_if_this_one_is_killed(tmp_path: Path) -> None:
    counters = Counters()
    async with running(tmp_path) as spool:
        for each in samples(1, 2, 3):
            spool.append(each, memory())
        assert await take(spool.queue(Queue.SAMPLES), 1) == ["id-1"]
        await spool.queue(Queue.SAMPLES).settle(())
        assert await take(spool.queue(Queue.SAMPLES), 1) == ["id-2"]

    async with running(tmp_path, counters) as spool:
        assert spool.memories == {"/run/vm/a.qmp": memory()}
        assert counters.total(Count.CARRIED, "kafka.samples") == 2
        spool.append(record(4), None)
        await spool.flush()
        assert await take(spool.queue(Queue.SAMPLES)) == ["id-2", "id-3", "id-4"]


async def test_records_gather_for_a_moment(tmp_path: Path) -> None:
    slow = replace(QUICK, pause_ns=200 * MS, slow_pause_ns=200 * MS, enough_records=3)
    async with running(tmp_path, gathering=slow) as spool:
        queue = spool.queue(Queue.SAMPLES)
        begun_s = anyio.current_time()
        spool.append(record(1), None)
        assert await take(queue) == ["id-1"]
        assert anyio.current_time() - begun_s >= 0.19


async def test_enough_records_do_not_wait_for_more(tmp_path: Path) -> None:
    slow = replace(QUICK, pause_ns=60_000 * MS, slow_pause_ns=60_000 * MS, enough_records=3)
    async with running(tmp_path, gathering=slow) as spool:
        queue = spool.queue(Queue.SAMPLES)
        for each in samples(2, 3, 4):
            spool.append(each, None)

        with anyio.fail_after(60):
            assert await take(queue) == ["id-2", "id-3", "id-4"]


async def test_while_the_disk_cannot_be_written_records_are_sent_from_memory_in_order(tmp_path: Path) -> None:
    counters = Counters()
    async with running(tmp_path, counters) as spool:
        queue = spool.queue(Queue.SAMPLES)
        await spool.flush()
        block(tmp_path)
        for each in samples(1, 2, 3):
            spool.append(each, memory())
        await until(spool, trouble=True)
        assert spool.problem is not None
        assert spool.problem.startswith("the spool cannot be written (disk error, or no permission); records")

        assert await take(queue, 2) == ["id-1", "id-2"]
        await queue.settle([DeadLetter(record(2), "invalid", "", NOW_MS)])
        assert await take(queue, 1) == ["id-3"]  # in flight while the disk recovers
        spool.append(record(4), memory(sequence=4))
        (tmp_path / FILE_NAME).rmdir()
        await until(spool, trouble=False)
        assert spool.problem is None
        assert await take(queue) == ["id-3"]
        await queue.settle(())
        assert await take(queue) == ["id-4"]
        assert queue.held == 1

    store = open_store(tmp_path / FILE_NAME, Bounds())
    assert dict(store.totals().rows) == {"samples": 1, "states": 0, "memory": 0, "logs": 0, "dead_letters": 1}
    assert store.memories()[0]["/run/vm/a.qmp"] == memory(sequence=4)
    store.close()


@pytest.mark.parametrize("killed", [True, False])
async def test_a_kill_while_the_disk_is_unwritable_begins_new_epochs(tmp_path: Path, killed: bool) -> None:
    kept = tmp_path.parent / f"{tmp_path.name}-kept"
    async with running(tmp_path) as spool:
        spool.append(record(1), memory())
    async with running(tmp_path) as spool:
        assert list(spool.memories) == ["/run/vm/a.qmp"]
        queue = spool.queue(Queue.SAMPLES)
        assert await take(queue) == ["id-1"]
        await queue.settle(())
        await spool.flush()
        (tmp_path / FILE_NAME).rename(kept)
        (tmp_path / FILE_NAME).mkdir()
        spool.append(record(2), memory(sequence=2))
        await until(spool, trouble=True)
        assert await take(queue) == ["id-2"]  # sent, but not recorded on disk
        (tmp_path / FILE_NAME).rmdir()
        if killed:
            at_the_kill = tmp_path.parent / f"{tmp_path.name}-killed"
            at_the_kill.mkdir()
            kept.rename(at_the_kill / FILE_NAME)
            for each in os.listdir(tmp_path):  # the state at the kill
                if each != FILE_NAME:
                    shutil.copy(f"{tmp_path}/{each}", at_the_kill)

    async with running(at_the_kill if killed else tmp_path) as spool:  # pyrefly: ignore[unbound-name]
        assert list(spool.memories) == ([] if killed else ["/run/vm/a.qmp"])
    async with running(at_the_kill if killed else tmp_path) as spool:  # pyrefly: ignore[unbound-name]
        assert list(spool.memories) == ([] if killed else ["/run/vm/a.qmp"])


async def test_records_in_flight_from_memory_are_written_at_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as spool:
        queue = spool.queue(Queue.SAMPLES)
        await spool.flush()
        block(tmp_path)
        for each in samples(1, 2):
            spool.append(each, None)
        await until(spool, trouble=True)
        assert await take(queue, 1) == ["id-1"]
        (tmp_path / FILE_NAME).rmdir()
        assert queue.abandon() == 0

    async with running(tmp_path) as spool:
        assert await take(spool.queue(Queue.SAMPLES)) == ["id-1", "id-2"]


async def test_records_that_fit_nowhere_are_dropped_in_the_order_of_the_store(tmp_path: Path) -> None:
    block(tmp_path)
    counters = Counters()
    weight = record(1).size_bytes
    async with running(tmp_path, counters, memory_bytes=3 * weight) as spool:
        spool.append(record(0, RecordKind.VM_STATE), None)
        spool.append(record(0, RecordKind.HOST_MEMORY), None)
        for each in samples(1, 2, 3, 4):
            spool.append(each, None)
        assert counters.total(Count.DROPPED, "kafka.memory:full") == 1

        assert spool.queue(Queue.STATES).held == 1
        assert await take(spool.queue(Queue.SAMPLES)) == ["id-3", "id-4"]
        assert counters.total(Count.DROPPED, "kafka.samples:full") == 2

        for n in range(5, 8):
            spool.append(record(n, RecordKind.VM_STATE), None)
        assert counters.total(Count.DROPPED, "kafka.states:full") == 3


async def test_dead_letters_in_memory_are_dropped_oldest_first_before_states(
    tmp_path: Path,
) -> None:
    block(tmp_path)
    counters = Counters()
    weight = record(1).size_bytes
    async with running(tmp_path, counters, memory_bytes=3 * weight) as spool:
        await until(spool, trouble=True)
        spool.append(record(0, RecordKind.VM_STATE), None)
        queue = spool.queue(Queue.SAMPLES)
        for each in samples(1, 2):
            spool.append(each, None)
        refused = await queue.take(records_max=2, size_bytes_max=1 << 20)
        await queue.settle([DeadLetter(each, "invalid", "", NOW_MS) for each in refused])
        assert counters.total(Count.DEAD_LETTERS_DROPPED) == 0

        spool.append(record(3), None)
        assert counters.total(Count.DROPPED, "kafka.samples:full") == 1
        spool.append(record(4, RecordKind.VM_STATE), None)
        assert counters.total(Count.DEAD_LETTERS_DROPPED) == 1
        assert spool.queue(Queue.STATES).held == 2

        (tmp_path / FILE_NAME).rmdir()
        await until(spool, trouble=False)
    assert [each.id for each in dead_letters(tmp_path / FILE_NAME)] == ["id-2"]


async def test_the_memory_of_vms_is_bounded_while_the_disk_cannot_be_written(
    tmp_path: Path,
) -> None:
    block(tmp_path)
    async with running(tmp_path, vms_remembered=3) as spool:
        await until(spool, trouble=True)
        for path in ("a", "b", "c", "a", "d", "e"):
            spool.append(None, memory(path))
            await spool.flush()
        (tmp_path / FILE_NAME).rmdir()
        await until(spool, trouble=False)
        assert list(spool.memories) == ["a", "d", "e"]


async def test_a_spool_unusable_at_the_start_is_opened_later_and_its_records_come_first(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as spool:
        for each in samples(1, 2):
            spool.append(each, None)
    kept = tmp_path.parent / f"{tmp_path.name}-kept"
    (tmp_path / FILE_NAME).rename(kept)
    block(tmp_path)
    async with running(tmp_path) as spool:
        queue = spool.queue(Queue.SAMPLES)
        assert spool.trouble is not None
        for each in samples(3, 4):
            spool.append(each, None)
        (tmp_path / FILE_NAME).rmdir()
        kept.rename(tmp_path / FILE_NAME)
        await until(spool, trouble=False)

        assert await take(queue) == ["id-1", "id-2", "id-3", "id-4"]


async def test_without_kafka_only_the_memory_of_vms_is_kept(tmp_path: Path) -> None:
    counters = Counters()
    async with running(tmp_path, counters, queues=frozenset[Queue]()) as spool:
        spool.append(record(1), memory())
    assert not {name for name in counters.snapshot() if not name.startswith("spool_")}

    async with running(tmp_path) as spool:
        assert list(spool.memories) == ["/run/vm/a.qmp"]
        assert spool.queue(Queue.SAMPLES).held == 0


async def test_a_file_of_a_newer_version_is_left_unchanged_and_prevents_the_start(tmp_path: Path) -> None:
    async with running(tmp_path) as spool:
        spool.append(record(1), memory())
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    content = (tmp_path / FILE_NAME).read_bytes()

    with pytest.raises(StateFileError, match=f"format {FORMAT + 1} is newer; .*install that version again"):
        async with running(tmp_path):
            pass

    assert (tmp_path / FILE_NAME).read_bytes() == content
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".bad")]
    assert not open_files(tmp_path)


@pytest.mark.parametrize("when", ["at the start", "while it runs"])
async def test_an_unusable_file_is_set_aside_what_was_lost_with_it_is_counted_and_a_new_file_is_made(
    tmp_path: Path, when: str
) -> None:
    counters = Counters()
    async with running(tmp_path) as spool:
        for n in range(500):
            spool.append(record(n, size_bytes=1000), memory())
        if when == "at the start":
            await spool.flush()
    if when == "at the start":
        _damage(tmp_path / FILE_NAME)
    async with running(tmp_path, counters) as spool:
        queue = spool.queue(Queue.SAMPLES)
        if when == "while it runs":
            _damage(tmp_path / FILE_NAME)
            assert await queue.take(records_max=1000, size_bytes_max=1 << 20) == []
            assert counters.total(Count.DROPPED, "kafka.samples:damaged") == 500
        spool.append(record(1000), memory(sequence=2))
        assert await take(queue) == ["id-1000"]
        assert spool.trouble is None

    assert not open_files(tmp_path)
    aside = [name for name in os.listdir(tmp_path) if name.endswith(".bad")]
    assert len(aside) == 1
    assert aside[0].startswith(f"{FILE_NAME}.2026")
    async with running(tmp_path) as spool:  # every VM's memory was written into the new one
        assert spool.memories["/run/vm/a.qmp"].history.sequence == 2


async def test_a_start_that_is_canceled_leaves_no_file_open(tmp_path: Path) -> None:
    spool = DiskSpool(Settings(directory=tmp_path), WorkerThread("test"), Counters(), lambda: NOW_MS)
    async with anyio.create_task_group() as group:
        group.start_soon(spool.open)
        while not open_files(tmp_path):
            await checkpoint()
        group.cancel_scope.cancel()
    with anyio.CancelScope(shield=True), anyio.fail_after(60):
        while open_files(tmp_path):  # the thread closes it
            await checkpoint()
    spool._thread.end()  # pyrefly: ignore[protected-access]


async def test_a_record_too_large_for_a_block_is_dropped_and_counted(tmp_path: Path) -> None:
    counters = Counters()
    async with running(tmp_path, counters) as spool:
        spool.append(record(1, size_bytes=RECORD_BYTES_MAX + 1), memory())
        spool.append(record(2), None)

        assert await take(spool.queue(Queue.SAMPLES)) == ["id-2"]
        assert counters.total(Count.DROPPED, "kafka.samples:too_large") == 1


async def test_committed_records_that_fit_in_memory_are_sent_from_memory(tmp_path: Path) -> None:
    fit = READY_BYTES // record(0, size_bytes=10_000).size_bytes
    async with running(tmp_path, gathering=NEVER) as spool:
        queue = spool.queue(Queue.SAMPLES)
        for first in (0, fit // 2):
            for n in range(first, first + fit // 2):
                spool.append(record(n, size_bytes=10_000), None)
            await spool.flush()
        for n in range(2 * (fit // 2), fit + 100):
            spool.append(record(n, size_bytes=10_000), None)
        await spool.flush()  # these do not fit
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
            _damage_blocks(other, "last <= ?", 2 * (fit // 2))
            sent: list[str] = []
            for _ in range(4):
                sent += await take(queue, fit // 8)
                await queue.settle(())
            assert sent == [f"id-{n}" for n in range(4 * (fit // 8))]  # the disk was not read


@pytest.mark.parametrize("kept", [0, 3])
async def test_records_in_memory_survive_a_damaged_file_and_the_others_are_counted(
    tmp_path: Path, kept: int
) -> None:
    counters = Counters()
    async with running(tmp_path) as spool:
        for n in range(10):
            spool.append(record(n, RecordKind.VM_STATE), None)
    async with running(tmp_path, counters) as spool:
        for each in samples(*range(kept)):
            spool.append(each, None)
        await spool.flush()
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
            _damage_blocks(other, "last > ?", 0, "states")
        assert await spool.queue(Queue.STATES).take(records_max=9, size_bytes_max=1 << 20) == []

        assert counters.total(Count.DROPPED, "kafka.states:damaged") == 10
        assert counters.total(Count.DROPPED, "kafka.samples:damaged") == 0
        assert spool.queue(Queue.SAMPLES).held == kept
        spool.append(record(kept), None)
        assert await take(spool.queue(Queue.SAMPLES)) == [f"id-{n}" for n in range(kept + 1)]


async def test_a_record_that_its_own_commit_dropped_is_not_sent_from_memory(tmp_path: Path) -> None:
    counters = Counters()
    async with running(tmp_path, counters, gathering=NEVER, bounds=Bounds(age_ms=100_000)) as spool:
        spool.append(record(1, at_ms=NOW_MS - 200_000), None)
        spool.append(record(2), None)
        await spool.flush()

        assert await take(spool.queue(Queue.SAMPLES)) == ["id-2"]
        assert counters.total(Count.DROPPED, "kafka.samples:expired") == 1


async def test_a_record_that_expires_in_memory_is_dropped_with_its_block(tmp_path: Path) -> None:
    counters, now_ms = Counters(), [NOW_MS]
    settings = Settings(directory=tmp_path, gathering=NEVER, bounds=Bounds(age_ms=100_000))
    async with open_spool(settings, counters, lambda: now_ms[0]) as spool:
        for each in samples(1, 2, 3):
            spool.append(each, None)
        await spool.flush()
        queue = spool.queue(Queue.SAMPLES)
        assert await take(queue, 1) == ["id-1"]  # stays while it is in flight, with its block
        spool.append(record(4, at_ms=NOW_MS + 50_000), None)
        spool.append(record(5, at_ms=NOW_MS + 150_000), None)
        await spool.flush()
        now_ms[0] += 200_000
        await spool.flush()

        assert counters.total(Count.DROPPED, "kafka.samples:expired") == 1
        await queue.settle(())
        await spool.flush()
        assert await take(queue) == ["id-2", "id-3", "id-5"]
        assert counters.total(Count.DROPPED, "kafka.samples:expired") == 1


def _damage_blocks(connection: sqlite3.Connection, where: str, argument: int, queue: str = "samples") -> None:
    with connection:
        done = connection.execute(f"UPDATE {queue} SET content = zeroblob(9) WHERE {where}", (argument,))
        assert done.rowcount


def open_files(directory: Path) -> list[str]:
    """Return the files in `directory` that this process has open."""
    found: list[str] = []
    for each in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{each}"))
    return [each for each in found if each.startswith(f"{directory}/")]


def _damage(path: Path) -> None:
    """Overwrite every page but the first few, as a bad disk would; the log is in the file already."""
    with path.open("r+b") as file:
        for page in range(20, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
        if path.stat().st_size // 4096 <= 20:
            raise AssertionError("nothing to damage")
        file.flush()
        os.fsync(file.fileno())


async def test_a_hung_disk_delays_neither_collection_nor_the_end(tmp_path: Path) -> None:
    hang, hung = threading.Event(), threading.Event()

    def wait() -> None:
        hung.set()
        hang.wait(120)

    begun_s = anyio.current_time()
    with anyio.move_on_after(60) as too_long:
        async with (
            open_spool(Settings(directory=tmp_path), Counters(), lambda: NOW_MS) as spool,
            anyio.create_task_group() as group,
        ):
            group.start_soon(spool._thread.run, wait)  # pyrefly: ignore[protected-access]
            await anyio.to_thread.run_sync(hung.wait)
            group.start_soon(spool.run)
            for n in range(2000):  # it still accepts records
                spool.append(record(n), None)
            await anyio.sleep(0.05)
            group.cancel_scope.cancel()
    hang.set()

    assert not too_long.cancel_called
    assert anyio.current_time() - begun_s < 40  # the disk hangs for longer
