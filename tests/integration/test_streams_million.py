"""Test of a million records of every kind through Flink, compared with the reader of docs/contract.md.

`BAROGRAPH_STREAMS_RECORDS` is their number, a million by default. `unit/streams/test_million.py` compares the
core with that reader record by record, and `test_streams.py` reads some thousand records through Flink.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from barograph_streams.core.documents import Outcome
from barograph_streams.core.jobs import SAMPLES_TOPIC, STATES_TOPIC
from barograph_streams.core.pressure_job import TOPIC as PRESSURE_TOPIC
from barograph_streams.core.quality_job import HOST_TOPIC, VM_TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.contract.test_schemas_reader import new_reader
from tests.integration.conftest import need
from tests.integration.test_streams import figures_of, metrics_page, written_to
from tests.lab.flink import Job, job
from tests.lab.kafka import RealKafka, consume, forget, unread
from tests.lab.process import free_port
from tests.unit.streams.hosting import vm_state
from tests.unit.streams.making import AGENTS
from tests.unit.streams.mixing import GARBAGE, Sent, an_hour_behind, count, later_versions, mixed, written

RECORDS = int(os.environ.get("BAROGRAPH_STREAMS_RECORDS", "1000000"))
BATCH, VMS = 10_000, 40
PARTITIONS = 4
PARALLELISM = (1, 4)
WAIT_S = 3_600
STATES = ("reporting", "stalled")
"""The state of every VM in each run, by which the records of the runs can be distinguished."""

ACCEPTED = (Outcome.KEPT, Outcome.SUPERSEDED, Outcome.REDELIVERED)


@dataclass
class Expected:
    """The expected output of the jobs."""

    records: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])  # of the pressure job
    dead: list[bytes] = field(default_factory=list[bytes])
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict[str, tuple[int, int, int]])
    """By VM: samples that the contract's reader takes and drops, and those that it counts as lost."""

    _new_reader: Callable[[], Any] = field(default_factory=lambda: new_reader().__class__)

    def add(self, stream: list[Sent]) -> None:
        """Add the records of some more VMs."""
        records, letters = written(stream)
        self.records |= records
        self.dead += letters
        readers: defaultdict[str, Any] = defaultdict(self._new_reader)
        taken: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for key, value in stream:
            if value not in GARBAGE:
                taken[key][readers[key].take(value) is None] += 1
        for key, (kept, dropped) in taken.items():
            self.counts[key] = kept, dropped, readers[key].lost

    def totals(self) -> tuple[int, ...]:
        """Return how many samples are taken, dropped and lost, and the number of dead letters."""
        of_all = (sum(each) for each in zip(*self.counts.values(), strict=True))
        return (*of_all, len(self.dead))


