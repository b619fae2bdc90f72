"""Another tool on a monitor that the agent shares, like those of Proxmox: it repeats short QMP sessions.

Like PVE::QMPClient it does not block in connect: if the queue is full, it tries again after 100 ms and gives
up after 5 s. `python -m tests.lab.other_tool SOCKET REPORT` runs until SIGTERM and then writes its results.
"""

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.lab.process import kill, start

RETRY_S, GIVES_UP_S = 0.1, 5.0
COMMANDS = ("qmp_capabilities", "query-status", "query-balloon", "query-version")
PAUSE_MAX_S = 0.03
_SESSION_MAX_S = GIVES_UP_S * (2 + len(COMMANDS))  # to connect, for the greeting and for each answer


@dataclass
class Met:
    """The results of a tool so far."""

    sessions: int = 0
    failures: list[str] = field(default_factory=list[str])
    full_queues: int = 0  # EAGAIN, tried again
    waits_ms: list[float] = field(default_factory=list[float])  # from the first attempt to the greeting
    sessions_ms: list[float] = field(default_factory=list[float])


class OtherTool:
    """A running tool."""

    def __init__(self, path: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._report = folder / f"{time.monotonic_ns()}.met"
        argv = [sys.executable, "-m", "tests.lab.other_tool", str(path), str(self._report)]
        self.process: subprocess.Popen[bytes] = start(argv, folder / "tool.log")

    def stop(self) -> Met:
        """Stop it after its current session, and return its results."""
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(_SESSION_MAX_S + 30) != 0:
            raise RuntimeError(f"the tool failed, see {self._report.parent}/tool.log")
        return Met(**json.loads(self._report.read_text()))


@contextmanager
def other_tool(path: Path, folder: Path) -> Generator[OtherTool]:
    """Run a tool on `path` until the block ends."""
    tool = OtherTool(path, folder)
    try:
        yield tool
    finally:
        kill(tool.process)


def _session(path: str, met: Met) -> None:
    begun_s = time.monotonic()
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(path)
            break
        except (BlockingIOError, ConnectionRefusedError):
            connection.close()
            met.full_queues += 1
            if time.monotonic() - begun_s > GIVES_UP_S:
                raise
            time.sleep(RETRY_S)
    with connection:
        connection.settimeout(GIVES_UP_S)
        stream = connection.makefile("rwb", buffering=0)
        _expect(stream.readline(), b'"QMP"')
        greeted_s = time.monotonic()
        for command in COMMANDS:
            stream.write(json.dumps({"execute": command}).encode())
            while b'"event"' in (line := stream.readline()):
                pass
            _expect(line, b'"return"' if command != "query-balloon" else b"}")
        stream.close()
    met.waits_ms.append((greeted_s - begun_s) * 1000)
    met.sessions_ms.append((time.monotonic() - greeted_s) * 1000)


def _expect(line: bytes, word: bytes) -> None:
    if word not in line:
        raise ConnectionError(f"{word!r} was expected and {line!r:.80} came")


def _main(path: str, report: str) -> None:
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    met = Met()
    while not ending:
        met.sessions += 1
        try:
            _session(path, met)
        except OSError as error:
            met.failures.append(repr(error))
        time.sleep(random.uniform(0, PAUSE_MAX_S))
    Path(report).write_text(json.dumps(asdict(met)))


def longest(values: Sequence[float]) -> float:
    """Return the largest value, or 0 if there is none."""
    return max(values, default=0.0)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
