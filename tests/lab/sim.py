"""Simulated QEMUs in the vocabulary of `tests.lab.qemu`: a test of a VM runs on either."""

import json
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tests.lab.measure import Shown
from tests.lab.observer import updates_in
from tests.lab.process import kill, start, wait_until
from tests.lab.qemu import Monitor


class SimulatedVm:
    """One of them. `qmp` is the agent's monitor, `truth` the tests' own."""

    def __init__(self, hypervisor: "Hypervisor", name: str) -> None:
        self.name = name
        self.qmp = hypervisor.folder / f"{name}.qmp"
        self.truth = hypervisor.folder / f"{name}.truth"
        self._hypervisor = hypervisor

    def order(self, words: str, timeout_s: float = 30.0) -> object:
        """Order something: the guest's words as in the lab's guest, and those of `agent.sim.orders`.

        Raises:
            RuntimeError: it could not be.
        """
        return self._hypervisor.order(words, self.name, timeout_s)

    def state(self) -> dict[str, object]:
        """Return what it is like inside."""
        return cast(dict[str, object], self.order("state"))

    def monitor(self) -> Monitor:
        """Open the tests' own monitor."""
        return Monitor(self.truth)

    def freeze(self) -> None:
        """As SIGSTOP does."""
        self.order("freeze")

    def thaw(self) -> None:
        """As SIGCONT does."""
        self.order("thaw")

    def kill(self) -> None:
        """The sockets' files stay, as they do."""
        self.order("kill")

    def start(self) -> None:
        """Start it where it was killed, or has ended."""
        self.order("restart")

    def restart(self) -> None:
        """Another process on the same paths."""
        self.order("restart")


class Hypervisor:
    """The process of all of them."""

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

    @property
    def vms(self) -> list[SimulatedVm]:
        """Return every VM, in the order they were made."""
        return [SimulatedVm(self, name) for name in cast(list[str], self.order("vms"))]

    def vm(self, name: str) -> SimulatedVm:
        """Return one."""
        return SimulatedVm(self, name)

    def add(self, name: str, **spec: object) -> SimulatedVm:
        """Add one: `spec` as `agent.sim.machine.Spec`."""
        self._say({"order": "add", "spec": {"name": name, **spec}}, 30)
        return self.vm(name)

    def order(self, words: str, vm: str | None = None, timeout_s: float = 30.0) -> object:
        """Give an order, and return the answer.

        Raises:
            RuntimeError: it could not be.
        """
        return self._say({"order": words} | ({} if vm is None else {"vm": vm}), timeout_s)

    def updates(self) -> dict[Path, list[Shown]]:
        """Return every update so far, by truth monitor, in order."""
        self.order("flush")
        return updates_in(self.updates_log)

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
def simulated(folder: Path, *extra: str, vms: int = 0, **options: object) -> Generator[Hypervisor]:
    """Simulated QEMUs in a process of their own, which ends with the block.

    Args:
        folder: short, for the sockets.
        extra: more of its flags.
        vms: how many alike; others are added with `add`.
        options: flags of `python -m agent.sim` with values: `preset=1`, `guests="steady:8,leaking"`.
    """
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    argv = [sys.executable, "-m", "agent.sim", "--folder", str(folder), "--vms", str(vms), *words, *extra]
    log = folder / "sim.log"
    process = start(argv, log, cwd=Path(__file__).parents[2])
    hypervisor = Hypervisor(folder, process)
    try:
        wait_until((folder / "control").exists, "the simulated hypervisor", process, log, 60)
        yield hypervisor
    finally:
        hypervisor.close()
        kill(process)
