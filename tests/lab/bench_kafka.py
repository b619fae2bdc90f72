"""Compare how fast the sink and bare aiokafka drain a backlog to the embedded and to the real Kafka.

`python -m tests.lab.bench_kafka [RECORDS [COMPRESSION]]`. Both send the same records with the same
settings, a slice each in turn, so that other load on the machine affects both. Encoding is not counted, and
CPU is that of the event loop's thread, without the brokers.
"""

# aiokafka declares no types.

import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import anyio
from aiokafka import AIOKafkaProducer

from agent.contract.encode import Mode, encode_sample
from agent.contract.headers import decode_headers
from agent.contract.payloads import Agent
from agent.core.address import MonitorPath
from agent.core.reading import Balloon, Origin, Record, Sample, VmId, VmIdentity
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_client import partition_of
from agent.sinks.kafka_settings import Compression, Settings
from tests.lab.embedded_kafka import embedded_kafka
from tests.lab.kafka import real_kafka

RECORDS = 500_000
VMS = 1_000
SLICE = 25_000
PARTITIONS = 12
AGENT = Agent(host_id=str(uuid.UUID(int=7)), host_name="node-7", run=str(uuid.UUID(int=8)), version="1.0.0")

Sender = Callable[[Sequence[Record]], Awaitable[None]]


@dataclass(slots=True)
class Figures:
    """The figures of one sender, slice by slice."""

    rates: list[float] = field(default_factory=list[float])  # records/s
    seconds: float = 0.0
    cpu_s: float = 0.0
    records: int = 0

    @property
    def rate(self) -> float:
        """Return the records per second of all slices."""
        return self.records / self.seconds

    def add(self, records: int, seconds: float, cpu_s: float) -> None:
        """Count a slice."""
        self.rates.append(records / seconds)
        self.records += records
        self.seconds += seconds
        self.cpu_s += cpu_s


def backlog(count: int, vms: int = VMS) -> Iterator[list[Record]]:
    """Yield samples of `vms` VMs as the agent encodes them, a slice at a time."""
    ids = [str(uuid.UUID(int=(0x5F0C << 112) + 7919 * number)) for number in range(vms)]
    now_ms = int(time.time() * 1000)
    for begin in range(0, count, SLICE):
        yield [
            encode_sample(_sample(n, ids, now_ms), AGENT, Mode.BINARY) for n in range(begin, begin + SLICE)
        ]


def _sample(n: int, ids: Sequence[str], now_ms: int) -> Sample:
    vms = len(ids)
    id, turn = ids[n % vms], n // vms
    at_s = now_ms // 1000 - 10_000 + turn * 10
    free = 68_141_056 + 4096 * (n * 2_654_435_761 % 100_000)
    return Sample(
        vm=VmIdentity(VmId(id), "uuid", id, f"web-{n % vms}"),
        address=MonitorPath(f"/run/vm/{n % vms}.qmp"),
        epoch=str(uuid.UUID(int=(0x0199F3 << 104) + n % vms)),
        epoch_start_s=at_s,
        sequence=turn + 1,
        previous=None,
        last_update_s=at_s,
        observed_at_ms=at_s * 1000 + 123,
        origin=Origin.POLL,
        missed_at_most=0,
        interval_s=10,
        run_state="running",
        balloon=Balloon(4_294_967_296, at_s * 1000),
        statistics={
            "swap_in": 0,
            "swap_out": 0,
            "major_faults": 1_234 + turn,
            "minor_faults": 3_456_789 + 977 * turn + n % 97,
            "free_memory": free,
            "total_memory": 4_123_168_768,
            "available_memory": free + 1_500_000_000,
            "disk_caches": 1_403_076_608 - 4096 * (n % 7919),
            "htlb_pgalloc": 0,
            "htlb_pgfail": 0,
        },
    )


def settings_for(bootstrap: str, compression: Compression | None = None) -> Settings:
    """Return the sink's defaults, with another compression if one is given."""
    settings = Settings(bootstrap_servers=tuple(bootstrap.split(",")))
    return settings if compression is None else replace(settings, compression=compression)


