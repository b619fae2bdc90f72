"""Tests with a broker or Collector that is down: collection continues, and queued records arrive later."""

import json
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.audit import WEB, audited
from tests.integration.conftest import need
from tests.integration.watching import Lines, conserved
from tests.lab import qemu
from tests.lab.agent import AgentProcess, agent
from tests.lab.collector import Collector
from tests.lab.kafka import RealKafka, consume, free_port, real_kafka

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu"), pytest.mark.timeout(900)]

WITH_LINES = {**WEB, "BAROGRAPH_LINES__ENABLED": "true"}
IMPATIENT = {
    **WITH_LINES,
    "BAROGRAPH_KAFKA__REQUEST_TIMEOUT": "1s",
    "BAROGRAPH_KAFKA__DELIVERY_TIMEOUT": "2s",
}


def said(process: AgentProcess, words: str) -> int:
    return process.stderr.read_text().count(words)


def outages_told(process: AgentProcess, sink: str) -> tuple[int, int]:
    """Return how often the log reports a sink unavailable, and available again."""
    lines = [line for line in process.stderr.read_text().splitlines() if f"sink={sink}" in line]
    away, back = (sum(words in line for line in lines) for words in ("sink unavailable", "available again"))
    return away, back


def outage(folder: Path, kafka: RealKafka, gone_s: float) -> None:
    kafka.create_topic("barograph.samples", 1)
    kafka.create_topic("barograph.states", 1)
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", kafka.bootstrap)
    with qemu.guest(folder, "g"), agent(folder, *arguments, env=IMPATIENT) as process, audited(process):
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")

        recovered = outages_told(process, "kafka.samples")[1]
        kafka.kill()
        before = len(lines.samples("g"))
        time.sleep(gone_s)
        # Collection does not wait.
        lines.wait(lambda: len(lines.samples("g")) >= before + gone_s * 0.8, "samples while it is gone")
        during = len(lines.samples("g")) - before
        kafka.start()
        lines.wait(
            lambda: outages_told(process, "kafka.samples")[1] > recovered, "the sink is available again", 240
        )
        count = len(lines.samples("g"))
        lines.wait(lambda: len(lines.samples("g")) >= count + 2, "two more samples")
        assert process.stop() == 0
        conserved(process)
        collected = [each["last_update"] for each in lines.samples("g")]

    records = consume(kafka.bootstrap, ["barograph.samples"])
    delivered = [json.loads(each.value)["last_update"] for each in records]
    told, told_again = outages_told(process, "kafka.samples")
    assert told - told_again in (0, 1), "one line for each outage"
    assert told < 5, "not one for each attempt"
    assert list(dict.fromkeys(delivered)) == collected
    assert len({each.headers["ce_id"] for each in records}) == len(collected)
    print(f"broker gone for {gone_s:.0f} s: {during} samples meanwhile, {len(collected)} in all, none lost")


def test_a_broker_gone_for_a_while_gets_everything_when_it_is_back(
    folder: Path, own_kafka: RealKafka
) -> None:
    outage(folder, own_kafka, 8)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("gone_s", [60, 600])
def test_a_broker_gone_for_long_gets_everything_when_it_is_back(
    folder: Path, own_kafka: RealKafka, gone_s: float
) -> None:
    outage(folder, own_kafka, gone_s)


@pytest.fixture
def strict_kafka(folder: Path) -> Generator[RealKafka]:
    """Yield a broker that does not create topics automatically."""
    need("kafka")
    with real_kafka(folder / "strict", auto_create_topics_enable="false") as broker:
        yield broker


def states_in(kafka: RealKafka) -> list[str]:
    """Return the states in the states topic, in order."""
    return [json.loads(each.value).get("state") for each in consume(kafka.bootstrap, ["barograph.states"])]


def without_a_topic(folder: Path, kafka: RealKafka, *, made_later: bool) -> None:
    kafka.create_topic("barograph.states", 1)
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", kafka.bootstrap)
    with qemu.guest(folder, "g"), agent(folder, *arguments, env=IMPATIENT) as process, audited(process):
        lines = Lines(process)
        lines.wait(lambda: said(process, "topic barograph.samples does not exist") >= 1, "the topic is named")
        lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")
        lines.wait(lambda: "reporting" in states_in(kafka), "the state, while the other topic is missing")
        if made_later:
            kafka.create_topic("barograph.samples", 1)
            lines.wait(lambda: outages_told(process, "kafka.samples")[1] >= 1, "the sink is available again")
        assert process.stop() == 0
        conserved(process)
        collected = [each["last_update"] for each in lines.samples("g")]

    totals = conserved(process)
    told, told_again = outages_told(process, "kafka.samples")
    assert told - told_again in (0, 1), "one line for each outage"
    if made_later:
        delivered = consume(kafka.bootstrap, ["barograph.samples"])
        assert [json.loads(each.value)["last_update"] for each in delivered] == collected
    else:
        assert totals["waiting.kafka.samples"] == len(collected)


def test_a_missing_topic_queues_its_own_records_only(folder: Path, strict_kafka: RealKafka) -> None:
    without_a_topic(folder, strict_kafka, made_later=False)


