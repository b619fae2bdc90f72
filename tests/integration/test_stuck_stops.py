"""Tests of SIGTERM while something hangs: the agent ends in time, and keeps its records."""

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from agent.spool.inspect import contents
from tests.lab.agent import AgentProcess, agent
from tests.lab.process import free_port
from tests.lab.sim import simulated

DEADLINE_S = 1.0
BUSY_S = 20.0
"""For a busy machine; what hangs here never ends by itself."""

STANDIN = Path(__file__).parents[1] / "lab/standin"

HANGING = """
import functools, os, socket, sqlite3, time

def hanging(name, function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        while os.path.exists(os.environ["HANG"] + "/" + name):
            os.close(os.open(os.environ["HANG"] + "/hangs", os.O_CREAT | os.O_WRONLY))
            time.sleep(0.05)
        return function(*args, **kwargs)
    return call

class Connection(sqlite3.Connection):
    execute = hanging("sqlite", sqlite3.Connection.execute)
    executemany = hanging("sqlite", sqlite3.Connection.executemany)

sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)
os.fsync = hanging("fsync", os.fsync)
os.scandir = hanging("scandir", os.scandir)
socket.getaddrinfo = hanging("resolver", socket.getaddrinfo)
if os.environ.get("LIBVIRT"):
    import libvirt
    libvirt.open = hanging("libvirt", libvirt.open)
    libvirt.virConnect.domainListGetStats = hanging("stats", libvirt.virConnect.domainListGetStats)
"""


