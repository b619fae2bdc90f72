"""Tests of the stream jobs on a real Flink and Kafka: complete, without repeats, and with real timers."""

import json
import re
import signal
import time
import urllib.request
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from confluent_kafka import Producer

from barograph_streams.cli import newest_checkpoint
from barograph_streams.core.headroom_job import TOPIC as HEADROOM_TOPIC
from barograph_streams.core.jobs import MEMORY_TOPIC, SAMPLES_TOPIC, STATES_TOPIC
from barograph_streams.core.pressure_job import TOPIC as PRESSURE_TOPIC
from barograph_streams.core.quality_job import HOST_TOPIC, VM_TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.contract.generate_dashboards import queries
from tests.contract.schema_files import examples, load
from tests.integration.conftest import need
from tests.lab.flink import Job, job
from tests.lab.kafka import RealKafka, consume
from tests.lab.process import free_port
from tests.unit.streams.hosting import GIB, HOSTS, host_memory, vm_memory
from tests.unit.streams.making import AGENTS, T0_S, make
from tests.unit.streams.mixing import Sent, an_hour_behind, count, later_versions, mixed, written


@pytest.fixture
def flink() -> None:
    """Require Flink's Python environment and the jars."""
    need("flink")


def produce(kafka: RealKafka, stream: Sequence[Sent]) -> None:
    """Produce records in order, compressed with zstd, the codec that needs a jar of its own."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": "zstd", "log_level": 0})
    for key, value in stream:
        producer.produce(SAMPLES_TOPIC, value, key=key)
    assert producer.flush(240) == 0


def written_to(
    kafka: RealKafka, timeout_s: float = 90.0, *, committed: bool = True
) -> tuple[dict[str, list[bytes]], list[bytes]]:
    """Return the values of each VM in order, and the dead letters."""
    received = consume(kafka.bootstrap, [PRESSURE_TOPIC, DEAD_LETTER_TOPIC], timeout_s, committed=committed)
    records: defaultdict[str, list[bytes]] = defaultdict(list)
    for each in received:
        if each.topic == PRESSURE_TOPIC:
            records[each.key].append(each.value)
    return dict(records), sorted(each.value for each in received if each.topic == DEAD_LETTER_TOPIC)


def wait_for(kafka: RealKafka, running: Job, records: int, dead: int, *, committed: bool = True) -> None:
    """Wait until the job has written `records` records and `dead` dead letters.

    Raises:
        AssertionError: the job has ended, or it took too long.
    """
    deadline_s = time.monotonic() + 600
    while True:
        found, letters = written_to(kafka, committed=committed)
        if count(found) >= records and len(letters) >= dead:
            return
        assert running.is_running(), running.log.read_text()[-4000:]
        assert time.monotonic() < deadline_s, f"{count(found)} of {records}, {len(letters)} of {dead}"
        time.sleep(0.2)


def metrics_page(port: int) -> str:
    """Return the page that Prometheus scrapes."""
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()


def page_with(port: int, names: set[str]) -> str:
    """Return the page that Prometheus scrapes once it has these names, or after a minute."""
    deadline_s = time.monotonic() + 60
    while True:
        page = metrics_page(port)
        if all(name in page for name in names) or time.monotonic() > deadline_s:
            return page
        time.sleep(1)


def figures_of(page: str) -> Counter[tuple[str, str]]:
    """Return the figures of a job by metric and label, added up over its tasks; some have no label."""
    figures: Counter[tuple[str, str]] = Counter()
    for line in page.splitlines():
        found = re.match(r"flink_\w+_barograph_job_(\w+)\{(.*)\} (\S+)", line)
        if found:
            label = re.search(r'\b(?:outcome|level)="(\w+)"', found[2])
            figures[found[1], label[1] if label else ""] += int(float(found[3]))
    return figures


@pytest.mark.timeout(2400)
def test_a_killed_job_continues_from_its_checkpoint_complete_and_without_repeats(
    flink: None, own_kafka: RealKafka, folder: Path
) -> None:
    """It is killed while a transaction is open, and continues with another parallelism.

    The records of one host are an hour behind, and a tenth are of a later version.
    """
    stream = an_hour_behind(later_versions(mixed(seed=7, vms=60, samples=120), 7), AGENTS[1].host_id)
    third = len(stream) // 3
    for topic in (SAMPLES_TOPIC, PRESSURE_TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic, 4)
    first, first_dead = written(stream[:third])
    second, _ = written(stream[: 2 * third])
    records, dead = written(stream)
    on_dashboards = {name for _, query in queries() for name in re.findall(r"\bflink_\w+", query)}

    with job(folder / "job", "pressure", own_kafka.bootstrap) as running:
        produce(own_kafka, stream[:third])
        running.start()
        wait_for(own_kafka, running, count(first), len(first_dead))
        open_ports = running.open_ports()
        produce(own_kafka, stream[third : 2 * third])
        wait_for(own_kafka, running, (count(first) + count(second)) // 2, 0, committed=False)
        running.kill()
        restored = newest_checkpoint(folder / "job" / "checkpoints", "pressure")
        produce(own_kafka, stream[2 * third :])
        port = free_port()
        running.start("--parallelism", "2", "--metrics-port", str(port))
        wait_for(own_kafka, running, count(records), len(dead))
        found, found_dead = written_to(own_kafka)
        page = page_with(port, on_dashboards)
        log = running.log.read_text()
        deadline_s = time.monotonic() + 120
        while Path(restored or "").exists() and time.monotonic() < deadline_s:
            time.sleep(0.5)

    assert found == records
    assert found_dead == dead
    figures = figures_of(page)
    assert figures["outcome_records", "kept"] > 0 < figures["outcome_records", "document"]
    assert 0 < sum(figures["level_keys", level] for level in ("none", "low", "pressure", "oom")) <= 60
    assert open_ports == []
    assert on_dashboards
    assert {name for name in on_dashboards if name not in page} == set()
    assert log.count(f"restoring from {restored}") == 1
    assert not Path(restored or "").exists()
    assert count(first) < count(second) < count(records)
    assert min(Counter(len(values) for values in records.values())) > 1


@pytest.mark.timeout(1200)
def test_a_host_that_is_silent_is_dark_after_its_heartbeat(
    flink: None, own_kafka: RealKafka, folder: Path
) -> None:
    for topic in (SAMPLES_TOPIC, STATES_TOPIC, VM_TOPIC, HOST_TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic, 2)
    document = load(examples("agent", "valid")[0])
    host = cast(dict[str, str], document["host"])["id"] = uuid.uuid4().hex
    producer = Producer({"bootstrap.servers": own_kafka.bootstrap, "log_level": 0})

    def found() -> list[str]:
        received = consume(own_kafka.bootstrap, [HOST_TOPIC])
        return [json.loads(each.value)["condition"] for each in received if each.key == host]

    with job(folder / "job", "quality", own_kafka.bootstrap, checkpoint_interval_ms=1_000) as running:
        running.start()
        deadline_s = time.monotonic() + 900
        sequence = 0
        while not found():  # a state that is read too late is void on arrival, so it is repeated
            sequence += 1
            now_ms = time.time_ns() // 1_000_000
            document |= {
                "sequence": sequence,
                "observed_at_ms": now_ms,
                "next_heartbeat_by_ms": now_ms + 5_000,
            }
            producer.produce(STATES_TOPIC, json.dumps(document).encode(), key=host)
            assert producer.flush(240) == 0
            assert running.is_running(), running.log.read_text()[-4000:]
            assert time.monotonic() < deadline_s
            time.sleep(1)
        while len(conditions := found()) < 2:
            assert running.is_running(), running.log.read_text()[-4000:]
            assert time.monotonic() < deadline_s
            time.sleep(0.5)
        code = running.interrupt()

    assert conditions[:2] == ["reporting", "dark"]
    assert code == -signal.SIGINT
    assert "Traceback" not in running.log.read_text()


@pytest.mark.timeout(1200)
def test_the_records_of_vms_are_counted_on_their_host(
    flink: None, own_kafka: RealKafka, folder: Path
) -> None:
    """A VM that migrates is counted on the target. Rounds are repeated: topics have no order between them."""
    for topic in (SAMPLES_TOPIC, STATES_TOPIC, MEMORY_TOPIC, HEADROOM_TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic, 3)
    producer = Producer({"bootstrap.servers": own_kafka.bootstrap, "log_level": 0})
    statistics = {"total_memory": 8 * GIB, "available_memory": 4 * GIB}

    def newest() -> dict[str, tuple[int, int]]:
        received = consume(own_kafka.bootstrap, [HEADROOM_TOPIC])
        documents = [json.loads(each.value) for each in received]
        return {each["host"]["id"]: (each["vms"], each["reclaimable"]["bytes"]) for each in documents}

    part = 4 * GIB - 8 * GIB // 5
    expected = [{HOSTS[0]: (1, part), HOSTS[1]: (0, 0)}, {HOSTS[0]: (0, 0), HOSTS[1]: (1, part)}]
    with job(folder / "job", "headroom", own_kafka.bootstrap, checkpoint_interval_ms=1_000) as running:
        running.start("--parallelism", "2")
        deadline_s, round_ = time.monotonic() + 900, 0
        for host, figures in enumerate(expected):
            while newest() != figures:
                round_ += 1
                at_s = T0_S + 60 * round_ - 10
                made = make(round_, epoch=host, host=host, last_update_s=at_s, statistics=statistics)
                producer.produce(SAMPLES_TOPIC, made.value, key=made.key)
                for key, value in (
                    vm_memory(0, host, round_),
                    vm_memory(0, 1 - host, round_, "paused"),
                    host_memory(0, round_),
                    host_memory(1, round_),
                ):
                    producer.produce(MEMORY_TOPIC, value, key=key)
                assert producer.flush(240) == 0
                assert running.is_running(), running.log.read_text()[-4000:]
                assert time.monotonic() < deadline_s, newest()
                time.sleep(1)
