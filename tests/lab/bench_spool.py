"""Measure the spool: commits, the start with a full one, and a backlog drained to Kafka from disk.

`python -m tests.lab.bench_spool [RECORDS]`. The backlog passes through the agent's `DiskSpool`, `Deliverer`
and `KafkaSink` to the embedded and the real Kafka. The same run measures bare `send_batch`.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from agent.core.delivery import DeliverySettings
from agent.core.epochs import History
from agent.core.memory import Memory
from agent.core.reading import Reading, SocketMark, State, VmId
from agent.runtime.deliver import Deliverer
from agent.sinks.kafka import KafkaSink
from agent.spool.disk import FILE_NAME, Settings, open_spool
from agent.spool.queues import Queue
from agent.spool.store import Bounds, Change, open_store
from agent.telemetry import Counters
from tests.lab.bench_kafka import PARTITIONS, SLICE, Bare, Figures, backlog, measured, settings_for
from tests.lab.embedded_kafka import embedded_kafka
from tests.lab.kafka import real_kafka

RECORDS = 500_000
BOUNDS = Bounds(size_bytes=4 << 30)


def memories(count: int, sequence: int) -> list[Memory]:
    """Return what the agent remembers about `count` VMs after a sample of each."""
    names: tuple[str, ...] = (
        "swap_in",
        "swap_out",
        "major_faults",
        "minor_faults",
        "free_memory",
        "total_memory",
    )
    names = (*names, "available_memory", "disk_caches", "htlb_pgalloc")
    statistics_: dict[str, int] = {name: 1 << 30 for name in names}  # noqa: C420 - typed so
    reading = Reading(1_795_404_146, statistics_)
    history = History("0199f3", 1_795_404_146, 1_795_404_000, sequence, last=reading, counters=statistics_)
    mark = SocketMark(1, 2, 3)
    return [
        Memory(f"/run/vm/{n}.qmp", mark, VmId(f"{n:032x}"), history, 7, State.REPORTING) for n in range(count)
    ]


def commits(folder: Path) -> None:
    """Measure commits of a hundred samples with their memories, as for a thousand VMs at 1 s."""
    store = open_store(folder / FILE_NAME, BOUNDS)
    written = _written_bytes()
    took_ms: list[float] = []
    position = 0
    for records in backlog(SLICE):
        for begin in range(0, SLICE, 100):
            batch = list(enumerate(records[begin : begin + 100], position + 1))
            begun_s = time.perf_counter()
            settled = {Queue.SAMPLES: max(position - 100, 0)}
            now_ms = int(time.time() * 1000)
            change = Change(now_ms=now_ms, records=batch, memories=memories(100, begin), settled=settled)
            store.commit(change)
            took_ms.append(1000 * (time.perf_counter() - begun_s))
            position += 100
    store.close()
    took_ms.sort()
    p50, p99 = statistics.median(took_ms), took_ms[len(took_ms) * 99 // 100]
    print(
        "commits of 100 samples and 100 memories, 100 rows settled:"
        f" {100_000 / statistics.mean(took_ms):,.0f} records/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms,"
        f" {(_written_bytes() - written) / position:,.0f} bytes written a record"
    )


def fill(folder: Path, count: int) -> None:
    """Put a backlog on disk."""
    store = open_store(folder / FILE_NAME, BOUNDS)
    position = 0
    spent_s = 0.0
    for records in backlog(count):
        for begin in range(0, len(records), 500):
            batch = list(enumerate(records[begin : begin + 500], position + 1))
            position += len(batch)
            commit_s = time.perf_counter()
            store.commit(Change(now_ms=int(time.time() * 1000), records=batch))
            spent_s += time.perf_counter() - commit_s
    store.commit(Change(now_ms=int(time.time() * 1000), memories=memories(1_000, 1)))
    used = store.totals().used_bytes
    store.close()
    print(
        f"backlog of {position} records: {position / spent_s:,.0f} records/s in commits of 500,"
        f" {used / position:,.0f} bytes on disk a record"
    )


async def drain(folder: Path, bootstrap: str, count: int) -> tuple[Figures, float, float, float]:
    """Deliver the backlog; return the figures, the time to open it, and the memory before and at the peak."""
    settings = settings_for(bootstrap)
    figures = Figures()
    begun_s = time.perf_counter()
    spool_settings = Settings(directory=folder, bounds=BOUNDS)
    async with open_spool(spool_settings, Counters(), lambda: int(time.time() * 1000)) as spool:
        opened_s = time.perf_counter() - begun_s
        queue = spool.queue(Queue.SAMPLES)
        sink = KafkaSink(settings, "bench.spool", "kafka.samples")
        deliverer = Deliverer(sink, queue, Counters(), DeliverySettings(), on_output_closed=lambda: None)
        before_mib = _resident_mib()
        highest_mib = before_mib
        begun_s, cpu_s = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as group:
            group.start_soon(spool.run)
            group.start_soon(deliverer.run)
            while queue.held:
                await anyio.sleep(0.05)
                highest_mib = max(highest_mib, _resident_mib())
            figures.add(count, time.perf_counter() - begun_s, time.process_time() - cpu_s)
            group.cancel_scope.cancel()
        await spool.flush()
    return figures, opened_s, before_mib, highest_mib


async def bare(bootstrap: str, count: int) -> Figures:
    """Send as many records with aiokafka alone."""
    figures = Figures()
    producer = Bare(settings_for(bootstrap), "bench.bare")
    await producer.start()
    try:
        for records in backlog(count):
            await measured(producer.send, [records], figures)
    finally:
        await producer.stop()
    return figures


def show(name: str, folder: Path, bootstrap: str, count: int) -> float:
    """Print the figures for one Kafka; return the rate of draining."""
    fill(folder, count)
    of_bare = anyio.run(bare, bootstrap, count)
    of_spool, opened_s, before_mib, highest_mib = anyio.run(drain, folder, bootstrap, count)
    print(
        f"{name}: bare send_batch {of_bare.rate:,.0f} records/s, drained from the spool {of_spool.rate:,.0f}"
        f" ({of_spool.rate / of_bare.rate:.2f} of it), {1e6 * of_spool.cpu_s / count:.1f} us CPU a record;"
        f" opened in {1000 * opened_s:.0f} ms; {before_mib:.0f} MiB before, {highest_mib:.0f} MiB at most",
        flush=True,
    )
    return of_spool.rate


def _written_bytes() -> int:
    line = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("wchar"))
    return int(line.split()[1])


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main(words: Sequence[str]) -> int:
    """Print the figures; return 1 if the goal of 50,000 records/s to a real Kafka is missed."""
    count = int(words[0]) if words else RECORDS
    with tempfile.TemporaryDirectory(prefix="bo-", dir="/var/tmp") as name:  # a disk, not memory
        folder = Path(name)
        commits(folder)
        (folder / FILE_NAME).unlink()
        with embedded_kafka() as embedded:
            for topic in ("bench.bare", "bench.spool"):
                embedded.create_topic(topic, PARTITIONS)
            show("embedded Kafka", folder, embedded.bootstrap, count)
        (folder / FILE_NAME).unlink()
        with real_kafka(folder / "kafka") as real:
            for topic in ("bench.bare", "bench.spool"):
                real.create_topic(topic, PARTITIONS)
            rate = show("real Kafka", folder, real.bootstrap, count)
    return 0 if rate >= 50_000 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