@pytest.mark.long
def test_a_topic_that_is_created_late_gets_everything(folder: Path, strict_kafka: RealKafka) -> None:
    without_a_topic(folder, strict_kafka, made_later=True)


@pytest.mark.long
def test_a_broker_back_at_another_port_gets_everything_where_the_list_names_both(
    folder: Path, own_kafka: RealKafka
) -> None:
    for topic in ("barograph.samples", "barograph.states"):
        own_kafka.create_topic(topic, 1)
    (broker,) = own_kafka.brokers
    before = broker.address
    broker.move()
    both = f"{before},{broker.address}"
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", both)
    with qemu.guest(folder, "g"), agent(folder, *arguments, env=IMPATIENT) as process, audited(process):
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")
        own_kafka.stop()
        lines.wait(lambda: said(process, "sink unavailable") >= 1, "the sink is unavailable")
        own_kafka.start()
        lines.wait(lambda: said(process, "sink available again") >= 1, "the sink is available again")
        assert process.stop() == 0
        conserved(process)
        collected = [each["last_update"] for each in lines.samples("g")]

    records = consume(own_kafka.bootstrap, ["barograph.samples"])
    assert list(dict.fromkeys(json.loads(each.value)["last_update"] for each in records)) == collected


def test_a_broker_absent_for_a_whole_run_gets_it_all_from_the_next_one(
    folder: Path, own_kafka: RealKafka
) -> None:
    for topic in ("barograph.samples", "barograph.states"):
        own_kafka.create_topic(topic, 1)
    own_kafka.kill()
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", own_kafka.bootstrap)
    collected: list[int] = []
    with qemu.guest(folder, "g"):
        with (
            agent(folder / "1", *arguments, state=folder / "state", env=IMPATIENT) as process,
            audited(process),
        ):
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 4, "four samples")
            assert process.stop() == 0
            assert conserved(process)["waiting.kafka.samples"] == len(lines.samples("g"))
            collected += [each["last_update"] for each in lines.samples("g")]
        own_kafka.start()
        with (
            agent(folder / "2", *arguments, state=folder / "state", env=IMPATIENT) as process,
            audited(process),
        ):
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 2, "two more samples")
            lines.wait(
                lambda: len(consume(own_kafka.bootstrap, ["barograph.samples"])) > len(collected), "delivery"
            )
            assert process.stop() == 0
            assert "waiting.kafka.samples" not in conserved(process)
            collected += [each["last_update"] for each in lines.samples("g")]

    records = consume(own_kafka.bootstrap, ["barograph.samples"])
    assert list(dict.fromkeys(json.loads(each.value)["last_update"] for each in records)) == collected


def test_a_broker_absent_at_start_and_for_good_costs_only_what_does_not_fit(folder: Path) -> None:
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", f"127.0.0.1:{free_port()}")
    env = {
        **WITH_LINES,
        "BAROGRAPH_SPOOL__MODE": "none",
        "BAROGRAPH_BUFFER__SIZE": "64KiB",
        "BAROGRAPH_POLLING__HEARTBEAT": "1s",  # more records a second
        "BAROGRAPH_SHUTDOWN__DEADLINE": "2s",
    }
    with qemu.guest(folder, "g") as vm, agent(folder, *arguments, env=env) as process, audited(process):
        lines = Lines(process)
        lines.wait_for_state(vm.qmp, "reporting")
        lines.wait(lambda: "dropped/kafka.states:full" in process.stdout.read_text(), "a drop, counted", 240)
        begun_s = time.monotonic()
        assert process.stop() == 0
        took_s = time.monotonic() - begun_s

    assert took_s < 2 + 25  # the deadline, and the end of the interpreter on a busy machine
    assert said(process, "sink unavailable") == 2  # one for each topic
    totals = conserved(process)
    assert totals["dropped.kafka.states:full"] > 0
    assert totals["dropped.kafka.samples:shutdown"] > 0


def test_a_collector_down_at_start_and_later_gets_the_newest_values_when_it_is_back(
    folder: Path, own_collector: Collector
) -> None:
    own_collector.stop()
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--otlp", own_collector.http)
    env = {**WITH_LINES, "BAROGRAPH_OTLP__INTERVAL": "1s", "BAROGRAPH_OTLP__TIMEOUT": "1s"}
    with qemu.guest(folder, "g") as vm, agent(folder, *arguments, env=env) as process, audited(process):
        lines = Lines(process)
        lines.wait_for_state(vm.qmp, "reporting")
        lines.wait(lambda: len(lines.samples("g")) >= 4, "samples without a Collector")
        own_collector.start()

        def points_of_vms() -> int:
            return len([each for each in own_collector.points() if each.name.startswith("qemu.vm.guest.")])

        lines.wait(lambda: points_of_vms() > 0, "points once the Collector runs")
        own_collector.stop()
        count = len(lines.samples("g"))
        lines.wait(lambda: len(lines.samples("g")) >= count + 4, "samples while it is gone")
        points = points_of_vms()
        own_collector.start()
        lines.wait(lambda: points_of_vms() > points, "points when it is back")
        assert process.stop() == 0

    assert "stopped" in process.stderr.read_text()
