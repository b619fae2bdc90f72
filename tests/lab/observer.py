"""Record the statistics that a second monitor of each VM shows, read every 5 ms in a separate process.

It shares neither code nor process with the agent, so it shares none of the agent's bugs or delays. Each VM is
asked again as soon as it has answered, so a busy QEMU does not delay the observation of the others.
"""

import json
import selectors
import signal
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from simulator.demo.measure import Shown, updates_in
from tests.lab.process import kill, start, wait_until
from tests.lab.qemu import BALLOON

PERIOD_S = 0.005
AWAY_S = 0.05  # the pause before connecting again to a monitor that hung up: QEMU may be restarted
LAST_READING_S = 10.0  # how long `stop` waits for the last reading of each monitor


@dataclass(frozen=True, slots=True)
class Pace:
    """How closely a VM was observed. An update is seen late by at most the gap in which it happened."""

    usual_gap_ms: float  # the median between two answers
    worst_gap_ms: float  # includes the time the VM was frozen


class Observer:
    """Observes the truth monitors of VMs from its start until `stop`. They serve no other client meanwhile.

    Raises:
        RuntimeError: a monitor does not answer.
    """

    def __init__(self, truths: Sequence[Path], folder: Path) -> None:
        self._file = folder / "observed.jsonl"
        self._file.unlink(missing_ok=True)
        log = folder / "observer.log"
        argv = [sys.executable, "-m", "tests.lab.observer", self._file, *truths]
        self._process = start(argv, log, cwd=Path(__file__).parents[2])
        try:
            wait_until(self._file.exists, "the observer", self._process, log, 120)
        except BaseException:
            kill(self._process)
            raise

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def updates(self) -> dict[Path, list[Shown]]:
        """Return every update seen so far, by truth monitor, in order."""
        return updates_in(self._file)

    def stop(self) -> dict[Path, list[Shown]]:
        """Read each monitor once more, stop observing, and return all updates seen.

        Raises:
            RuntimeError: the observer had ended before.
        """
        self._process.terminate()
        if self._process.wait(60) != 0:
            raise RuntimeError(f"the observer had ended too early; see {self._file.parent}/observer.log")
        return self.updates()

    def paces(self) -> dict[Path, Pace]:
        """Return how closely each VM was observed. Call it after `stop`."""
        text = self._file.with_suffix(".pace").read_text()
        return {Path(path): Pace(*gaps) for path, gaps in json.loads(text).items()}

    def __enter__(self) -> "Observer":
        return self

    def __exit__(self, *_: object) -> None:
        kill(self._process)


QUESTION = {"execute": "qom-get", "arguments": {"path": BALLOON, "property": "guest-stats"}}


class _Watched:
    """One VM's truth monitor."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.due_s = 0.0
        self.asked = False
        self.socket: socket.socket | None = None
        self.gaps_ms: list[float] = []
        self._buffer = b""
        self._last = b""
        self._heard_ns = 0

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(60)
            connection.connect(self.path)
            stream = connection.makefile("rb")
            stream.readline()
            connection.sendall(b'{"execute": "qmp_capabilities"}\n')
            while b'"return"' not in (line := stream.readline()):
                if not line:
                    raise ConnectionError(f"{self.path} has hung up")
        except BaseException:
            connection.close()
            raise
        self.socket, self.asked, self._buffer, self._heard_ns = connection, False, b"", 0

    def ask(self, now_s: float) -> None:
        assert self.socket is not None
        self.socket.sendall(json.dumps(QUESTION).encode() + b"\n")
        self.asked = True
        self.due_s = now_s + PERIOD_S

    def hear(self, out: TextIO) -> bool:
        """Write a reading that differs from the last one; return whether the monitor is still connected."""
        assert self.socket is not None
        try:
            heard = self.socket.recv(65536)
        except OSError:
            heard = b""
        seen_ns = time.time_ns()
        *lines, self._buffer = (self._buffer + heard).split(b"\n")
        for line in lines:
            if b'"event"' in line:
                continue
            self.asked = False
            if self._heard_ns:
                self.gaps_ms.append((seen_ns - self._heard_ns) / 1e6)
            self._heard_ns = seen_ns
            if b'"last-update"' in line and line != self._last:  # QEMU writes the same reading the same way
                self._last = line
                reading = cast(dict[str, dict[str, object]], json.loads(line))["return"]
                out.write(json.dumps((self.path, seen_ns, reading["last-update"], reading["stats"])) + "\n")
        return bool(heard)


def _main(file: str, paths: Sequence[str]) -> None:
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    watched = [_Watched(path) for path in paths]
    with Path(f"{file}.new").open("w", buffering=1) as out, selectors.DefaultSelector() as selector:
        for each in watched:
            each.connect()
            selector.register(cast(socket.socket, each.socket), selectors.EVENT_READ, each)
        Path(f"{file}.new").rename(file)  # the observation has begun
        while not ending:
            now_s = time.monotonic()
            for each in watched:
                if each.due_s <= now_s and not each.asked:
                    _go_on(each, selector, now_s)
            due_s = min((each.due_s for each in watched if not each.asked), default=now_s + AWAY_S)
            for key, _ in selector.select(min(max(due_s - time.monotonic(), 0), AWAY_S)):
                each = cast(_Watched, key.data)
                if not each.hear(out):
                    _leave(each, selector)
        _read_once_more(watched, selector, out)
    gaps = {each.path: each.gaps_ms or [0.0] for each in watched}
    paces = {path: (statistics.median(of_vm), max(of_vm)) for path, of_vm in gaps.items()}
    Path(file).with_suffix(".pace").write_text(json.dumps(paces))


def _go_on(each: _Watched, selector: selectors.BaseSelector, now_s: float) -> None:
    try:
        if each.socket is None:
            each.connect()
            selector.register(cast(socket.socket, each.socket), selectors.EVENT_READ, each)
        each.ask(now_s)
    except OSError:
        _leave(each, selector)


def _read_once_more(watched: Sequence[_Watched], selector: selectors.BaseSelector, out: TextIO) -> None:
    """Read each connected monitor, so that no update before `stop` is missing. A frozen QEMU gives none."""
    to_ask = [each for each in watched if each.socket is not None]
    deadline_s = time.monotonic() + LAST_READING_S
    while (to_ask or any(each.asked for each in watched)) and time.monotonic() < deadline_s:
        for each in [each for each in to_ask if not each.asked]:
            to_ask.remove(each)
            if each.socket is not None:
                _go_on(each, selector, time.monotonic())
        for key, _ in selector.select(AWAY_S):
            each = cast(_Watched, key.data)
            if not each.hear(out):
                _leave(each, selector)


def _leave(each: _Watched, selector: selectors.BaseSelector) -> None:
    if each.socket is not None:
        selector.unregister(each.socket)
        each.socket.close()
        each.socket = None
    each.asked, each.due_s = False, time.monotonic() + AWAY_S


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