class Bare:
    """aiokafka alone, with as many batches in flight as it accepts."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._topic = topic
        self._producer = AIOKafkaProducer(
            bootstrap_servers=",".join(settings.bootstrap_servers),
            acks="all",
            enable_idempotence=True,
            compression_type=settings.compression,
            max_batch_size=settings.produce_batch_bytes,
            request_timeout_ms=int(settings.request_timeout_s * 1000),
        )

    async def start(self) -> None:
        """Connect to the cluster."""
        await self._producer.start()

    async def send(self, records: Sequence[Record]) -> None:
        """Send records and return once all are acknowledged."""
        producer, topic = self._producer, self._topic
        batches = {partition: producer.create_batch() for partition in range(PARTITIONS)}
        sent: list[asyncio.Future[object]] = []
        for each in records:
            partition = partition_of(each.key, PARTITIONS)
            key, headers = each.key.encode(), decode_headers(each.headers)
            full = batches[partition]
            if not full.append(key=key, value=each.value, timestamp=each.timestamp_ms, headers=headers):
                sent.append(await producer.send_batch(full, topic, partition=partition))
                batches[partition] = producer.create_batch()
                batches[partition].append(
                    key=key, value=each.value, timestamp=each.timestamp_ms, headers=headers
                )
        for partition, left in batches.items():
            sent.append(await producer.send_batch(left, topic, partition=partition))
        await asyncio.wait(sent)
        for each in sent:
            each.result()

    async def stop(self) -> None:
        """Disconnect."""
        await self._producer.stop()


async def measured(send: Sender, batches: Sequence[Sequence[Record]], figures: Figures) -> None:
    """Send a slice and add its time and CPU to `figures`."""
    begun_s, cpu_s = time.perf_counter(), time.thread_time()
    for batch in batches:
        await send(batch)
    records = sum(len(batch) for batch in batches)
    figures.add(records, time.perf_counter() - begun_s, time.thread_time() - cpu_s)


def as_taken(sink: KafkaSink, records: Sequence[Record]) -> list[Sequence[Record]]:
    """Return the records in the batches that a queue would give the deliverer."""
    batches: list[Sequence[Record]] = []
    begin = size_bytes = 0
    for end, record in enumerate(records):
        size_bytes += record.size_bytes
        if size_bytes > sink.batch_bytes_max or end - begin == sink.batch_records_max:
            batches.append(records[begin:end])
            begin, size_bytes = end, record.size_bytes
    return [*batches, records[begin:]]


async def taken(sink: KafkaSink, records: Sequence[Record]) -> None:
    """Deliver a batch."""
    receipt = await sink.send(records)
    if receipt.refused or receipt.restamped:
        raise RuntimeError(f"the broker did not accept all records unchanged: {receipt}")


async def compare(settings: Settings, count: int) -> tuple[Figures, Figures]:
    """Return the figures of bare aiokafka and of the sink."""
    bare, sink = Bare(settings, "bench.bare"), KafkaSink(settings, "bench.sink", "kafka.bench")
    of_bare, of_sink = Figures(), Figures()
    await bare.start()
    try:
        for number, records in enumerate(backlog(count)):
            batches = as_taken(sink, records)
            for way in ("bare", "sink") if number % 2 else ("sink", "bare"):
                if way == "bare":
                    await measured(bare.send, [records], of_bare)
                else:
                    await measured(partial(taken, sink), batches, of_sink)
    finally:
        await bare.stop()
        await sink.aclose()
    return of_bare, of_sink


def show(name: str, of_bare: Figures, of_sink: Figures) -> None:
    """Print the figures for one Kafka."""
    print(f"{name}: {of_sink.records} records each")
    for way, figures in (("bare send_batch", of_bare), ("KafkaSink.send", of_sink)):
        cpu_us = 1e6 * figures.cpu_s / figures.records
        median = statistics.median(figures.rates)
        print(
            f"  {way:<16} {figures.rate:>9,.0f} records/s (median slice {median:,.0f}),"
            f" {cpu_us:.1f} us CPU a record, {figures.cpu_s / figures.seconds:.0%} of a core"
        )
    print(f"  sink / bare      {of_sink.rate / of_bare.rate:.2f}", flush=True)


def main(words: Sequence[str]) -> int:
    """Print the figures; return 1 if a goal is missed."""
    count = int(words[0]) if words else RECORDS
    compression = cast(Compression, words[1]) if len(words) > 1 else None
    first = next(backlog(SLICE))
    size_bytes = sum(each.size_bytes for each in first) / len(first)
    print(f"{count} samples of {VMS} VMs, {size_bytes:.0f} bytes each with key and headers", flush=True)
    with embedded_kafka() as embedded:
        embedded.create_topic("bench.bare", PARTITIONS)
        embedded.create_topic("bench.sink", PARTITIONS)
        bare, sink = anyio.run(compare, settings_for(embedded.bootstrap, compression), count)
    show("embedded Kafka", bare, sink)
    good = sink.rate >= 0.6 * bare.rate
    with tempfile.TemporaryDirectory(prefix="bk-", dir="/tmp") as folder, real_kafka(Path(folder)) as real:
        real.create_topic("bench.bare", PARTITIONS)
        real.create_topic("bench.sink", PARTITIONS)
        bare, sink = anyio.run(compare, settings_for(real.bootstrap, compression), count)
    show("real Kafka", bare, sink)
    good = good and sink.rate >= 0.6 * bare.rate and sink.rate >= 50_000
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
