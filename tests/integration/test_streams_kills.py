"""Test of a stream job that is killed repeatedly under load: complete, with only the documented repeats.

`BAROGRAPH_STREAMS_KILLS` is the number of kills, 20 by default. Every other one comes after a commit, so that
there is a checkpoint to restore; the others come as soon as a transaction has records. In between, the broker
is killed once, and the checkpoints are lost once: from then on the job writes all records again.
"""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer

from barograph_streams.core.jobs import SAMPLES_TOPIC
from barograph_streams.core.pressure_job import TOPIC as PRESSURE_TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.integration.conftest import need
from tests.integration.test_streams import written_to
from tests.lab.flink import job
from tests.lab.kafka import RealKafka
from tests.unit.streams.mixing import Sent, count, mixed, written

KILLS = int(os.environ.get("BAROGRAPH_STREAMS_KILLS", "20"))
PARALLELISM = (1, 2, 4)
ROUND_S = 600

Written = dict[str, list[bytes]]


class Load(threading.Thread):
    """Produces a stream in parts, so that each kill hits a busy job, even while the broker restarts."""

    def __init__(self, bootstrap: str, stream: Sequence[Sent]) -> None:
        super().__init__(daemon=True)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "log_level": 0,
            }
        )
        self._stream = stream
        self.allowed = threading.Semaphore(0)
        """Released once for each part of the stream that may be sent."""

    def run(self) -> None:
        """Send a part whenever it is allowed."""
        size = -(-len(self._stream) // (KILLS + 1))
        for begin in range(0, len(self._stream), size):
            self.allowed.acquire()
            for key, value in self._stream[begin : begin + size]:
                self._producer.produce(SAMPLES_TOPIC, value, key=key)
                self._producer.poll(0.001)
        self._producer.flush()


def records(kafka: RealKafka, *, committed: bool) -> int:
    """Return how many records the job has written, in committed transactions or in any."""
    return count(written_to(kafka, committed=committed)[0])


def is_complete(found: Written, expected: Written) -> bool:
    """Return whether the records of each VM end with all the expected ones."""
    return all(found.get(key, [])[-len(values) :] == values for key, values in expected.items())


@pytest.mark.long
@pytest.mark.timeout(14_400)
def test_a_job_killed_many_times_is_complete_and_repeats_only_after_lost_checkpoints(
    own_kafka: RealKafka, folder: Path
) -> None:
    need("flink")
    stream = mixed(seed=11, vms=60, samples=20 * (KILLS + 1))
    expected, dead = written(stream)
    for topic in (SAMPLES_TOPIC, PRESSURE_TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic, 4)
    load = Load(own_kafka.bootstrap, stream)
    load.start()
    lost_at, broker_at = KILLS // 2, KILLS // 4
    with job(folder / "job", "pressure", own_kafka.bootstrap, checkpoint_interval_ms=1_000) as running:
        for number in range(KILLS):
            after_commit = number % 2 == 1
            seen = 0 if number == 0 else records(own_kafka, committed=after_commit)
            running.start("--parallelism", str(PARALLELISM[number % len(PARALLELISM)]))
            load.allowed.release()
            deadline_s = time.monotonic() + ROUND_S
            while records(own_kafka, committed=after_commit) <= seen:
                assert running.is_running(), running.log.read_text()[-4000:]
                assert time.monotonic() < deadline_s, f"kill {number}: no record after {ROUND_S} s"
            if number == broker_at:
                own_kafka.kill()
                own_kafka.start()
            running.kill()
            if number == lost_at:
                shutil.rmtree(folder / "job" / "checkpoints")
        load.allowed.release(2)
        running.start()
        deadline_s = time.monotonic() + ROUND_S
        while not is_complete(found := written_to(own_kafka)[0], expected):
            assert running.is_running(), running.log.read_text()[-4000:]
            assert time.monotonic() < deadline_s, f"{count(found)} records, {count(expected)} expected"
        found_dead = written_to(own_kafka)[1]
        restored = running.log.read_text().count("restoring from")

    load.join(60)
    assert found.keys() == expected.keys()
    again = {key: values[: -len(expected[key])] for key, values in found.items()}
    print(f"{KILLS} kills, {restored} restored checkpoints")
    print(f"{count(found)} records, {count(again)} of them before the loss of the checkpoints")
    assert {key: expected[key][: len(values)] for key, values in again.items()} == again
    assert count(again) > 0
    assert restored >= KILLS // 2 - 1
    assert set(found_dead) == set(dead)
