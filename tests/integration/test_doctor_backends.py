"""`barograph doctor` with a real Kafka, a real Collector and a real libvirt."""

import time
from pathlib import Path

import pytest

from tests.integration.conftest import need
from tests.integration.domains import with_bindings
from tests.integration.test_doctor import checked, checked_until
from tests.lab import polkit
from tests.lab.agent import barograph
from tests.lab.collector import collector
from tests.lab.kafka import kafka_cluster, real_kafka
from tests.lab.libvirt import QEMU_USER, libvirtd

TOPIC = "barograph.samples"
OTHER = 1234
"""A user without rights."""
NOBODY = 65534  # libvirt passes the names of users to polkit, so the user must have one

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


@pytest.mark.alone  # three brokers need the whole machine: their session timeout is 3 s
def test_a_partition_without_a_leader_until_its_broker_is_back(folder: Path) -> None:
    need("kafka")
    with kafka_cluster(folder / "kafka") as kafka:
        kafka.create_topic_on(TOPIC, [[1], [2], [3]])

        words = ("--pre", "--kafka", kafka.bootstrap)
        # The brokers learn of a new leader at different times, so one answer does not predict the next.
        checked_until(folder, "topic-leaders", "ok", *words)
        kafka.brokers[2].kill()
        without = checked_until(folder, "topic-leaders", "error", *words)
        kafka.brokers[2].begin()
        checked_until(folder, "topic-leaders", "ok", *words)

    assert without["broker-connect"] == "warning"  # the other two work


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


def as_user(group: int, user: int = OTHER) -> tuple[str, ...]:
    """Return a command that runs its arguments as a user in this group, with root's right to read files."""
    words = ("setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={group}")
    return (*words, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@pytest.mark.usefixtures("real_libvirt")
def test_a_user_who_may_not_manage_vms_until_in_the_group_of_libvirt(folder: Path) -> None:
    config = 'unix_sock_group = "libvirt-qemu"\nunix_sock_rw_perms = "0770"\n'
    with libvirtd(folder, "one", config=config) as daemon:
        words, env = ("--pre", "--libvirt", daemon.uri), with_bindings(HOME=str(folder))
        denied = checked(folder, *words, within=as_user(OTHER), **env)
        allowed = checked(folder, *words, within=as_user(QEMU_USER), **env)

    assert denied["libvirt-permission"] == "error"
    assert denied["libvirt-reachable"] == "ok"
    assert allowed["libvirt-permission"] == "ok"


@pytest.mark.usefixtures("real_libvirt")
@pytest.mark.parametrize("place", ["uri", "socket"], ids=["configured", "found, through a relay"])
def test_a_user_whom_polkit_does_not_allow_to_manage_vms_until_it_has_a_rule(
    folder: Path, place: str
) -> None:
    need("polkit")
    with (
        libvirtd(folder, "one", config=polkit.CONFIG) as daemon,
        polkit.polkit(folder / "p", daemon) as asked,
    ):
        words, env = ("--pre", "--libvirt", str(getattr(daemon, place))), with_bindings(HOME=str(folder))
        within = polkit.inside(daemon, *as_user(NOBODY, NOBODY))
        denied = checked(folder, *words, within=within, **env)
        asked.allow("nobody")
        deadline_s = time.monotonic() + 120  # polkit sees the new rule some time later
        while (allowed := checked(folder, *words, within=within, **env))["libvirt-permission"] != "ok":
            assert time.monotonic() < deadline_s, allowed

    assert denied["libvirt-permission"] == "error"
    assert denied["libvirt-reachable"] == "ok"
