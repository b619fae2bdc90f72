"""Start processes, read their status, and check that none is left behind."""

import os
import random
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from simulator.demo.process import cpu_s, die_with_parent, kill, start, wait_until

__all__ = [
    "cpu_s", "die_with_parent", "free_port", "freeze", "is_running", "kill", "listens", "listens_at",
    "no_child_left", "start", "status_of", "thaw", "wait_until",
]  # fmt: skip


def freeze(pid: int) -> None:
    """Send SIGSTOP to a process, and return once every thread is stopped.

    Raises:
        TimeoutError: a thread still runs after a minute.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline_s = time.monotonic() + 60
    while not all(map(_is_stopped, Path(f"/proc/{pid}/task").iterdir())):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"process {pid} did not stop within 60 s after SIGSTOP")
        time.sleep(0.001)


def thaw(pid: int) -> None:
    """Send SIGCONT to a process."""
    os.kill(pid, signal.SIGCONT)


def _is_stopped(thread: Path) -> bool:
    try:
        stat = (thread / "stat").read_text()
    except OSError:  # the thread has ended
        return True
    return stat.rpartition(")")[2].split()[0] in _STOPPED


def status_of(pid: int) -> dict[str, str]:
    """Return the kernel's status of a process: users, capabilities, memory (proc(5), status)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended but was not waited for does not."""
    try:
        return not status_of(pid)["State"].startswith("Z")
    except OSError:
        return False


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a listener accepts connections on a local port."""
    try:
        with socket.create_connection((host, port), 5):
            return True
    except OSError:
        return False


def listens_at(path: Path) -> bool:
    """Return whether a Unix socket accepts connections, without connecting to it.

    A socket is in the file system from `bind` on, and refuses every connection until `listen`.
    Source: proc_net_unix, flags (`__SO_ACCEPTCON`).
    """
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(row[7:] == [str(path)] and int(row[3], 16) & _ACCEPTS_CONNECTIONS for row in rows)


def free_port() -> int:
    """Return a local port without a listener, below the range that the kernel gives to clients.

    In that range, a client's connection may use the port of a service that is to be started again. No port is
    returned twice, since a service may listen on it much later. Other test processes get other ports.
    """
    clients_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    end = max(_PORT_MIN + 1_000, min(clients_from, _NODE_PORT_MIN))
    while True:
        port = _CHANCE.randrange(_PORT_MIN + worker % workers, end, workers)
        if port in _GIVEN:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port


_STOPPED = "TtZX"  # proc_pid_stat(5), state: stopped, traced, or ended
_ACCEPTS_CONNECTIONS = 0x10000
_GIVEN: set[int] = set()
_CHANCE = random.SystemRandom()  # Hypothesis seeds the default generator
_PORT_MIN = 10_000
_NODE_PORT_MIN = 30_000  # Kubernetes uses the ports from here on


@contextmanager
def no_child_left(grace_s: float = 30.0) -> Generator[None]:
    """Assert that every process started in the block has ended and been waited for when the block ends."""
    before = _children()
    yield
    deadline = time.monotonic() + grace_s
    while (left := _command_lines(_children() - before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        raise AssertionError(f"processes left behind: {left}")


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(word) for word in (task / "children").read_text().split()}
        except OSError:
            continue  # the thread has ended meanwhile
    return found


def _command_lines(pids: set[int]) -> dict[int, str]:
    """Return the command lines, without Python's `resource_tracker`, which ends by itself."""
    words: dict[int, str] = {}
    for pid in pids:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "resource_tracker" not in line:
            words[pid] = line[:200] or "(ended, but not waited for)"
    return words
