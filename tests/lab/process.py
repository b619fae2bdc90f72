"""What `simulator.demo.process` starts, and who is left of it."""

import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from simulator.demo.process import cpu_s, die_with_parent, kill, start, wait_until

__all__ = [
    "cpu_s", "die_with_parent", "free_port", "is_running", "kill", "listens", "no_child_left", "start",
    "status_of", "wait_until",
]  # fmt: skip


def status_of(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process: its user, what it may do, its memory (proc(5), status)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def is_running(pid: int) -> bool:
    """Say whether a process is there and has not ended; one that has may wait for somebody to hear of it."""
    try:
        return not status_of(pid)["State"].startswith("Z")
    except OSError:
        return False


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether somebody accepts connections at a port of this machine."""
    try:
        with socket.create_connection((host, port), 1):
            return True
    except OSError:
        return False


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def no_child_left(grace_s: float = 2.0) -> Generator[None]:
    """Assert that whatever process the block starts has ended, and been waited for, when it ends."""
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
            continue  # a thread that has ended since
    return found


def _command_lines(pids: set[int]) -> dict[int, str]:
    """Return the command lines of those that matter: Python's own `resource_tracker` ends by itself."""
    words: dict[int, str] = {}
    for pid in pids:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "resource_tracker" not in line:
            words[pid] = line[:200] or "(ended, and nobody has waited for it)"
    return words
