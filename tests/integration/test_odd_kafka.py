"""Tests with a Kafka that answers oddly: only the sink is degraded, and a stop takes no longer."""

import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.audit import WEB, ask
from tests.integration.test_web import url_when_told, wait_until
from tests.lab.agent import agent
from tests.lab.scripted_kafka import METADATA, Peer, scripted_kafka_thread

DEADLINE_S = 2.0  # of the shutdown; the default is longer
SLACK_S = 25.0  # to stop the interpreter on a busy machine
SCRAM = {
    "BAROGRAPH_KAFKA__SASL__MECHANISM": "SCRAM-SHA-256",
    "BAROGRAPH_KAFKA__SASL__USERNAME": "barograph",
    "BAROGRAPH_KAFKA__SASL__PASSWORD": "hunter2",
}
PEERS = {
    "nonce": (Peer(server_first=lambda _: b"r=AAAA,s=AAAA,i=4096"), "wrong nonce"),
    "key": (Peer(server_first=lambda _: b"e=other-error"), "(other-error)"),
    "iterations": (Peer(iterations=2_000_000_000), "2,000,000,000 SCRAM iterations"),
    "versions": (Peer(versions=((18, 0, 0), (17, 0, 1), (36, 0, 0), (METADATA, 100, 200))), "do not support"),
    "silence": (Peer(silent_at=frozenset({18})), "does not answer the first request"),
}


@pytest.mark.parametrize(
    "name", [name if name == "iterations" else pytest.param(name, marks=pytest.mark.long) for name in PEERS]
)
def test_an_odd_broker_degrades_only_its_sink_and_does_not_delay_the_stop(folder: Path, name: str) -> None:
    peer, words = PEERS[name]
    with scripted_kafka_thread(peer) as address:
        degrades_and_stops(folder, address, words)


def test_a_hanging_resolver_is_reported_and_does_not_delay_the_stop(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, for a resolv.conf of its own")
    settings = folder / "resolv.conf"
    address = f"127.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"  # different in each process
    settings.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
    own_settings = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mount --bind {settings} /etc/resolv.conf && exec "$@"',
        "-",
    ]
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind((address, 53))
        degrades_and_stops(folder, "kafka.example:9092", "the resolver does not answer", own_settings)


def degrades_and_stops(folder: Path, address: str, words: str, within: Sequence[str] = ()) -> None:
    env = {**WEB, **SCRAM, "BAROGRAPH_SHUTDOWN__DEADLINE": f"{DEADLINE_S:g}s"}
    arguments = ("--monitor", f"{folder}/*.qmp", "--kafka", address)
    with agent(folder, *arguments, env=env, within=within) as process:
        url = url_when_told(process)
        wait_until(lambda: words in kafka(url)["why"], words)
        health = json.loads(ask(url, "healthz")[1])["components"]
        process.must_be_running()
        used_s = process.cpu_s()
        began_s = time.monotonic()
        assert process.stop() == 0
        took_s = time.monotonic() - began_s

    log = process.stderr.read_text()
    assert health["kafka.states"]["state"] == "degraded"
    assert health["collection"]["state"] == "ok"
    assert words in log
    assert "hunter2" not in log
    assert "Traceback" not in log
    assert took_s < DEADLINE_S + SLACK_S
    assert used_s < 60  # the iterations would take minutes


def kafka(url: str) -> dict[str, str]:
    return json.loads(ask(url, "healthz")[1])["components"]["kafka.states"]
