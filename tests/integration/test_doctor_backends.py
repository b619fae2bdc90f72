"""`barograph doctor` with a real Kafka, a real Collector and a real libvirt."""

from pathlib import Path

import pytest

from tests.integration.conftest import need
from tests.integration.domains import with_bindings
from tests.integration.test_doctor import checked
from tests.lab.agent import barograph
from tests.lab.collector import collector
from tests.lab.kafka import real_kafka
from tests.lab.libvirt import libvirtd

pytestmark = pytest.mark.timeout(900)


def test_the_topics_are_missing_until_they_are_created(folder: Path) -> None:
    need("kafka")
    with real_kafka(folder / "kafka", auto_create_topics_enable="false") as kafka:
        words = ("--pre", "--kafka", kafka.bootstrap)
        before = checked(folder, *words)
        done = barograph("topics", "create", "--kafka", kafka.bootstrap)
        after = checked(folder, *words)

    assert before["broker-connect"] == before["broker-protocol"] == before["broker-advertised"] == "ok"
    assert before["topic-exists"] == "error"
    assert done.returncode == 0, done.stderr
    assert after["topic-exists"] == after["topic-write"] == after["topic-retention"] == "ok"
    assert after["topic-replicas"] == "warning"  # one broker


def test_a_broker_that_advertises_another_name(folder: Path) -> None:
    need("kafka")
    with real_kafka(folder / "kafka") as kafka:
        host, port = kafka.bootstrap.split(":")
        levels = checked(folder, "--pre", "--kafka", f"nowhere.invalid:{port},{host}:{port}")

    assert levels["broker-resolve"] == "warning"  # another bootstrap server works
    assert levels["broker-advertised"] == "ok"


def test_a_collector_without_a_pipeline_for_logs_until_it_has_one(folder: Path) -> None:
    need("collector")
    for logs in (False, True):
        (folder / str(logs)).mkdir()
        with collector(folder / str(logs), logs=logs) as running:
            for protocol, endpoint in (("http", running.http), ("grpc", running.grpc)):
                levels = checked(folder, "--pre", "--otlp", endpoint, BAROGRAPH_OTLP__PROTOCOL=protocol)
                assert levels["otlp-accepted"] == "ok", levels
                assert levels["otlp-logs"] == ("ok" if logs else "warning"), levels


@pytest.mark.usefixtures("real_libvirt")
def test_a_libvirt_that_hangs_and_one_that_has_ended(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        words, env = ("--pre", "--libvirt", daemon.uri), with_bindings()
        works = checked(folder, *words, **env)
        daemon.stop()
        try:
            hangs = checked(folder, *words, **env)
        finally:
            daemon.cont()
        daemon.kill()
        ended = checked(folder, *words, **env)

    assert [works[f"libvirt-{each}"] for each in ("bindings", "answers", "reachable", "permission")] == [
        "ok"
    ] * 4
    assert hangs["libvirt-answers"] == "error"
    assert ended["libvirt-reachable"] == "error"
