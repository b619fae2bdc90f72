"""Compare the cost of stream jobs with a bare Kafka-to-Kafka copy, each on an embedded cluster of its own.

`python -m tests.lab.bench_streams [RECORDS [VMS [JOB …]]]`. The copy and the jobs get the same records in
turn, a round each, so that other load on the machine affects both. The measure is the CPU time of all
processes of a job, Java and Python. It includes what Flink needs until the next checkpoint, so a round must
have many records. The first records are not counted, since Java compiles meanwhile. Then each job gets one
record of each of `VMS` VMs, and its largest checkpoint shows the bytes of state.
"""

# confluent_kafka does not declare all types.

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import cast

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from agent.contract.headers import decode_headers
from agent.core.reading import Record
from barograph_streams.core.jobs import JOBS, SAMPLES_TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.lab import flink
from tests.lab.bench_kafka import backlog
from tests.lab.kafka import RealKafka, real_kafka

RECORDS = 400_000
ROUNDS = 4
WARM_UP_RECORDS = 200_000
VMS = 100_000
COPY = "copy"
COPY_TOPIC = "bench.copy"
GOAL_PER_CORE = 12_000
GOAL_STATE_BYTES = 2_048
CHECKPOINT = re.compile(r"Completed checkpoint \d+ .*\((\d+) bytes, checkpointDuration=(\d+) ms")


@dataclass(slots=True)
class Figures:
    """The figures of one job."""

    start_cpu_s: float = 0.0  # of CPU, from the start of the process to the first records
    per_core: list[float] = field(default_factory=list[float])  # records per second of CPU, by round
    rss_mib: float = 0.0
    state_bytes: float = 0.0  # of one VM
    checkpoint_ms: int = 0  # of the largest checkpoint


class Feed:
    """Writes records to a topic, and waits until a job has read them."""

    def __init__(self, kafka: RealKafka, topic: str, group: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        self._producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "compression.type": "zstd",
                "linger.ms": 50,
                "log_level": 0,
            }
        )
        self._consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "bench", "log_level": 0})
        self._place, self._group = TopicPartition(topic, 0), group

    def send(self, records: Sequence[Record]) -> None:
        """Write records with keys and headers."""
        for record in records:
            headers = cast(list[tuple[str, str | bytes | None]], decode_headers(record.headers))
            while True:
                try:
                    self._producer.produce(self._place.topic, record.value, record.key, headers=headers)
                except BufferError:
                    self._producer.poll(0.1)
                else:
                    break
        if self._producer.flush(120):
            raise RuntimeError("Kafka did not acknowledge the records")

    def wait_until_read(self, job: flink.Job, timeout_s: float = 900.0) -> None:
        """Wait until the job's checkpoints cover all records.

        Raises:
            RuntimeError: the job has ended, or it took too long.
        """
        deadline_s = time.monotonic() + timeout_s
        end = self._consumer.get_watermark_offsets(self._place, timeout=30)[1]
        while self._committed() < end:
            if not job.is_running() or time.monotonic() > deadline_s:
                raise RuntimeError(f"{self._group}: not all records were read; see {job.log}")
            time.sleep(0.2)

    def _committed(self) -> int:
        asked = ConsumerGroupTopicPartitions(self._group, [self._place])
        answer = self._admin.list_consumer_group_offsets([asked])[self._group]
        places = cast(ConsumerGroupTopicPartitions, answer.result(30)).topic_partitions
        return max((each.offset for each in places or ()), default=-1)


def checkpoints(job: flink.Job) -> list[tuple[int, int]]:
    """Return the bytes and the milliseconds of each checkpoint."""
    return [(int(size), int(took_ms)) for size, took_ms in CHECKPOINT.findall(job.cluster_log())]


