"""Tests of `barograph topics` with a real broker: its findings, the topics it creates, its commands."""

import json
import shlex
import subprocess
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli
from agent.sinks.kafka_settings import Sasl, Settings
from agent.sinks.record_sink import Receipt
from tests.integration.conftest import need
from tests.integration.kafka_sinks import sink_to
from tests.lab import setup
from tests.lab.kafka import RealKafka, real_kafka
from tests.lab.process import free_port
from tests.unit.sinks.records import record

HOST = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one"}
AGENT = Sasl(mechanism="PLAIN", username="it's the agent", password="hunter2")
PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
CLASSES = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
}
"""The classes that the scripts in Kafka's bin/ run."""

DAY_MS = 86_400_000
GOOD = {"retention_ms": str(14 * DAY_MS)}
W, E = "warning", "error"
BAD: list[tuple[int, dict[str, str], str, str]] = [
    (1, GOOD, "partitions", W),
    (3, {"retention_ms": "3600000"}, "retention", E),
    (3, {"retention_ms": str(7 * DAY_MS + 1)}, "retention", W),
    (3, GOOD | {"retention_bytes": "1000000"}, "retention-bytes", W),
    (3, GOOD | {"cleanup_policy": "compact"}, "cleanup", E),
    (3, GOOD | {"max_message_bytes": "2000"}, "message-size", E),
    (3, GOOD | {"max_message_bytes": "200000"}, "message-size", W),
    (3, GOOD | {"min_insync_replicas": "2"}, "in-sync", E),
    (3, GOOD | {"message_timestamp_type": "LogAppendTime"}, "timestamps", W),
    (3, GOOD | {"message_timestamp_before_max_ms": "3600000"}, "timestamps", W),
    (3, GOOD | {"compression_type": "lz4"}, "compression", W),
]