class Stuck:
    """An agent, and the parts of its environment that hang."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hang = folder / "hang"
        self.hang.mkdir()
        (folder / "site").mkdir()
        (folder / "site/sitecustomize.py").write_text(HANGING)
        self.env = {"HANG": str(self.hang), "PYTHONPATH": f"{folder / 'site'}:{STANDIN}"}
        self.state = folder / "state"
        self.stack = ExitStack()

    def start(self, *words: str, **env: str) -> AgentProcess:
        glob = ("--monitor", str(self.folder / "vms/*.qmp"))
        words = (*glob, "--interval", "1s", *words)
        env = {"BAROGRAPH_SHUTDOWN__DEADLINE": f"{DEADLINE_S:g}s", **self.env, **env}
        running = self.stack.enter_context(agent(self.folder / "agent", *words, state=self.state, env=env))
        running.wait_for_log("discovery")
        return running

    def make(self, what: str) -> None:
        """Make `what` hang from now on, and wait until a call hangs."""
        (self.hang / what).touch()
        deadline_s = time.monotonic() + 150
        while not (self.hang / "hangs").exists():
            assert time.monotonic() < deadline_s, f"{what} is not used"
            time.sleep(0.02)

    def silent_peer(self) -> int:
        """Return the port of a peer that accepts connections and does nothing else."""
        listening = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return int(listening.getsockname()[1])

    def records(self) -> int:
        """Return how many records the spool has, once the agent has ended."""
        with closing(sqlite3.connect(self.state / "spool.sqlite")) as spool:
            assert spool.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            names = [name for (name,) in spool.execute("SELECT name FROM sqlite_master WHERE type='table'")]
            queues = [name for name in names if name in ("samples", "states")]
            return sum(int(spool.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in queues)


@pytest.fixture
def stuck(folder: Path) -> Generator[Stuck]:
    (folder / "vms").mkdir()
    with simulated(folder / "vms", vms=2):
        case = Stuck(folder)
        with case.stack:
            yield case


def hung_disk(case: Stuck) -> AgentProcess:
    running = case.start("--kafka", f"127.0.0.1:{case.silent_peer()}")
    case.make("sqlite")
    return running


def hung_ledger(case: Stuck) -> AgentProcess:
    (case.hang / "fsync").touch()
    running = case.start("--policy", "enforce", BAROGRAPH_POLLING__INTERVAL="7s")
    case.make("fsync")
    return running


def silent_resolver(case: Stuck) -> AgentProcess:
    (case.hang / "resolver").touch()
    running = case.start("--kafka", "broker.example:9092", "--otlp", "http://collector.example:4318")
    case.make("resolver")
    return running


def silent_tls(case: Stuck) -> AgentProcess:
    return case.start("--kafka", f"127.0.0.1:{case.silent_peer()}", BAROGRAPH_KAFKA__TLS__ENABLED="true")


def silent_kafka(case: Stuck) -> AgentProcess:
    return case.start("--kafka", f"127.0.0.1:{case.silent_peer()}")


def silent_otlp_http(case: Stuck) -> AgentProcess:
    return case.start("--otlp", f"http://127.0.0.1:{case.silent_peer()}", BAROGRAPH_OTLP__PROTOCOL="http")


def silent_otlp_grpc(case: Stuck) -> AgentProcess:
    return case.start("--otlp", f"http://127.0.0.1:{case.silent_peer()}")


def hung_libvirt(case: Stuck) -> AgentProcess:
    config = case.folder / "libvirt.yaml"
    config.write_text("libvirt:\n  - uri: qemu:///system\n")
    running = case.start("--config", str(config), LIBVIRT="1", STANDIN_DOMAINS="3")
    case.make("stats")
    return running


def hung_directory(case: Stuck) -> AgentProcess:
    running = case.start(BAROGRAPH_DISCOVERY__RESCAN="1s")
    case.make("scandir")
    return running


def slow_web_client(case: Stuck) -> AgentProcess:
    port = free_port()
    running = case.start(BAROGRAPH_WEB__ENABLED="true", BAROGRAPH_WEB__LISTEN=f"127.0.0.1:{port}")
    running.wait_for_log(" web ")
    client = case.stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    return running


def hung_reload(case: Stuck) -> AgentProcess:
    config = case.folder / "reloaded.yaml"
    config.write_text("log: {level: info}\n")
    running = case.start("--config", str(config))
    config.unlink()
    os.mkfifo(config)
    running.process.send_signal(signal.SIGHUP)
    running.wait_for_log("signal received")
    return running


CASES = [
    hung_disk,
    hung_ledger,
    silent_resolver,
    silent_tls,
    silent_kafka,
    silent_otlp_http,
    silent_otlp_grpc,
    hung_libvirt,
    hung_directory,
    slow_web_client,
    hung_reload,
]
KEEPING = {silent_resolver, silent_tls, silent_kafka}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_sigterm_ends_the_agent_in_time_whatever_hangs(
    stuck: Stuck, case: Callable[[Stuck], AgentProcess]
) -> None:
    running = case(stuck)

    code = terminate(running)

    assert code == 0, running.stderr.read_text()
    assert "Traceback" not in running.stderr.read_text()
    if case in KEEPING:
        assert stuck.records() > 0
    elif (stuck.state / "spool.sqlite").exists():
        stuck.records()


def test_sigterm_ends_the_agent_in_time_although_its_log_cannot_be_written(stuck: Stuck) -> None:
    log = stuck.folder / "log"
    os.mkfifo(log)
    to_fifo = ("sh", "-c", f'exec "$@" 2> {log}', "sh")
    environ = {"BAROGRAPH_SHUTDOWN__DEADLINE": f"{DEADLINE_S:g}s", **stuck.env}
    words = ("--monitor", str(stuck.folder / "vms/*.qmp"), "--kafka", f"127.0.0.1:{stuck.silent_peer()}")
    with agent(stuck.folder / "agent", *words, state=stuck.state, env=environ, within=to_fifo) as running:
        reader = os.open(log, os.O_RDONLY)
        text = b""
        while b"discovery" not in text:
            text += os.read(reader, 65536)
        # An agent that cannot log is blocked, so the first records must be on disk before.
        while not any(each.records for each in contents(stuck.state / "spool.sqlite").waiting.values()):
            time.sleep(0.05)
        filler = os.open(log, os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(filler, b"x" * 512)

        assert terminate(running) == 1
    os.close(reader)
    os.close(filler)
    assert stuck.records() > 0


def terminate(running: AgentProcess) -> int:
    """Send SIGTERM, and check that the agent ends in time; return its exit code."""
    running.process.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    code = running.process.wait(120)
    assert time.monotonic() - began_s < DEADLINE_S + 2 + BUSY_S
    return code
