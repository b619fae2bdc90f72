"""Tests of the main job with real guests, Kafka and Collector, compared with a second monitor."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.collector import Collector, problems
from tests.lab.kafka import RealKafka, Received, consume
from tests.lab.measure import Arrived, Shown, compare, quantile
from tests.lab.observer import Observer
from tests.lab.process import wait_until

pytestmark = [
    pytest.mark.guest,
    pytest.mark.alone,
    pytest.mark.paired,
    pytest.mark.usefixtures("real_qemu"),
]


def samples_of(records: Sequence[Received], name: str) -> list[Arrived]:
    documents = [json.loads(record.value) for record in records if record.topic.endswith("samples")]
    return [
        Arrived(each["last_update"], each["observed_at_ms"], each["sequence"], each["statistics"])
        for each in documents
        if each["vm"]["name"] == name
    ]


def guest_points_are_updates(collected: Collector, shown: dict[str, list[Shown]]) -> int:
    """Assert that each guest value is one the observer saw at that time; return how many there were."""
    checked = 0
    times = {name: {update.last_update_s for update in updates} for name, updates in shown.items()}
    free = {
        (name, update.last_update_s, update.statistics.get("free_memory"))
        for name, updates in shown.items()
        for update in updates
    }
    for point in collected.points():
        if point.name.startswith(("qemu.vm.guest.", "qemu.vm.pressure.")):
            name = point.about("qemu.vm.name")
            assert name is not None
            assert point.time_ns // 10**9 in times[name], point
            if point.name == "qemu.vm.guest.memory.free":
                assert (name, point.time_ns // 10**9, int(point.value)) in free, point
                checked += 1
    return checked


def run_main_job(folder: Path, kafka: RealKafka, collected: Collector, seconds: float) -> None:
    topics = [f"{folder.name}.samples", f"{folder.name}.states"]
    for topic in topics:
        kafka.create_topic(topic)
    with ExitStack() as stack:
        vms = [stack.enter_context(qemu.guest(folder, f"g{number}", booted=False)) for number in range(3)]
        for vm in vms:
            vm.wait_until_booted()
        vms[1].order("churn")
        observer = Observer([vm.truth for vm in vms], folder)
        process = stack.enter_context(
            agent(
                folder,
                *("--monitor", f"{folder}/*.qmp", "--interval", "1s"),
                *("--kafka", kafka.bootstrap, "--otlp", collected.http),
                env={
                    "BAROGRAPH_KAFKA__SAMPLES_TOPIC": topics[0],
                    "BAROGRAPH_KAFKA__STATES_TOPIC": topics[1],
                    "BAROGRAPH_OTLP__INTERVAL": "500ms",
                },
            )
        )
        wait_until(
            lambda: process.stderr.read_text().count("state=reporting") >= len(vms),
            "all VMs are reporting",
            process.process,
            process.stderr,
            120,
        )
        time.sleep(seconds)
        until_ms = time.time() * 1000 - 500
        time.sleep(1)  # time to read the last updates
        assert process.stop() == 0
        seen = observer.stop()
        shown = {vm.name: seen[vm.truth] for vm in vms}

    records = consume(kafka.bootstrap, topics)
    lags: list[float] = []
    for vm in vms:
        arrived = samples_of(records, vm.name)
        found = compare(shown[vm.name], arrived, until_ms=until_ms)
        lags += found.lags_ms
        assert found.updates >= seconds * 0.6  # a guest that is emulated on a busy machine may be late
        assert (found.lost, found.invented, found.repeated, found.wrong) == ((), (), (), ())
        assert not found.disordered
        assert [each.sequence for each in arrived] == list(range(1, len(arrived) + 1))
    assert len({record.headers["ce_id"] for record in records}) == len(records)
    assert problems(collected.points()) == []
    assert guest_points_are_updates(collected, shown) >= seconds
    totals = json.loads(next(r for r in reversed(records) if b"agent.state" in r.headers["ce_type"]).value)[
        "counters"
    ]
    recorded = totals["samples"]
    sent = len([point for point in collected.points() if point.name == "qemu.vm.guest.memory.free"])
    own = [point.value for point in collected.points() if point.name == "barograph.samples"]
    assert own[-1] == recorded  # the agent's own telemetry, exported once more at the end
    # The last record was written before the last cycle was sent, so it does not count that cycle.
    assert 0 <= recorded - sent - totals.get("otlp_samples_passed_over", 0) <= len(vms)
    print(
        f"lag p50 {quantile(lags, 0.5):.1f} ms, p99 {quantile(lags, 0.99):.1f} ms;"
        f" {recorded} samples, {sent} by OTLP"
    )


def test_every_update_is_a_sample_in_kafka_and_every_point_an_update(
    folder: Path, shared_kafka: RealKafka, own_collector: Collector
) -> None:
    run_main_job(folder, shared_kafka, own_collector, 20)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_update_is_a_sample_for_a_minute(
    folder: Path, shared_kafka: RealKafka, own_collector: Collector
) -> None:
    run_main_job(folder, shared_kafka, own_collector, 60)
