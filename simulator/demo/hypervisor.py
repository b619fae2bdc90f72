"""Start the simulated hypervisor in a process of its own and send it orders (`simulator.orders`)."""

import json
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from simulator.demo.process import PACKAGE_ROOT, kill, start, wait_until

_START_TIMEOUT_S = 120.0
_ORDER_TIMEOUT_S = 60.0


class Hypervisor:
    """A client of the process that runs all simulated QEMUs."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.log = folder / "sim.log"
        self.updates_log = folder / "updates.jsonl"
        self._process = process
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def order(self, order: str, vm: str | None = None, timeout_s: float = _ORDER_TIMEOUT_S) -> object:
        """Send an order and return its result.

        Raises:
            RuntimeError: the order failed, or the process has ended.
        """
        return self._request({"order": order} | ({} if vm is None else {"vm": vm}), timeout_s)

    def add_vm(self, name: str, spec: Mapping[str, object]) -> None:
        """Add a VM; `spec` has the fields of `simulator.spec.Spec`.

        Raises:
            RuntimeError: the VM could not be added, or the process has ended.
        """
        self._request({"order": "add", "spec": {"name": name, **spec}}, _ORDER_TIMEOUT_S)

    def _request(self, message: Mapping[str, object], timeout_s: float) -> object:
        if self._control is None:
            self._control = socket.socket(socket.AF_UNIX)
            self._control.connect(str(self.folder / "control"))
        self._control.settimeout(timeout_s)
        self._control.sendall(json.dumps(message).encode() + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            chunk = self._control.recv(1 << 20)
            if not chunk:
                raise RuntimeError(f"{message}: the simulated hypervisor has ended; see {self.log}")
            received += chunk
        answer = cast(dict[str, object], json.loads(received))
        if "error" in answer:
            raise RuntimeError(f"{message}: {answer['error']}")
        return answer["return"]

    def close(self) -> None:
        """Close the control connection."""
        if self._control is not None:
            self._control.close()


@contextmanager
def simulator(folder: Path, *flags: str) -> Generator[subprocess.Popen[bytes]]:
    """Run `python -m simulator` for the length of the block; it accepts orders when the block begins.

    Args:
        folder: holds the sockets, so its path must be short.
        flags: further command-line flags.

    Raises:
        RuntimeError: the process did not start; the message includes its log.
    """
    argv = [sys.executable, "-m", "simulator", "--folder", str(folder), *flags]
    log = folder / "sim.log"
    process = start(argv, log, cwd=PACKAGE_ROOT)
    try:
        control = folder / "control"
        wait_until(control.exists, "the simulated hypervisor", process, log, _START_TIMEOUT_S)
        yield process
    finally:
        kill(process)
