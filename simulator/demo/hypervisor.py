"""A simulated hypervisor in a process of its own, and the orders it takes: `simulator.orders`."""

import json
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from simulator.demo.process import PACKAGED_IN, kill, start, wait_until

_STARTS_WITHIN_S = 60.0
_ANSWERS_WITHIN_S = 30.0


class Hypervisor:
    """The process of all simulated QEMUs."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.log = folder / "sim.log"
        self.updates_log = folder / "updates.jsonl"
        self._process = process
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Its process's id."""
        return self._process.pid

    def order(self, words: str, vm: str | None = None, timeout_s: float = _ANSWERS_WITHIN_S) -> object:
        """Give an order, and return the answer.

        Raises:
            RuntimeError: it could not be.
        """
        return self._say({"order": words} | ({} if vm is None else {"vm": vm}), timeout_s)

    def add_vm(self, name: str, spec: Mapping[str, object]) -> None:
        """Add one: `spec` as `simulator.qemu.Spec`.

        Raises:
            RuntimeError: it could not be.
        """
        self._say({"order": "add", "spec": {"name": name, **spec}}, _ANSWERS_WITHIN_S)

    def _say(self, message: Mapping[str, object], timeout_s: float) -> object:
        if self._control is None:
            self._control = socket.socket(socket.AF_UNIX)
            self._control.connect(str(self.folder / "control"))
        self._control.settimeout(timeout_s)
        self._control.sendall(json.dumps(message).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            got = self._control.recv(1 << 20)
            if not got:
                raise RuntimeError(f"{message}: the simulated hypervisor is gone; see {self.log}")
            answer += got
        said = cast(dict[str, object], json.loads(answer))
        if "error" in said:
            raise RuntimeError(f"{message}: {said['error']}")
        return said["return"]

    def close(self) -> None:
        """Leave the control socket."""
        if self._control is not None:
            self._control.close()


@contextmanager
def simulator(folder: Path, *words: str) -> Generator[subprocess.Popen[bytes]]:
    """`python -m simulator`, which takes orders once the block begins, and ends with it.

    Args:
        folder: short, for the sockets.
        words: more of its flags.

    Raises:
        RuntimeError: it did not start; the message has its log.
    """
    argv = [sys.executable, "-m", "simulator", "--folder", str(folder), *words]
    log = folder / "sim.log"
    process = start(argv, log, cwd=PACKAGED_IN)
    try:
        control = folder / "control"
        wait_until(control.exists, "the simulated hypervisor", process, log, _STARTS_WITHIN_S)
        yield process
    finally:
        kill(process)