def batches(*, is_late: bool) -> Iterator[list[Sent]]:
    """Yield the records of some VMs at a time, as they arrive."""
    for batch in range(max(1, RECORDS // BATCH)):
        samples = min(RECORDS, BATCH) // VMS
        stream = later_versions(mixed(batch, VMS, samples, step_s=60, first_vm=VMS * batch), batch)
        yield an_hour_behind(stream, AGENTS[1].host_id) if is_late else stream


def produce(kafka: RealKafka, records: list[Sent], topic: str) -> None:
    """Produce records in order."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 50, "log_level": 0})
    for key, value in records:
        producer.produce(topic, value, key=key)
    assert producer.flush(WAIT_S) == 0


def wait_until_read(kafka: RealKafka, topic: str, jobs: Mapping[str, Job]) -> None:
    """Wait until the checkpoints of all jobs cover all records of a topic."""
    deadline_s = time.monotonic() + WAIT_S
    for name, running in jobs.items():
        while left := unread(kafka.bootstrap, topic, f"barograph-streams-{name}"):
            assert running.is_running(), running.log.read_text()[-4000:]
            assert time.monotonic() < deadline_s, f"{name}: {left} records of {topic} are left"
            time.sleep(2)


def counted(port: int) -> tuple[int, ...]:
    """Return what the metrics of the pressure job show: samples taken, dropped and lost, and dead letters."""
    figures = figures_of(metrics_page(port))
    outcomes = {each: figures["outcome_records", str(each)] for each in Outcome}
    return (
        sum(outcomes[each] for each in ACCEPTED),
        outcomes[Outcome.REPEAT],
        figures["lost", ""] - figures["found", ""],
        sum(number for each, number in outcomes.items() if each.is_dead),
    )


def quality_of(kafka: RealKafka, state: str) -> dict[str, tuple[int, int, int]]:
    """Return the quality job's counts for each VM in `state`: samples kept, repeated and lost."""
    found: dict[str, tuple[int, int, int]] = {}
    for each in consume(kafka.bootstrap, [VM_TOPIC], WAIT_S):
        document = json.loads(each.value)
        if document["state"] == state:
            samples = document["samples"]
            found[each.key] = (samples["kept"], samples["repeats"], samples["lost"])
    return found


@pytest.mark.long
@pytest.mark.timeout(6 * WAIT_S)
@pytest.mark.parametrize("is_late", [False, True], ids=["in order", "a host an hour behind"])
def test_a_million_records_are_kept_dropped_and_counted_as_by_the_contracts_reader(
    is_late: bool, own_kafka: RealKafka, folder: Path
) -> None:
    """Each parallelism begins without checkpoints, so it reads and writes everything again.

    The offsets that the previous job committed are deleted: here they only show how far a job has read.
    """
    need("flink")
    for topic in (SAMPLES_TOPIC, STATES_TOPIC, PRESSURE_TOPIC, VM_TOPIC, HOST_TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic, PARTITIONS)
    expected = Expected()
    for stream in batches(is_late=is_late):
        produce(own_kafka, stream, SAMPLES_TOPIC)
        expected.add(stream)

    for run, parallelism in enumerate(PARALLELISM, 1):
        place, port, state = folder / str(parallelism), free_port(), STATES[run - 1]
        with (
            job(place / "p", "pressure", own_kafka.bootstrap, checkpoint_interval_ms=10_000) as pressure,
            job(place / "q", "quality", own_kafka.bootstrap, checkpoint_interval_ms=10_000) as quality,
        ):
            pressure.start("--parallelism", str(parallelism), "--metrics-port", str(port))
            quality.start("--parallelism", str(parallelism))
            wait_until_read(own_kafka, SAMPLES_TOPIC, {"pressure": pressure, "quality": quality})
            produce(own_kafka, states(len(expected.counts), run, state), STATES_TOPIC)
            wait_until_read(own_kafka, STATES_TOPIC, {"quality": quality})
            deadline_s = time.monotonic() + WAIT_S
            counts, (found, dead) = quality_of(own_kafka, state), written_to(own_kafka, WAIT_S)
            while len(counts) < len(expected.counts) or count(found) < run * count(expected.records):
                assert quality.is_running(), quality.log.read_text()[-4000:]
                assert time.monotonic() < deadline_s, (len(counts), count(found))
                time.sleep(5)
                counts, (found, dead) = quality_of(own_kafka, state), written_to(own_kafka, WAIT_S)
            totals = counted(port)
        for name in ("pressure", "quality"):
            forget(own_kafka.bootstrap, f"barograph-streams-{name}")

        assert counts == expected.counts
        assert totals == expected.totals()
        assert found == {key: values * run for key, values in expected.records.items()}
        assert dead == sorted(expected.dead * 2 * run)  # each job writes them
        print(f"parallelism {parallelism}: taken, dropped, lost, dead: {totals}")
    print(f"{sum(expected.totals()) - expected.totals()[2]} records of {len(expected.counts)} VMs")


def states(vms: int, run: int, state: str) -> list[Sent]:
    """Return a state of each VM that is valid until the test ends."""
    by_ms = time.time_ns() // 1_000_000 + 6_000 * WAIT_S
    found: list[Sent] = []
    for number in range(vms):
        key, value = vm_state(number, 0, run, state)
        found.append((key, json.dumps(json.loads(value) | {"next_heartbeat_by_ms": by_ms}).encode()))
    return found
