"""Tests of `barograph topics` without a cluster: what it prints, and how it ends if no broker answers."""

import json
import shlex
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli

HOST = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one"}
SASL = {
    "BAROGRAPH_KAFKA__SASL__MECHANISM": "SCRAM-SHA-512",
    "BAROGRAPH_KAFKA__SASL__USERNAME": "agents; rm -r /",
    "BAROGRAPH_KAFKA__SASL__PASSWORD": "correct-horse",
}


def topics(words: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, ["topics", *words.split()], env=HOST | environ, prog_name="barograph")


def test_a_dry_run_prints_every_topic_of_the_settings_and_connects_to_nothing() -> None:
    done = topics(
        "create --dry-run --kafka nowhere.invalid:9092",
        BAROGRAPH_KAFKA__SAMPLES_TOPIC="vm.samples",
        BAROGRAPH_SPOOL__AGE="2d",
        **SASL,
    )

    assert (done.exit_code, done.stderr) == (0, "")
    lines = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    created = [line[line.index("--topic") + 1] for line in lines if line[0] == "kafka-topics.sh"]
    assert created[:2] == ["vm.samples", "barograph.states"]
    allowed = [line for line in lines if line[0] == "kafka-acls.sh"]
    assert [line[-1] for line in allowed] == created
    assert all("User:agents; rm -r /" in line for line in allowed)
    assert all(f"--config=retention.ms={9 * 86_400_000}" in line for line in lines if "--create" in line)
    assert "correct-horse" not in done.stdout


def test_a_dry_run_in_json() -> None:
    done = topics("create --print -o json --kafka a:9092 --principal User:x --vms 5000")

    commands = json.loads(done.stdout)["commands"]
    assert any("--partitions 10 --replication-factor 3" in command for command in commands)
    assert commands[-1].startswith("kafka-acls.sh --bootstrap-server a:9092 --add --allow-principal User:x ")


def test_without_another_configuration_the_installed_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "barograph.yaml"
    file.write_text("kafka: {bootstrap_servers: ['installed.invalid:9092']}")
    monkeypatch.setattr("agent.cli.topics.INSTALLED", str(file))

    assert "installed.invalid:9092" in topics("create --dry-run").stdout
    assert "installed.invalid" not in topics("create --dry-run --kafka other.invalid:9092").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check", "kafka.bootstrap_servers: not set"),
        ("create --kafka a:9092 --retention 7d", "--retention: 7d is not longer than spool.age"),
        ("create --kafka a:9092 --retention soon", "--retention: "),
        (
            "create --kafka a:9092 --replication-factor 1 --min-insync-replicas 2",
            "--min-insync-replicas: 2 is more than --replication-factor",
        ),
    ],
)
def test_impossible_settings_are_refused(words: str, message: str) -> None:
    done = topics(words)

    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("command", ["check", "create"])
def test_the_command_fails_if_no_broker_answers(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and does not answer
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = topics(
            f"{command} --kafka {address}",
            BAROGRAPH_KAFKA__REQUEST_TIMEOUT="300ms",
            BAROGRAPH_KAFKA__DELIVERY_TIMEOUT="1s",
        )

    assert (done.exit_code, done.stdout) == (3, "")
    assert f"no answer from Kafka: kafka: kafka.bootstrap_servers: {address} does not answer" in done.stderr


def test_all_attempts_together_have_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        servers = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))
        done = topics(
            f"check --kafka {servers}",
            BAROGRAPH_KAFKA__REQUEST_TIMEOUT="1s",
            BAROGRAPH_KAFKA__DELIVERY_TIMEOUT="1s",
        )

    assert done.exit_code == 3
    assert "cannot be used" not in done.stderr
    assert "no answer from Kafka: kafka: " in done.stderr
