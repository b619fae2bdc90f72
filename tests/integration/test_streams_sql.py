"""Test of streams/sql on a real Flink and a real Kafka: the newest rows are those of a plain reader."""

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.contract.schema_files import examples, load
from tests.integration.conftest import need
from tests.lab.flink import STREAMS, job
from tests.lab.kafka import RealKafka, consume
from tests.unit.streams.making import vm_id

SINKS = ("barograph.fleet.vms", "barograph.fleet.hosts", "barograph.fleet.memory")
EXAMPLES: dict[str, Any] = {
    name: load(examples(name, "valid")[0]) for name in ("pressure", "quality", "host-quality", "headroom")
}

Sent = tuple[str, str, dict[str, Any]]
"""Topic, key and document."""


def sent(seed: int) -> list[Sent]:
    """Return records of the jobs about some VMs and hosts, in the order of writing."""
    chance = random.Random(seed)
    records: list[Sent] = []
    for _ in range(300):
        vm, host = vm_id(chance.randrange(20)), f"host-{chance.randrange(5)}"
        level = chance.choice(["none", "low", "pressure", "oom"])
        condition = chance.choice(["reporting", "reporting", "silent", "void", "gone"])
        of_host = {"id": host, "name": host, "labels": {"cluster": "ab"[int(host[-1]) % 2]}}
        kind, more = chance.choice(
            [
                ("pressure", {"vm": {"id": vm}, "level": level}),
                ("quality", {"vm": {"id": vm}, "condition": condition}),
                ("host-quality", {"host": of_host, "condition": chance.choice(["reporting", "dark"])}),
                ("headroom", {"host": of_host, "headroom_bytes": chance.randrange(10**12)}),
            ]
        )
        document = EXAMPLES[kind] | more
        if kind == "headroom" and chance.random() < 0.3:
            document = {name: document[name] for name in ("schema", "host", "sequence", "observed_at_ms")}
            document |= {"condition": "void", "heartbeat": False}
        key = vm if "vm" in more else host
        records += [(document["schema"].split("/")[0], key, document)] * chance.choice([1, 1, 2])
    return records


def expected(records: list[Sent]) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return VMs by status, hosts by condition, and headroom by cluster."""
    newest = {(topic, key): document for topic, key, document in records}
    levels = {key: each["level"] for (topic, key), each in newest.items() if topic == "barograph.vm.pressure"}
    vms, hosts, memory = Counter[str](), Counter[str](), Counter[str]()
    for (topic, key), document in newest.items():
        if topic == "barograph.vm.quality":
            reports = document["condition"] == "reporting"
            vms[levels.get(key, "none") if reports else document["condition"]] += 1
        elif topic == "barograph.host.quality":
            hosts[document["condition"]] += 1
        elif topic == "barograph.host.headroom" and document["condition"] == "current":
            memory[document["host"]["labels"]["cluster"]] += document["headroom_bytes"]
    return vms, hosts, memory


@pytest.mark.timeout(1200)
def test_the_fleet_at_a_glance_is_that_of_the_newest_records(own_kafka: RealKafka, folder: Path) -> None:
    need("flink")
    records = sent(seed=5)
    for topic in {topic for topic, _, _ in records}:
        own_kafka.create_topic(topic, 3)
    for topic in SINKS:
        own_kafka.create_topic(topic, 1)
    file = folder / "fleet.sql"
    file.write_text(
        (STREAMS / "sql" / "fleet.sql").read_text().replace("localhost:9092", own_kafka.bootstrap)
    )
    producer = Producer({"bootstrap.servers": own_kafka.bootstrap, "log_level": 0})

    def newest() -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        found: dict[str, dict[str, int]] = {topic: {} for topic in SINKS}
        for each in consume(own_kafka.bootstrap, SINKS):
            (name,) = json.loads(each.key).values()
            row: dict[str, int] = json.loads(each.value) if each.value else {}
            found[each.topic].pop(name, None)
            if row:  # a row without a value has been deleted
                found[each.topic][name] = row["headroom_bytes" if "memory" in each.topic else list(row)[1]]
        return found[SINKS[0]], found[SINKS[1]], found[SINKS[2]]

    with job(folder / "job", "pressure", own_kafka.bootstrap) as running:
        running.start_sql(file)
        deadline_s = time.monotonic() + 900
        half = len(records) // 2
        for start, part in ((0, records[:half]), (half, records[half:])):
            for topic, key, document in part:
                producer.produce(topic, json.dumps(document).encode(), key=key)
            producer.produce("barograph.vm.quality", b"{", key="x")
            assert producer.flush(240) == 0
            while newest() != expected(records[: start + len(part)]):
                assert running.is_running(), running.log.read_text()[-4000:]
                assert time.monotonic() < deadline_s, (newest(), expected(records[: start + len(part)]))
                time.sleep(1)
