"""Tests that neither memory nor the spool grows over 30 simulated days of VMs that come and go."""

import gc
import random
import resource
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agent.contract.headers import encode_headers
from agent.core.delivery import DeliverySettings
from agent.core.epochs import History
from agent.core.gathering import GatherSettings
from agent.core.memory import Memory
from agent.core.reading import Reading, Record, RecordKind, SocketMark, State, VmId
from agent.errors import SinkUnavailable
from agent.runtime.deliver import Deliverer
from agent.sinks.record_sink import Receipt
from agent.spool.disk import FILE_NAME, Settings, open_spool
from agent.spool.queues import Queue
from agent.spool.store import Bounds
from agent.telemetry import Count, Counters

DAY_MS = 86_400_000
GROWTH_MAX = 1.1
SPARE_BYTES = 8 << 20
"""Free pages that the spool keeps in its file."""
AT_ONCE = GatherSettings(pause_ns=1_000_000, slow_pause_ns=1_000_000)


class Broker:
    """A sink that accepts everything, or nothing on some days."""

    name = "kafka.samples"
    batch_bytes_max = 1 << 20
    batch_records_max = 1_000
    problem: str | None = None

    def __init__(self) -> None:
        self.away = False
        self.taken = 0

    async def send(self, records: Sequence[Record]) -> Receipt:
        if self.away:
            raise SinkUnavailable("away")
        self.taken += len(records)
        return Receipt()

    async def aclose(self) -> None:
        pass


def memory(vm: int, sequence: int) -> Memory:
    reading = Reading(1_795_400_000 + sequence, {"free_memory": vm, "minor_faults": sequence})
    history = History(f"{vm}", reading.last_update_s, 1, sequence, last=reading)
    return Memory(f"/run/vm/{vm}.qmp", SocketMark(1, vm, 3), VmId(f"{vm}"), history, 7, State.REPORTING)


def resident_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def used_by_records_mib(file: Path) -> float:
    """Return the size of the used pages, since the number of free pages depends on the peak."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        pages, free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * page_bytes / 2**20


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what it depends on is the product's own
        await anyio.sleep(0.005)


async def live(folder: Path, days: int, vms_a_day: int, samples_a_vm: int) -> None:
    """Run `days` days, each with new VMs; on every fifth, no broker, and more than the spool holds."""
    now_ms = 1_795_400_000_000
    chance = random.Random(days)
    counters = Counters()
    broker = Broker()
    memory_mib: list[float] = []
    used_mib: list[float] = []
    # Space for what the agent remembers about 10,000 VMs, and for a part of a day's samples.
    bounds = Bounds(size_bytes=(5 << 20) + vms_a_day * samples_a_vm * 300)
    settings = Settings(directory=folder, bounds=bounds, gathering=AT_ONCE)
    impatient = DeliverySettings(first_retry_ns=1_000_000, longest_retry_ns=10_000_000)
    async with open_spool(settings, counters, lambda: now_ms) as spool:
        queue = spool.queue(Queue.SAMPLES)
        async with anyio.create_task_group() as group:
            group.start_soon(spool.run)
            deliverer = Deliverer(broker, queue, counters, impatient, on_output_closed=lambda: None)
            group.start_soon(deliverer.run)
            for day in range(days):
                broker.away = day % 5 == 4
                for vm in range(day * vms_a_day, (day + 1) * vms_a_day):
                    for sequence in range(1, samples_a_vm + 1):
                        value = chance.randbytes(480)  # which does not compress
                        record = Record(
                            RecordKind.SAMPLE, f"{vm}/{sequence}", f"{vm}", now_ms, encode_headers(()), value
                        )
                        spool.append(record, memory(vm, sequence))
                    now_ms += DAY_MS // vms_a_day
                    await checkpoint()
                    if not broker.away:
                        await until(lambda: queue.held < 5_000)
                    elif vm % 100 == 0:  # the test does not measure a slow disk on a busy machine
                        await spool.flush()
                await spool.flush()
                broker.away = False
                await until(lambda: not queue.held)
                spool.append(None, memory(day * vms_a_day, 1))
                await spool.flush()  # what was delivered is deleted with the next commit
                memory_mib.append(resident_mib())
                used_mib.append(used_by_records_mib(folder / FILE_NAME))
            group.cancel_scope.cancel()
    queued, delivered = (counters.total(which, queue.sink) for which in (Count.QUEUED, Count.DELIVERED))
    dropped = counters.total(Count.DROPPED, f"{queue.sink}:full")
    print(
        f"{days} days, {queued} samples of {days * vms_a_day} VMs: {delivered} delivered, {dropped} dropped;"
        f" memory {memory_mib[9]:.1f} then {memory_mib[-1]:.1f} MiB,"
        f" in use in the file {used_mib[9]:.1f} then {used_mib[-1]:.1f} MiB"
    )
    assert queued == days * vms_a_day * samples_a_vm == delivered + dropped
    assert dropped > 0
    assert len(spool.memories) <= 10_000
    for figures in (memory_mib, used_mib):
        assert max(figures[10:]) <= GROWTH_MAX * max(figures[5:10])
    assert (folder / FILE_NAME).stat().st_size <= bounds.size_bytes + SPARE_BYTES


@pytest.mark.timeout(400)  # depends on the disk, which other processes use too
async def test_fifteen_days_leave_nothing_behind(folder: Path) -> None:
    await live(folder, 15, 2_500, 3)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_thirty_days_leave_nothing_behind(folder: Path) -> None:
    await live(folder, 30, 5_000, 20)