@pytest.fixture(scope="module")
def broker(session_folder: Path) -> Generator[RealKafka]:
    """Yield a broker with a listener that allows everything, and one with logins and ACLs."""
    need("kafka")
    login = free_port()
    settings = {
        "listeners": f"LOGIN://127.0.0.1:{login}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": (
            f'{PLAIN_LOGIN} user_admin="secret" "user_{AGENT.username}"="{AGENT.password}";'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
        "auto.create.topics.enable": "false",
    }
    with real_kafka(session_folder / "topics", **settings) as kafka:
        yield kafka


@pytest.fixture
def names() -> dict[str, str]:
    """Return a new name for each topic of the settings, by the kind of its records."""
    mark = uuid.uuid4().hex[:8]
    return {kind: f"{kind}-{mark}" for kind in Settings(bootstrap_servers=()).topics()}


def topics(words: str, address: str, names: Mapping[str, str], sasl: Sasl | None = None) -> Result:
    environ = {f"BAROGRAPH_KAFKA__{kind.upper()}_TOPIC": name for kind, name in names.items()}
    login = {} if sasl is None else {
        "BAROGRAPH_KAFKA__SASL__MECHANISM": sasl.mechanism,
        "BAROGRAPH_KAFKA__SASL__USERNAME": sasl.username,
        "BAROGRAPH_KAFKA__SASL__PASSWORD": sasl.password,
    }  # fmt: skip
    command = ["topics", *words.split(), "--kafka", address]
    return CliRunner().invoke(cli, command, env={**HOST, **environ, **login}, prog_name="barograph")


def findings(done: Result, topic: str) -> dict[str, str]:
    """Return the levels of one topic's findings by code, without those that are `ok`."""
    found: list[Mapping[str, Any]] = json.loads(done.stdout)["findings"]
    return {each["code"]: each["level"] for each in found if each["topic"] == topic and each["level"] != "ok"}


def run_by_hand(line: str, folder: Path) -> str:
    """Run a printed command as a shell would, with the classes of the script that it names."""
    login = f'{PLAIN_LOGIN} username="admin" password="secret";'
    properties = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.jaas.config": login}
    (folder / "admin.properties").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    script, *words = shlex.split(line)
    classes = f"{setup.kafka()}/*:{setup.kafka_tools()}/*"
    command = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", classes, CLASSES[script], *words]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize(("partitions", "config", "code", "level"), BAD)
def test_each_finding_on_a_real_topic(
    broker: RealKafka,
    names: dict[str, str],
    partitions: int,
    config: Mapping[str, str],
    code: str,
    level: str,
) -> None:
    samples = names["samples"]
    others = [name for name in names.values() if name != samples]
    broker.create_topic(samples, partitions, **config)
    for other in others:
        broker.create_topic(other, 3, **GOOD)

    done = topics("check -o json", broker.bootstrap, names)

    assert findings(done, samples) == {code: level, "replicas": "warning"}
    assert all(findings(done, other) == {"replicas": "warning"} for other in others)
    assert done.exit_code == (level == "error")


def test_create_creates_missing_topics_and_changes_no_others(
    broker: RealKafka, names: dict[str, str], tmp_path: Path
) -> None:
    samples, states = names["samples"], names["states"]
    broker.create_topic(states, 1, retention_ms="3600000")

    first = topics("create --vms 4000", broker.bootstrap, names)
    second = topics("create -o json", broker.bootstrap, names)

    assert f"created {samples}: 8 partitions, 1 replica" in first.stdout
    assert first.exit_code == second.exit_code == 1  # the retention of the states
    document = json.loads(second.stdout)
    assert (document["created"], document["not_created"]) == ([], [])
    assert findings(second, samples) == {"replicas": "warning"}
    assert findings(second, states) == {
        "partitions": "warning", "replicas": "warning", "retention": "error"
    }  # fmt: skip
    need("kafka-tools")
    for finding in document["findings"]:
        if finding["topic"] == states and finding["command"]:
            run_by_hand(finding["command"], tmp_path)
    assert findings(topics("check -o json", broker.bootstrap, names), states) == {"replicas": "warning"}


@pytest.mark.timeout(2400)  # each printed command starts a JVM
def test_the_printed_commands_are_enough_for_the_agent_and_no_more(
    broker: RealKafka, names: dict[str, str], tmp_path: Path
) -> None:
    need("kafka-tools")
    login = broker.brokers[0].listener("LOGIN")
    samples = names["samples"]

    before = topics("check -o json", login, names, AGENT)
    assert before.exit_code == 1
    assert findings(before, samples) == {"write": "error"}
    assert {each["code"]: each["level"] for each in json.loads(before.stdout)["findings"]}[
        "idempotence"
    ] == "error"
    assert topics("create", login, names, AGENT).exit_code == 1

    printed = topics("create --dry-run --replication-factor 1", login, names, AGENT)
    lines = [line for line in printed.stdout.splitlines() if not line.startswith("#")]
    for line in lines:
        run_by_hand(line, tmp_path)

    listed = run_by_hand(
        shlex.join(["kafka-acls.sh", "--bootstrap-server", broker.bootstrap, "--list"]), tmp_path
    )
    mine = [line.strip() for line in listed.splitlines() if AGENT.username in line]
    assert len(mine) == len(names)
    assert all("operation=WRITE, permissionType=ALLOW" in line for line in mine)

    async def deliver() -> None:
        for topic in names.values():
            sink = sink_to(login, topic, sasl=AGENT)
            assert await sink.send([record(1)]) == Receipt()
            await sink.aclose()

    anyio.run(deliver)
    after = topics("check -o json", login, names, AGENT)
    assert after.exit_code == 0, after.stdout
    assert findings(after, samples) == {"config": "warning", "replicas": "warning"}


def test_a_user_that_may_not_create_topics_gets_the_commands(
    broker: RealKafka, names: dict[str, str], tmp_path: Path
) -> None:
    need("kafka-tools")
    login = broker.brokers[0].listener("LOGIN")
    printed = topics("create --dry-run", login, names, AGENT).stdout.splitlines()
    for line in printed:
        if line.startswith("kafka-acls.sh"):
            run_by_hand(line, tmp_path)

    done = topics("create", login, names, AGENT)

    assert done.exit_code == 1
    for topic in names.values():
        assert f"not created {topic}: " in done.stdout
        assert f"--create --if-not-exists --topic {topic} --partitions 6" in done.stdout
