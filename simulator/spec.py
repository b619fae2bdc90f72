"""What a simulated VM is made of: the command line of its QEMU, and its guest."""

from dataclasses import dataclass
from typing import Literal, get_args

from simulator.guest import MIB, Kind

Bus = Literal["pci", "pci-transitional", "pci-non-transitional", "mmio", "ccw", "none"]
"""How the balloon is attached; `none`: there is no balloon."""

BUSES: tuple[str, ...] = get_args(Bus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A VM's configuration."""

    name: str  # identifies the VM; its sockets are named after it
    title: str | None = ""  # -name; empty: the same as `name`; None: without -name
    version: str = "7.2"  # a key of simulator.versions.VERSIONS
    uuid: str | None = None
    memory_bytes: int = 128 * MIB
    bus: Bus = "pci"
    id: str | None = "balloon0"  # of the balloon device; None: an anonymous device
    hotplug: bool = False  # whether the bus accepts devices while the VM runs
    paused: bool = False  # -S
    no_shutdown: bool = False
    pvpanic: bool = False
    deflate_on_oom: bool = False
    incoming: str | None = None  # -incoming
    guest: Kind = Kind.STEADY
    tags: int = 16  # how many statistics the guest's driver knows
    boot_s: float = 0.0  # from power-on or reset until the balloon driver is loaded
    booted: bool = True  # the guest has booted before the simulation starts
    interval_s: int = 0  # the polling interval that is set at the start
    seed: int = 0