def measure(names: Sequence[str], records: int, vms: int) -> dict[str, Figures]:
    """Return the figures of the copy and of each job."""
    figures = {name: Figures() for name in names}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp")))
        kafka = stack.enter_context(real_kafka(root / "kafka"))
        used = [JOBS[name] for name in names if name != COPY]
        topics = {topic for job in used for topic in (*job.reads, *job.writes)}
        for topic in (*topics, DEAD_LETTER_TOPIC, COPY_TOPIC, f"{COPY_TOPIC}.out"):
            kafka.create_topic(topic, 1)
        feeds: dict[str, Feed] = {}
        jobs: dict[str, flink.Job] = {}
        for name in names:
            is_copy = name == COPY
            feeds[name] = Feed(kafka, COPY_TOPIC if is_copy else SAMPLES_TOPIC, f"barograph-streams-{name}")
            begin = flink.copy if is_copy else flink.job
            jobs[name] = stack.enter_context(
                begin(root / name, name, kafka.bootstrap, checkpoint_interval_ms=5_000)
            )
        _begin(feeds, jobs, figures)
        per_round = records // ROUNDS
        made = chain.from_iterable(backlog(WARM_UP_RECORDS + ROUNDS * per_round))
        _round(list(islice(made, WARM_UP_RECORDS)), feeds, jobs, figures, counted=False)
        for _ in range(ROUNDS):
            _round(list(islice(made, per_round)), feeds, jobs, figures, counted=True)
        for batch in backlog(vms, vms):
            for feed in {COPY: feeds[COPY], "jobs": feeds[names[-1]]}.values():
                feed.send(batch)
        for name, job in jobs.items():
            feeds[name].wait_until_read(job)
            size, figures[name].checkpoint_ms = max(checkpoints(job))
            figures[name].state_bytes = size / vms
            figures[name].rss_mib = job.rss_mib()
    return figures


def _begin(feeds: dict[str, Feed], jobs: dict[str, flink.Job], figures: dict[str, Figures]) -> None:
    """Start the copy and the jobs at the same time, and wait until each has read a first record."""
    first = next(backlog(1))[:1_000]
    for feed in (feeds[COPY], feeds[[*jobs][-1]]):
        feed.send(first)
    for job in jobs.values():
        job.start()
    for name, job in jobs.items():
        feeds[name].wait_until_read(job)
        figures[name].start_cpu_s = job.cpu_s()


def _round(
    batch: Sequence[Record],
    feeds: dict[str, Feed],
    jobs: dict[str, flink.Job],
    figures: dict[str, Figures],
    *,
    counted: bool,
) -> None:
    """Give the records to the copy, then to all jobs together, since they share a topic."""
    for group in ([COPY], [name for name in jobs if name != COPY]):
        before = {name: jobs[name].cpu_s() for name in group}
        if group:
            feeds[group[0]].send(batch)
        for name in group:
            feeds[name].wait_until_read(jobs[name])
            if counted:
                figures[name].per_core.append(len(batch) / (jobs[name].cpu_s() - before[name]))


def main(words: Sequence[str]) -> int:
    """Print the figures; return 1 if a goal is missed."""
    records = int(words[0]) if words else RECORDS
    vms = int(words[1]) if len(words) > 1 else VMS
    names = [COPY, *(words[2:] or ("pressure", "leak", "right-size", "quality"))]
    print(
        f"{records} records of 1,000 VMs in {ROUNDS} rounds after {WARM_UP_RECORDS}, then 1 of {vms} VMs each"
    )
    good = True
    for name, each in measure(names, records, vms).items():
        rates = sorted(each.per_core)
        middle = rates[len(rates) // 2]
        print(
            f"  {name:<11} {middle:>8,.0f} records/s per core ({rates[0]:,.0f} to {rates[-1]:,.0f}),"
            f" start {each.start_cpu_s:.0f} s of CPU, {each.rss_mib:,.0f} MiB,"
            f" {each.state_bytes:,.0f} bytes a VM, checkpoint {each.checkpoint_ms:,} ms",
            flush=True,
        )
        if name == "pressure":
            good = middle >= GOAL_PER_CORE and each.state_bytes <= GOAL_STATE_BYTES
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
