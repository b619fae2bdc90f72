"""What `barograph demo` can show: which VMs there are, and what is done to them when."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1 << 20


class Scenario(StrEnum):
    """Their names on the command line; what each shows is in `SCENARIOS`."""

    DAY = "day"
    STEADY = "steady"
    PRESSURE = "pressure"
    FLEET = "fleet"
    NEIGHBOURS = "neighbours"


@dataclass(frozen=True, slots=True)
class Act:
    """Something done to a VM."""

    at: float  # as a share of the whole time
    words: str  # what the story says of it
    orders: tuple[str, ...]  # of simulator.orders
    for_good: bool = False  # from here on its monitor cannot be read, so the agent owes nothing of it


@dataclass(frozen=True, slots=True)
class Role:
    """What a VM is like."""

    name: str  # what the VM is called, with its number
    guest: str = "steady"  # simulator.guest.Kind
    acts: tuple[Act, ...] = ()
    spec: Mapping[str, object] = field(default_factory=dict[str, object])  # more of simulator.qemu.Spec
    comes_at: float = 0  # as a share of the whole time; 0: it is there before the agent
    clone_of: int = 0  # the number of the VM whose uuid it has
    held: bool = False  # by another tool, all the time
    lies: bool = False  # values that cannot be, which the agent leaves out


@dataclass(frozen=True, slots=True)
class Script:
    """One scenario."""

    about: str
    vms: int
    seconds: int
    roles: tuple[Role, ...]  # of the first VMs
    others: tuple[str, ...]  # kinds of guests, in turn, of those after them
    settings: Mapping[str, str] = field(default_factory=dict[str, str])  # the agent's, beside the usual ones


@dataclass(frozen=True, slots=True)
class Vm:
    """One VM of a cast."""

    name: str
    role: Role
    spec: Mapping[str, object]  # simulator.qemu.Spec


_BOOT_S = 2.0

_DAY = (
    Role(
        "reboots",
        "leaking",
        (Act(0.3, "somebody reboots the guest", ("reboot",)),),
        {"boot_s": _BOOT_S},
    ),
    Role("churns", "churning"),
    Role("clone", comes_at=0.1, clone_of=2),
    Role(
        "unloads",
        acts=(
            Act(0.12, "the guest unloads its balloon driver", ("unload",)),
            Act(0.75, "the guest loads its balloon driver", ("load",)),
        ),
    ),
    Role(
        "panics",
        acts=(
            Act(0.2, "the guest's kernel panics", ("crash",)),
            Act(0.55, "somebody resets the VM and lets it run", ("reset", "cont")),
        ),
        spec={"pvpanic": True, "no_shutdown": True, "boot_s": _BOOT_S},
    ),
    Role(
        "pauses",
        acts=(
            Act(0.15, "somebody pauses the VM", ("pause",)),
            Act(0.4, "somebody lets the VM run on", ("cont",)),
            Act(0.6, "somebody switches its statistics off", ("interval 0",)),
        ),
    ),
    Role(
        "dies",
        acts=(
            Act(0.35, "its QEMU is killed", ("kill",)),
            Act(0.6, "its QEMU is started again", ("restart",)),
        ),
    ),
    Role(
        "freezes",
        acts=(
            Act(0.25, "its QEMU is frozen (SIGSTOP)", ("freeze",)),
            Act(0.65, "its QEMU goes on (SIGCONT)", ("thaw",)),
        ),
    ),
    Role("windows", "windows"),
    Role("driverless", "silent", (Act(0.5, "the guest loads its balloon driver", ("load",)),)),
    Role("balloonless", spec={"bus": "none"}),
    Role("taken", held=True),
)


def _for_good(words: str, order: str) -> tuple[Act, ...]:
    return (Act(0.2, f"{words}, for good", (order,), for_good=True),)


_NEIGHBOURS = (
    Role("frozen", acts=_for_good("its QEMU is frozen (SIGSTOP)", "freeze")),
    Role("lying", "lying", lies=True),
    Role("flooding", acts=_for_good("it sends 20,000 events a second", "flood 20000")),
    Role("slamming", acts=_for_good("it hangs up on every client it has greeted", "hang up")),
)

SCENARIOS: Mapping[Scenario, Script] = {
    Scenario.DAY: Script(
        "every state once: a driver is unloaded and loaded, a guest panics, another reboots, a VM is paused, "
        "its statistics are switched off, a QEMU is killed and started again, another freezes; and those "
        "that never had a chance: no driver, no balloon, Windows without its service, a monitor that another "
        "tool has, a clone with another VM's uuid. The agent looks at the intervals every second, not every "
        "30 s.",
        vms=len(_DAY),
        seconds=60,
        roles=_DAY,
        others=("steady", "churning", "leaking"),
        settings={"BAROGRAPH_POLLING__RECHECK": "1s", "BAROGRAPH_POLLING__SET_AGAIN": "5s"},
    ),
    Scenario.STEADY: Script(
        "nothing happens: what the agent costs, and how soon it has each update.",
        vms=10,
        seconds=30,
        roles=(),
        others=("steady",),
    ),
    Scenario.PRESSURE: Script(
        "guests that leak until they swap and the OOM killer takes it back, beside some whose memory comes "
        "and goes: available memory falls, swap and major faults rise.",
        vms=12,
        seconds=60,
        roles=(),
        others=("leaking", "churning"),
    ),
    Scenario.FLEET: Script(
        "many VMs at once whose statistics nobody has switched on: how soon each has its first sample, and "
        "what they cost after that.",
        vms=250,
        seconds=30,
        roles=(),
        others=("steady", "churning", "leaking", "steady"),
    ),
    Scenario.NEIGHBOURS: Script(
        "four bad ones beside healthy ones: a frozen QEMU, a guest that lies, a monitor that floods and one "
        "that hangs up on whoever comes. Each is named in its state, or in what is kept out; the others lose "
        "nothing.",
        vms=50,
        seconds=30,
        roles=_NEIGHBOURS,
        others=("steady", "churning"),
    ),
}


def cast_of(script: Script, vms: int, seed: str) -> Sequence[Vm]:
    """Return so many VMs of a script; of fewer than it has roles, the first.

    Their uuids come from `seed`: another seed, other VMs.
    """
    kinds = script.others
    roles = [
        *script.roles[:vms],
        *(Role(kinds[at % len(kinds)], kinds[at % len(kinds)]) for at in range(vms)),
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
