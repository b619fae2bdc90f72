"""An agent with few descriptors and many monitors keeps its links, and its other work continues."""

import json
import os
import resource
import socket
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.audit import WEB, ask, unbalanced
from tests.integration.otlp_backends import Answer, HttpBackend
from tests.integration.test_web import url_when_told, wait_until
from tests.integration.watching import Lines, conserved, steady, watch
from tests.lab import qemu
from tests.lab.agent import AgentProcess, agent
from tests.lab.crowd import crowd
from tests.lab.scripted_kafka import PRODUCE, Peer, scripted_kafka_thread

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu"), pytest.mark.timeout(900)]

DESCRIPTORS = 300
PEERS = 597
WEB_CLIENTS = 64  # as many as the web server keeps
LIMITED = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
NOBODY = 65_534


@contextmanager
def web_clients(url: str) -> Generator[None]:
    """Open connections that never finish a request."""
    port = int(url.rstrip("/").rpartition(":")[2])
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(WEB_CLIENTS)]
    try:
        yield
    finally:
        for client in clients:
            client.close()


def descriptors(process: AgentProcess) -> int:
    return len(os.listdir(f"/proc/{process.process.pid}/fd"))


def is_healthy(url: str) -> bool:
    components = json.loads(ask(url, "healthz")[1])["components"]
    return {components[each]["state"] for each in ("collection", "kafka.states", "otlp", "spool")} == {"ok"}


@pytest.mark.parametrize("theirs", [False, True], ids=["of the same user", "of another user"])
def test_600_monitors_under_300_descriptors(folder: Path, http: HttpBackend, *, theirs: bool) -> None:
    if theirs and os.geteuid() != 0:
        pytest.skip("only root can make another user's files")
    others, peer = folder / "others", Peer(topic=None)
    others.mkdir()
    if theirs:
        os.chown(others, NOBODY, NOBODY)
    env = {
        **WEB,
        "BAROGRAPH_LINES__ENABLED": "true",
        "BAROGRAPH_OTLP__INTERVAL": "1s",
        "BAROGRAPH_POLLING__HEARTBEAT": "5s",
        "BAROGRAPH_DISCOVERY__RESCAN": "5s",
    }
    globs = ("--monitor", f"{folder}/*.qmp", "--monitor", f"{others}/*.qmp", "--interval", "1s")
    with (
        qemu.guest(folder, "first") as first,
        qemu.guest(folder, "second") as second,
        scripted_kafka_thread(peer) as kafka,
        agent(folder, *globs, "--kafka", kafka, "--otlp", http.endpoint, env=env, within=LIMITED) as process,
    ):
        lines, url = Lines(process), url_when_told(process)
        for vm in (first, second):
            lines.wait_for_state(vm.qmp, "reporting")
        with crowd(others, PEERS) as paths, ExitStack() as stack:
            process.wait_for_log("reason=too_many")
            lines.wait(
                lambda: sum(bool(lines.states(path)) for path in paths) >= 140, "as many as there is room for"
            )
            late = stack.enter_context(qemu.guest(folder, "late"))
            most = 0
            with web_clients(url):
                if theirs:  # the user with the most monitors makes room
                    lines.wait_for_state(late.qmp, "reporting")
                before = {name: len(lines.samples(name)) for name in ("first", "second")}
                taken, exported = peer.records, len(http.accepted)
                for name, count in before.items():
                    lines.wait(lambda name=name, count=count: len(lines.samples(name)) >= count + 10, name)
                    most = max(most, descriptors(process))
                wait_until(lambda: peer.records > taken, "Kafka")
                wait_until(lambda: len(http.accepted) > exported, "OTLP")
                assert ask(url, "healthz")[0] == ask(url, "readyz")[0] == 200
                assert unbalanced(ask(url, "metrics")[1]) == []
                wait_until(lambda: is_healthy(url), "the state `ok` of every component")
            said = [words for path in paths for words in lines.words(path)]
            if not theirs:
                assert lines.states(late.qmp) == []
            for path in paths:
                path.unlink()
            lines.wait_for_state(late.qmp, "reporting")
            lines.wait_for_samples("late", 3)
        for name in ("first", "second"):
            samples = lines.samples(name)
            assert [each["sequence"] for each in samples] == list(range(1, len(samples) + 1))
        for vm in (first, second):
            lines.wait_for_state(vm.qmp, "reporting")
        words = {state for vm in (first, second) for state, _ in steady(lines.words(vm.qmp))}
        assert process.stop() == 0
        conserved(process)

    log = process.stderr.read_text()
    print(f"at most {most} descriptors; {Counter(said)}")
    assert words <= {"connecting", "waiting", "reporting"}
    gone = [reason for state, reason in said if state == "gone"]
    assert gone == (["not_observed"] if theirs else [])
    assert "raise the limit of open files (LimitNOFILE)" in log or theirs
    assert "Too many open files" not in log
    assert "Traceback" not in log


def test_an_agent_out_of_descriptors_recovers_once_it_has_some(folder: Path, http: HttpBackend) -> None:
    peer = Peer(topic=None)
    http.answer = lambda _: Answer(headers={"Connection": "close"})  # a kept connection needs no descriptor
    env = {
        **WEB,
        "BAROGRAPH_LINES__ENABLED": "true",
        "BAROGRAPH_OTLP__INTERVAL": "1s",
        "BAROGRAPH_DISCOVERY__RESCAN": "5s",
    }
    with (
        qemu.guest(folder, "g") as vm,
        scripted_kafka_thread(peer) as kafka,
        agent(folder, *watch(folder, "--kafka", kafka, "--otlp", http.endpoint), env=env) as process,
    ):
        lines, url = Lines(process), url_when_told(process)
        lines.wait_for_state(vm.qmp, "reporting")
        wait_until(lambda: peer.records > 0 and bool(http.accepted), "Kafka and OTLP")
        usual = resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        peer.close_at = frozenset({PRODUCE})
        try:
            lines.wait_for_samples("g", len(lines.samples("g")) + 10)
            process.wait_for_log("reason=unreadable")
            lines_of = process.stderr.read_text
            wait_until(lambda: "sink unavailable" in lines_of(), "Kafka's reason")
            wait_until(lambda: "otlp backend unavailable" in lines_of(), "OTLP's reason")
        finally:
            peer.close_at = frozenset()
            resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, usual)
        taken, exported = peer.records, len(http.accepted)
        wait_until(lambda: peer.records > taken, "Kafka")
        wait_until(lambda: len(http.accepted) > exported, "OTLP")
        wait_until(lambda: ask(url, "readyz")[0] == 200, "readiness")
        assert unbalanced(ask(url, "metrics")[1]) == []
        samples = lines.samples("g")
        lines.wait_for_state(vm.qmp, "reporting")
        assert process.stop() == 0
        conserved(process)

    assert [each["sequence"] for each in samples] == list(range(1, len(samples) + 1))
    assert {state for state, _ in steady(lines.words(vm.qmp))} <= {"connecting", "waiting", "reporting"}
    log = process.stderr.read_text()
    assert log.count("Too many open files") >= 3  # from discovery, Kafka and OTLP
    assert "agent metrics are stale" not in log
    assert "Traceback" not in log
