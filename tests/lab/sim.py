"""Simulated VMs with the interface of `tests.lab.qemu`, so that a test can run on either."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from simulator.demo import hypervisor
from simulator.demo.measure import Shown, updates_in
from tests.lab.qemu import Monitor


class SimulatedVm:
    """A simulated VM. `qmp` is the monitor for the agent, `truth` the one for the tests."""

    def __init__(self, hypervisor: "Hypervisor", name: str) -> None:
        self.name = name
        self.qmp = hypervisor.folder / f"{name}.qmp"
        self.truth = hypervisor.folder / f"{name}.truth"
        self._hypervisor = hypervisor

    def order(self, order: str, timeout_s: float = 60.0) -> object:
        """Send an order of `simulator.orders`, which include those of the lab's real guests.

        Raises:
            RuntimeError: the order failed.
        """
        return self._hypervisor.order(order, self.name, timeout_s)

    def state(self) -> dict[str, object]:
        """Return the simulator's own view of the VM."""
        return cast(dict[str, object], self.order("state"))

    def monitor(self) -> Monitor:
        """Connect to the monitor `truth`."""
        return Monitor(self.truth)

    def freeze(self) -> None:
        """Freeze QEMU, as SIGSTOP does."""
        self.order("freeze")

    def thaw(self) -> None:
        """Resume QEMU, as SIGCONT does."""
        self.order("thaw")

    def kill(self) -> None:
        """Kill QEMU. Its socket files stay, like those of a real one."""
        self.order("kill")

    def start(self) -> None:
        """Start QEMU after it was killed or has ended."""
        self.order("restart")

    def restart(self) -> None:
        """Replace QEMU by another process on the same paths."""
        self.order("restart")


class Hypervisor(hypervisor.Hypervisor):
    """The process that runs all simulated VMs."""

    @property
    def vms(self) -> list[SimulatedVm]:
        """Return the VMs in the order in which they were added."""
        return [SimulatedVm(self, name) for name in cast(list[str], self.order("vms"))]

    def vm(self, name: str) -> SimulatedVm:
        """Return a VM by name."""
        return SimulatedVm(self, name)

    def add(self, name: str, **spec: object) -> SimulatedVm:
        """Add a VM; `spec` has the fields of `simulator.spec.Spec`."""
        self.add_vm(name, spec)
        return self.vm(name)

    def updates(self) -> dict[Path, list[Shown]]:
        """Return the updates so far, in order, by path of the monitor `truth`."""
        self.order("flush")
        return updates_in(self.updates_log)


@contextmanager
def simulated(folder: Path, *extra: str, vms: int = 0, **options: object) -> Generator[Hypervisor]:
    """Run a simulated hypervisor until the block ends.

    Args:
        folder: holds the sockets, so its path must be short.
        extra: flags without a value.
        vms: number of VMs at the start; `add` adds more.
        options: flags of `python -m simulator` with values, such as `preset=1`, `guests="steady:8,leaking"`.
    """
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with hypervisor.simulator(folder, "--vms", str(vms), *flags, *extra) as process:
        running = Hypervisor(folder, process)
        try:
            yield running
        finally:
            running.close()
