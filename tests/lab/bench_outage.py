"""Measure how a fleet's backlogs slow down other producers of a broker that is back after an outage.

Each agent has its own sink, delivery and queue, with the defaults, and gets the samples of 100 VMs at 10 s.
Another producer sends a record every 20 ms and measures how long the broker takes to acknowledge it: alone,
with the agents, after the broker was down for half a minute, and after that with the backlog of an hour. The
agents share some processes of the lowest priority, because on real hosts they do not use the broker's CPU.

`python -m tests.lab.bench_outage [AGENTS [SECONDS]]`: by default 200 agents, and 60 s for each of the four.
"""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import anyio
import structlog
from anyio.abc import TaskGroup
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from agent.core.delivery import DeliverySettings
from agent.core.reading import Record
from agent.runtime.deliver import Deliverer
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_settings import Settings
from agent.spool.memory import MemoryBuffer
from agent.telemetry import Counters
from tests.lab.bench_kafka import SLICE, backlog, settings_for
from tests.lab.kafka import RealKafka, real_kafka
from tests.lab.measure import quantile

AGENTS = 200
SECONDS = 60.0
WORKERS = 4
NEW_PER_S = 10
"""New records of each agent: 100 VMs at 10 s."""
PARTITIONS = 12
TOPIC, OTHER_TOPIC = "bench.fleet", "bench.other"
OUTAGE_S = 30.0
PROBE_EVERY_S = 0.02
SETTLED_S = 15.0
"""The time in which all agents connect."""


# --- the agents ---


async def run_agents(bootstrap: str, count: int) -> None:
    """Run agents until canceled. A number on standard input gives each agent a backlog of that size."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings = settings_for(bootstrap)
    records = next(backlog(SLICE, vms=100))
    async with anyio.create_task_group() as group:
        queues = [_start_agent(settings, group) for _ in range(count)]
        group.start_soon(_take_backlogs, queues, records)
        at_s = anyio.current_time()
        for turn in range(sys.maxsize):
            for number, queue in enumerate(queues):  # spread over the second
                await anyio.sleep_until(at_s + turn + number / count)
                for each in range(NEW_PER_S):
                    queue.append(records[(turn * NEW_PER_S + each) % SLICE])


def _start_agent(settings: Settings, group: TaskGroup) -> MemoryBuffer:
    counters = Counters()
    sink = KafkaSink(settings, TOPIC, "kafka.samples")
    queue = MemoryBuffer(sink.name, 1 << 40, counters)
    pace = DeliverySettings(
        linger_ns=int(settings.linger_s * 1e9), backlog_records_per_s=settings.backlog_records_per_s
    )
    group.start_soon(Deliverer(sink, queue, counters, pace, on_output_closed=lambda: None).run)
    return queue


async def _take_backlogs(queues: Sequence[MemoryBuffer], records: Sequence[Record]) -> None:
    async for line in anyio.wrap_file(sys.stdin):
        for queue in queues:
            for each in range(int(line)):
                queue.append(records[each % SLICE])
            await anyio.lowlevel.checkpoint()


# --- the other producer ---


def probe(bootstrap: str, seconds: float) -> list[float]:
    """Return the milliseconds that each acknowledgment took. The first record is not counted."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0})
    took_ms: list[float] = []

    def send(counts: bool) -> None:
        begun_s = time.monotonic()

        def acknowledged(error: object, _: object) -> None:
            if error is not None:
                raise RuntimeError(f"the broker did not accept a record: {error}")
            if counts:
                took_ms.append(1000 * (time.monotonic() - begun_s))

        producer.produce(OTHER_TOPIC, b"x" * 500, on_delivery=acknowledged)

    send(counts=False)
    producer.flush(180)
    begun_s = time.monotonic()
    for number in range(int(seconds / PROBE_EVERY_S)):
        while (left_s := begun_s + number * PROBE_EVERY_S - time.monotonic()) > 0:
            producer.poll(left_s)
        send(counts=True)
    producer.flush(180)
    return took_ms


