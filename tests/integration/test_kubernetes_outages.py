"""A release on a real node during an outage of Kafka, and its use of CPU and memory."""

import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.accounts import once_each
from tests.integration.pods import (
    ADDRESS,
    AGENTS_USER,
    Release,
    as_user,
    documents,
    make_directory,
    of_vm,
    on_this_machine,
    to,
    topics_of,
)
from tests.lab import qemu
from tests.lab.kafka import RealKafka, consume, real_kafka
from tests.lab.kubernetes import Node
from tests.lab.observer import Observer
from tests.lab.prometheus import prometheus
from tests.lab.sim import simulated

pytestmark = [pytest.mark.guest, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def own_pods_kafka(node: Node, folder: Path) -> Generator[RealKafka]:
    """A broker of one test, which may kill it."""
    with real_kafka(folder / "kafka", host=ADDRESS) as broker:
        yield broker


def outage(released: Release, folder: Path, kafka: RealKafka, seconds: float) -> None:
    sockets = make_directory(folder / "run" / "vm", AGENTS_USER)
    topics = topics_of(kafka, folder)
    with (
        qemu.guest(sockets, "g0", command=as_user(AGENTS_USER)) as vm,
        Observer([vm.truth], folder) as observer,
    ):
        released.install(
            {
                "sockets": {"directory": str(sockets)},
                "config": {"kafka": to(kafka, topics), "polling": {"interval": "1s"}},
                **on_this_machine(folder),
            }
        )
        released.wait(lambda: len(documents(kafka, topics[0])) >= 3, "three samples")
        since_s = int(time.time())

        kafka.kill()
        until_s = time.monotonic() + seconds
        degraded = False
        while time.monotonic() < until_s:
            assert released.web("/readyz")[0] == 200
            assert (released.restarts, released.ready) == (0, True)
            degraded = degraded or '"degraded"' in released.web("/healthz")[1]
            time.sleep(1)
        waiting = [
            float(line.split()[-1])
            for line in released.web("/metrics")[1].splitlines()
            if line.startswith("barograph_queue_size") and "kafka.samples" in line
        ]
        assert degraded
        assert waiting
        assert waiting[0] >= seconds - 20
        back_s = int(time.time())
        kafka.start()
        released.wait(
            lambda: any(each["last_update"] > back_s for each in documents(kafka, topics[0])),
            "a sample from after the outage",
        )
        shown = observer.stop()[vm.truth]

    records = once_each(consume(kafka.bootstrap, [topics[0]]))
    arrived = [each["last_update"] for each in of_vm(records, "g0")]
    during = [each.last_update_s for each in shown if since_s <= each.last_update_s <= back_s]
    assert len(during) > seconds * 0.8
    assert [at_s for at_s in during if at_s not in arrived] == []
    print(f"Kafka down for {seconds} s: {len(during)} samples queued, all arrived, no restart, always ready")


@pytest.mark.timeout(900)
def test_an_outage_of_kafka_restarts_no_pod_and_loses_no_sample(
    released: Release, folder: Path, own_pods_kafka: RealKafka
) -> None:
    outage(released, folder, own_pods_kafka, 40)


@pytest.mark.timeout(900)
def test_an_outage_of_kafka_for_five_minutes_restarts_no_pod_and_loses_no_sample(
    released: Release, folder: Path, own_pods_kafka: RealKafka
) -> None:
    outage(released, folder, own_pods_kafka, 300)


@pytest.mark.timeout(900)
def test_a_hundred_vms_at_ten_seconds_use_less_than_the_requests(
    released: Release, folder: Path, pods_kafka: RealKafka
) -> None:
    sockets = make_directory(folder / "run" / "vm", AGENTS_USER)
    topics = topics_of(pods_kafka, folder)
    with simulated(sockets, vms=100), prometheus(folder / "prometheus", host=ADDRESS) as metrics:
        for path in sockets.glob("*.qmp"):
            os.chown(path, AGENTS_USER, AGENTS_USER)
        released.install(
            {
                "sockets": {"directory": str(sockets)},
                "config": {"kafka": to(pods_kafka, topics), "otlp": {"endpoint": metrics.otlp}},
                **on_this_machine(folder),
            }
        )
        released.wait(
            lambda: list(released.states().values()).count(("reporting", "advancing")) == 100, "100 reporting"
        )
        before_s, begun_s = released.cpu_s(), time.monotonic()
        time.sleep(120)
        used = (released.cpu_s() - before_s) / (time.monotonic() - begun_s)
        resident, most, group = released.memory_mib()

        print(
            f"100 VMs at 10 s: {used * 1000:.0f}m CPU, {resident:.0f} MiB resident, {most:.0f} at most, "
            f"{group:.0f} MiB in the container's cgroup"
        )
        assert released.restarts == 0
        assert used < 0.1  # the request
        assert most < 128  # the request
