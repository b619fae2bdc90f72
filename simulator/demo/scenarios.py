"""The scenarios of `barograph demo`: their VMs, and the actions on them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1 << 20


class Scenario(StrEnum):
    """The names on the command line; `SCENARIOS` defines each."""

    DAY = "day"
    STEADY = "steady"
    PRESSURE = "pressure"
    FLEET = "fleet"
    NEIGHBOURS = "neighbours"


@dataclass(frozen=True, slots=True)
class Action:
    """An action on a VM."""

    at: float  # as a fraction of the scenario's duration
    text: str  # for the timeline
    orders: tuple[str, ...]  # see simulator.orders
    makes_unreadable: bool = False  # the monitor cannot be read from now on, so no samples are expected


@dataclass(frozen=True, slots=True)
class Role:
    """What a VM is like and what happens to it."""

    name: str  # first part of the VM's name; its number follows
    guest: str = "steady"  # simulator.guest.Kind
    actions: tuple[Action, ...] = ()
    spec: Mapping[str, object] = field(
        default_factory=dict[str, object]
    )  # further fields of simulator.spec.Spec
    starts_at: float = 0  # as a fraction of the duration; 0: before the agent starts
    clone_of: int = 0  # the number of the VM with the same UUID; 0: the UUID is unique
    monitor_taken: bool = False  # another tool is connected to the monitor all the time
    impossible: bool = False  # the guest reports impossible values, which the agent leaves out


@dataclass(frozen=True, slots=True)
class Script:
    """One scenario."""

    about: str
    vms: int
    seconds: int
    roles: tuple[Role, ...]  # of the first VMs
    other_guests: tuple[str, ...]  # simulator.guest.Kind of the remaining VMs, in turn
    settings: Mapping[str, str] = field(default_factory=dict[str, str])  # additional ones of the agent


@dataclass(frozen=True, slots=True)
class Vm:
    """One VM of a run."""

    name: str
    role: Role
    spec: Mapping[str, object]  # simulator.spec.Spec


_BOOT_S = 2.0

_DAY = (
    Role(
        "reboots",
        "leaking",
        (Action(0.3, "the guest reboots", ("reboot",)),),
        {"boot_s": _BOOT_S},
    ),
    Role("churns", "churning"),
    Role("clone", starts_at=0.1, clone_of=2),
    Role(
        "unloads",
        actions=(
            Action(0.12, "the guest unloads its balloon driver", ("unload",)),
            Action(0.75, "the guest loads its balloon driver", ("load",)),
        ),
    ),
    Role(
        "panics",
        actions=(
            Action(0.2, "the guest's kernel panics", ("crash",)),
            Action(0.55, "an administrator resets and resumes the VM", ("reset", "cont")),
        ),
        spec={"pvpanic": True, "no_shutdown": True, "boot_s": _BOOT_S},
    ),
    Role(
        "pauses",
        actions=(
            Action(0.15, "an administrator pauses the VM", ("pause",)),
            Action(0.4, "an administrator resumes the VM", ("cont",)),
            Action(0.6, "an administrator turns off the VM's statistics", ("interval 0",)),
        ),
    ),
    Role(
        "dies",
        actions=(
            Action(0.35, "QEMU is killed", ("kill",)),
            Action(0.6, "QEMU is started again", ("restart",)),
        ),
    ),
    Role(
        "freezes",
        actions=(
            Action(0.25, "QEMU is frozen (SIGSTOP)", ("freeze",)),
            Action(0.65, "QEMU is resumed (SIGCONT)", ("thaw",)),
        ),
    ),
    Role("windows", "windows"),
    Role("driverless", "silent", (Action(0.5, "the guest loads its balloon driver", ("load",)),)),
    Role("balloonless", spec={"bus": "none"}),
    Role("taken", monitor_taken=True),
)


def _break(text: str, order: str) -> tuple[Action, ...]:
    return (Action(0.2, f"{text}, until the end", (order,), makes_unreadable=True),)


_NEIGHBOURS = (
    Role("frozen", actions=_break("QEMU is frozen (SIGSTOP)", "freeze")),
    Role("lying", "lying", impossible=True),
    Role("flooding", actions=_break("the monitor sends 20,000 events per second", "flood 20000")),
    Role(
        "disconnecting", actions=_break("the monitor disconnects every client after the greeting", "hang up")
    ),
)

SCENARIOS: Mapping[Scenario, Script] = {
    Scenario.DAY: Script(
        "shows every VM state. A guest unloads and reloads its balloon driver, one panics, one reboots, "
        "one loads its driver late; a VM is paused, and later its statistics are turned off; one QEMU is "
        "killed and started again, one freezes. Others never report: no balloon, Windows without the balloon "
        "service, a monitor used by another tool, a clone with the UUID of another VM. The agent checks the "
        "polling intervals every second instead of every 30 s.",
        vms=len(_DAY),
        seconds=60,
        roles=_DAY,
        other_guests=("steady", "churning", "leaking"),
        settings={"BAROGRAPH_POLLING__RECHECK": "1s", "BAROGRAPH_POLLING__SET_AGAIN": "5s"},
    ),
    Scenario.STEADY: Script(
        "shows how much CPU the agent uses, and how soon it reads each update, while nothing else happens.",
        vms=10,
        seconds=30,
        roles=(),
        other_guests=("steady",),
    ),
    Scenario.PRESSURE: Script(
        "shows guests under memory pressure. Some leak memory until they swap and the OOM killer frees it: "
        "available memory falls, swap and major faults rise. Others allocate and free memory in turn.",
        vms=12,
        seconds=60,
        roles=(),
        other_guests=("leaking", "churning"),
    ),
    Scenario.FLEET: Script(
        "starts with many VMs whose statistics are off, and shows how soon each has its first sample and how "
        "much CPU the agent uses afterwards.",
        vms=250,
        seconds=30,
        roles=(),
        other_guests=("steady", "churning", "leaking", "steady"),
    ),
    Scenario.NEIGHBOURS: Script(
        "runs four faulty VMs beside healthy ones: a frozen QEMU, a guest that reports impossible values, a "
        "monitor that floods its client with events and one that disconnects every client. Their states or "
        "counters show the fault; the other VMs lose no update.",
        vms=50,
        seconds=30,
        roles=_NEIGHBOURS,
        other_guests=("steady", "churning"),
    ),
}


def vms_of(script: Script, vms: int, seed: str) -> Sequence[Vm]:
    """Return `vms` VMs of a script: those with a role first.

    Their UUIDs derive from `seed`, so that two runs with different seeds have different VMs.
    """
    kinds = script.other_guests
    roles = [
        *script.roles[:vms],
        *(Role(kinds[index % len(kinds)], kinds[index % len(kinds)]) for index in range(vms)),
    ]
    width = len(str(vms))
    made: list[Vm] = []
    for number, role in enumerate(roles[:vms], 1):
        spec = {
            "version": "10.0",
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}/{role.clone_of or number}")),
            "memory_bytes": 1024 * MIB,
            "guest": role.guest,
            "seed": number,
            **role.spec,
        }
        made.append(Vm(f"{role.name}-{number:0{width}}", role, spec))
    return made
