"""Test of the noisy-guest job on a real Flink and a real Kafka: both steps, compared with the core."""

import json
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from barograph_streams.core.jobs import JOBS, MEMORY_TOPIC, SAMPLES_TOPIC, STATES_TOPIC
from barograph_streams.core.noise_job import TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.integration.conftest import need
from tests.lab.flink import job
from tests.lab.kafka import RealKafka, consume
from tests.unit.streams.hosting import Fleet, pressed_round

ROUNDS = 14


@pytest.mark.timeout(1200)
def test_a_guest_that_grows_while_its_host_waits_is_noisy(own_kafka: RealKafka, folder: Path) -> None:
    """With one partition and one task, the records are those of the core."""
    need("flink")
    for topic in (SAMPLES_TOPIC, STATES_TOPIC, MEMORY_TOPIC, TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic, 1)
    fleet = Fleet(JOBS["noisy-guest"])
    producer = Producer({"bootstrap.servers": own_kafka.bootstrap, "log_level": 0})
    for round_ in range(ROUNDS):
        records = pressed_round(round_)
        fleet.round(*records)
        for key, value in records:
            producer.produce(MEMORY_TOPIC, value, key=key)
    assert producer.flush(60) == 0

    with job(folder / "job", "noisy-guest", own_kafka.bootstrap, checkpoint_interval_ms=1_000) as running:
        running.start()
        deadline_s = time.monotonic() + 900
        found = []
        while not found:
            assert running.is_running(), running.log.read_text()[-4000:]
            assert time.monotonic() < deadline_s, found
            time.sleep(1)
            found = [json.loads(each.value) for each in consume(own_kafka.bootstrap, [TOPIC])]

    assert [each["level"] for each in fleet.written] == ["noisy"]
    assert found[:1] == fleet.written  # once the host is dark, another one follows