def show(what: str, took_ms: Sequence[float]) -> float:
    """Print the figures; return the 99th percentile in ms."""
    p50_ms, p99_ms = quantile(took_ms, 0.5), quantile(took_ms, 0.99)
    longest_ms = max(took_ms)
    print(
        f"{what:<34} p50 {p50_ms:6.1f} ms  p99 {p99_ms:6.1f} ms  longest {longest_ms:6.0f} ms"
        f"  of {len(took_ms)}",
        flush=True,
    )
    return p99_ms


# --- the run ---


def _yield_cpu() -> None:
    os.nice(19)


@contextmanager
def agents_of(bootstrap: str, count: int) -> Generator[list[subprocess.Popen[str]]]:
    """Run the agents in processes of the lowest priority until the block ends."""
    with ExitStack() as stack:
        workers: list[subprocess.Popen[str]] = []
        for number in range(WORKERS):
            share = count // WORKERS + (number < count % WORKERS)
            argv = [sys.executable, "-m", __spec__.name, "--agents", bootstrap, f"{share}"]
            worker = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, preexec_fn=_yield_cpu)
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            workers.append(worker)
        yield workers


def arrived(kafka: RealKafka) -> int:
    """Return how many of the agents' records the broker has."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    latest = cast(OffsetSpec, OffsetSpec.latest())
    wanted = {TopicPartition(TOPIC, partition): latest for partition in range(PARTITIONS)}
    return sum(each.result().offset for each in admin.list_offsets(wanted).values())


def beside(what: str, kafka: RealKafka, seconds: float) -> float:
    """Print the figures of a run with the agents; return the 99th percentile in ms."""
    before, begun_s = arrived(kafka), time.monotonic()
    p99_ms = show(what, probe(kafka.bootstrap, seconds))
    print(f"  {(arrived(kafka) - before) / (time.monotonic() - begun_s):,.0f} records/s of the agents")
    return p99_ms


def restart(kafka: RealKafka, workers: Sequence[subprocess.Popen[str]], backlog_records: int) -> None:
    """Restart the broker after an outage in which each agent gets a backlog."""
    kafka.kill()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{backlog_records}\n")
        worker.stdin.flush()
    time.sleep(OUTAGE_S)
    kafka.start()


def measure(folder: Path, count: int, seconds: float) -> float:
    """Print the figures; return the 99th percentile with the backlogs, as a multiple of that without."""
    with real_kafka(folder / "kafka") as kafka:
        kafka.create_topic(TOPIC, PARTITIONS)
        kafka.create_topic(OTHER_TOPIC, 1)
        backlog_per_s = settings_for(kafka.bootstrap).backlog_records_per_s
        show("alone", probe(kafka.bootstrap, seconds))
        with agents_of(kafka.bootstrap, count) as workers:
            while arrived(kafka) < count * NEW_PER_S:
                time.sleep(0.5)
            time.sleep(SETTLED_S)
            undisturbed_ms = beside(f"beside {count} agents", kafka, seconds)
            restart(kafka, workers, 0)
            beside(f"after {OUTAGE_S:.0f} s without the broker", kafka, seconds)
            restart(kafka, workers, int(backlog_per_s * (seconds + OUTAGE_S)))  # more than is sent meanwhile
            disturbed_ms = beside("after an hour without it", kafka, seconds)
    times = disturbed_ms / undisturbed_ms
    print(f"p99 beside the backlogs, as a multiple of that beside the agents: {times:.1f}")
    return times


def main(words: Sequence[str]) -> int:
    """Print the figures; return 1 if the backlogs more than double the 99th percentile."""
    if words[:1] == ["--agents"]:
        anyio.run(run_agents, words[1], int(words[2]))
    count = int(words[0]) if words else AGENTS
    seconds = float(words[1]) if len(words) > 1 else SECONDS
    with tempfile.TemporaryDirectory(prefix="bo-", dir="/var/tmp") as folder:
        return 0 if measure(Path(folder), count, seconds) <= 2 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
