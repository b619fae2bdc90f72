"""The truth: what a second monitor shows, read every 5 ms by a process of its own.

Not the agent's code and not its process, so that neither its mistakes nor its delays are shared.
"""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from tests.lab.measure import Shown
from tests.lab.qemu import BALLOON, die_with_parent

PERIOD_S = 0.005
UNSET_FROM = 1 << 63


def decoded(stats: Mapping[str, int]) -> dict[str, int]:
    """Return wire statistics as the contract names them, without the unset ones."""
    return {
        name.removeprefix("stat-").replace("-", "_"): value
        for name, value in stats.items()
        if 0 <= value < UNSET_FROM
    }


class Observer:
    """Watches some VMs' truth monitors from its start until `stop`."""

    def __init__(self, truths: Sequence[Path], folder: Path) -> None:
        self._file = folder / "observed.jsonl"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.observer", str(self._file), *map(str, truths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"watching\n":
            raise RuntimeError("the observer did not start")

    def stop(self) -> dict[Path, list[Shown]]:
        """End it; return every update it saw, by truth monitor, in order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        shown: dict[Path, list[Shown]] = {}
        for line in self._file.read_text().splitlines():
            path, seen_ns, last_update_s, stats = cast(tuple[str, int, int, dict[str, int]], json.loads(line))
            shown.setdefault(Path(path), []).append(Shown(last_update_s, seen_ns / 1e6, decoded(stats)))
        return shown


class _Watched:
    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rb")
        self.stream.readline()
        self.ask('{"execute": "qmp_capabilities"}')
        self.stream.readline()
        self.last: object = None

    def ask(self, words: str) -> None:
        self.socket.sendall(words.encode() + b"\n")

    def look(self) -> dict[str, object] | None:
        """Return the reading where it is another one than the last; `None` also for an event."""
        message = cast(dict[str, dict[str, object]], json.loads(self.stream.readline()))
        if "return" not in message:
            return self.look() if "event" in message else None
        reading = message["return"]
        if reading == self.last:
            return None
        self.last = reading
        return reading


def _main(file: str, paths: Sequence[str]) -> None:
    watched = [_Watched(path) for path in paths]
    question = json.dumps({"execute": "qom-get", "arguments": {"path": BALLOON, "property": "guest-stats"}})
    os.write(1, b"watching\n")
    with Path(file).open("w") as out:
        due_s = time.monotonic()
        while not select.select([0], [], [], max(due_s - time.monotonic(), 0))[0]:
            due_s = max(due_s + PERIOD_S, time.monotonic())
            for each in watched:
                each.ask(question)
                reading = each.look()
                if reading is not None:
                    seen = (each.path, time.time_ns(), reading["last-update"], reading["stats"])
                    out.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
