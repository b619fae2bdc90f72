"""Simulated QEMUs in the vocabulary of `tests.lab.qemu`: a test of a VM runs on either."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from simulator.demo import hypervisor
from simulator.demo.measure import Shown, updates_in
from tests.lab.qemu import Monitor


class SimulatedVm:
    """One of them. `qmp` is the agent's monitor, `truth` the tests' own."""

    def __init__(self, hypervisor: "Hypervisor", name: str) -> None:
        self.name = name
        self.qmp = hypervisor.folder / f"{name}.qmp"
        self.truth = hypervisor.folder / f"{name}.truth"
        self._hypervisor = hypervisor

    def order(self, words: str, timeout_s: float = 30.0) -> object:
        """Order something: the guest's words as in the lab's guest, and those of `simulator.orders`.

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


class Hypervisor(hypervisor.Hypervisor):
    """The process of all of them."""

    @property
    def vms(self) -> list[SimulatedVm]:
        """Return every VM, in the order they were made."""
        return [SimulatedVm(self, name) for name in cast(list[str], self.order("vms"))]

    def vm(self, name: str) -> SimulatedVm:
        """Return one."""
        return SimulatedVm(self, name)

    def add(self, name: str, **spec: object) -> SimulatedVm:
        """Add one: `spec` as `simulator.qemu.Spec`."""
        self.add_vm(name, spec)
        return self.vm(name)

    def updates(self) -> dict[Path, list[Shown]]:
        """Return every update so far, by truth monitor, in order."""
        self.order("flush")
        return updates_in(self.updates_log)


@contextmanager
def simulated(folder: Path, *extra: str, vms: int = 0, **options: object) -> Generator[Hypervisor]:
    """Simulated QEMUs in a process of their own, which ends with the block.

    Args:
        folder: short, for the sockets.
        extra: more of its flags.
        vms: how many alike; others are added with `add`.
        options: flags of `python -m simulator` with values: `preset=1`, `guests="steady:8,leaking"`.
    """
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with hypervisor.simulator(folder, "--vms", str(vms), *words, *extra) as process:
        made = Hypervisor(folder, process)
        try:
            yield made
        finally:
            made.close()
