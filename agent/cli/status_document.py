"""What the commands read of `/status`. Pure.

All texts come from another process, and the names in them from guests and their managers: `plain` makes them
safe for a terminal.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from agent.contract.foreign import decode_foreign
from agent.core.urgency import Urgency, urgency

_PATH_CHARACTERS_MAX = 4_096

Number = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
"""A larger one could not be divided."""


class VmIdentity(msgspec.Struct, frozen=True):
    """What names a VM; all absent fields are unknown."""

    name: str | None = None
    id: str | None = None
    path: str | None = None


class VmState(msgspec.Struct, frozen=True):
    """The newest state of a VM."""

    vm: VmIdentity
    state: str
    reason: str
    since_ms: Number
    detail: str = ""
    previous_state: str | None = None


class Balloon(msgspec.Struct, frozen=True):
    """The size that the balloon leaves to the guest."""

    actual_bytes: Number | None = None


class VmSample(msgspec.Struct, frozen=True):
    """The newest sample of a VM."""

    statistics: Mapping[str, Number]
    balloon: Balloon | None = None


class Configured(msgspec.Struct, frozen=True):
    """The memory that a VM was given."""

    base_bytes: Number = 0
    plugged_bytes: Number = 0


class ProcessMemory(msgspec.Struct, frozen=True):
    """What the QEMU process takes of the host."""

    resident_bytes: Number | None = None
    swap_bytes: Number | None = None


class VmMemory(msgspec.Struct, frozen=True):
    """A VM's memory as its host sees it."""

    configured: Configured | None = None
    balloon: Balloon | None = None
    process: ProcessMemory | None = None


class Pressure(msgspec.Struct, frozen=True):
    """The pressure of a VM. A score that is null is not available."""

    level: str
    score: float | None = None
    components: Mapping[str, float | None] = {}


class Explanation(msgspec.Struct, frozen=True):
    """What the reason of a state means, and what to do."""

    meaning: str
    next_step: str


class Vm(msgspec.Struct, frozen=True):
    """One VM."""

    state: VmState
    age_s: float | None = None
    since_ms: Number | None = None  # of the level of pressure that makes it urgent, else of the state
    sample: VmSample | None = None
    explanation: Explanation | None = None
    pressure: Pressure | None = None
    memory: VmMemory | None = None

    @property
    def name(self) -> str:
        """The name, or where the VM is: an id made from that says nothing to people."""
        identity = self.state.vm
        return identity.name or identity.path or identity.id or "?"

    @property
    def level(self) -> str | None:
        """The level of pressure; `None`: it is not known, or not known to be true now."""
        if self.state.state != "reporting" or self.pressure is None or self.pressure.score is None:
            return None
        return self.pressure.level

    @property
    def urgency(self) -> Urgency:
        """How urgently people should look at it."""
        return urgency(self.state.state, self.state.reason, self.level)

    @property
    def available(self) -> float | None:
        """The available share of the guest's memory. Old values are not shown as new ones."""
        available, total = self.statistic("available_memory"), self.statistic("total_memory")
        return None if available is None or not total else min(1.0, max(0.0, available / total))

    def since_s(self, now_ms: float) -> float:
        """Return for how long the VM has had its state, or the level of pressure that makes it urgent."""
        return (now_ms - (self.state.since_ms if self.since_ms is None else self.since_ms)) / 1000

    def statistic(self, name: str) -> int | None:
        """Return a value of the newest sample, while the VM reports."""
        if self.sample is None or self.state.state != "reporting":
            return None
        return self.sample.statistics.get(name)


class HostName(msgspec.Struct, frozen=True):
    """What names a host."""

    id: str
    name: str


class Agent(msgspec.Struct, frozen=True):
    """The agent's own state."""

    host: HostName
    state: str = ""
    detail: str = ""
    since_ms: Number = 0
    version: str = ""


class Stall(msgspec.Struct, frozen=True):
    """One line of PSI, in percent."""

    avg10: float = 0.0
    avg60: float = 0.0


class Psi(msgspec.Struct, frozen=True):
    """Pressure stall information of the host's memory."""

    some: Stall | None = None
    full: Stall | None = None


class Sizes(msgspec.Struct, frozen=True):
    """Memory, or swap."""

    total_bytes: Number | None = None
    free_bytes: Number | None = None
    available_bytes: Number | None = None


class HostMemory(msgspec.Struct, frozen=True):
    """The memory of the host."""

    memory: Sizes | None = None
    swap: Sizes | None = None
    pressure: Psi | None = None


class Component(msgspec.Struct, frozen=True):
    """The health of one part of the agent."""

    state: str
    since_ms: Number = 0
    why: str = ""


class Health(msgspec.Struct, frozen=True):
    """The health of the agent: the worst of its components."""

    state: str = ""
    components: Mapping[str, Component] = {}


class Status(msgspec.Struct, frozen=True):
    """What is used of `/status`."""

    now_ms: Number
    vms: list[Vm]
    agent: Agent | None = None
    health: Health = Health()
    host: HostMemory | None = None

    @property
    def host_name(self) -> str:
        """The name of the host; empty: not known."""
        return "" if self.agent is None else self.agent.host.name


def parse(text: bytes) -> Status:
    """Return the document; `ValueError`: it is not one of `/status`."""
    return decode_foreign(text, Status)


def order(vm: Vm) -> tuple[int, float, str]:
    """Return the key that sorts VMs, worst first; of the same urgency, those with the least memory."""
    return vm.urgency, share_order(vm), vm.name


def share_order(vm: Vm) -> float:
    """Return the available share to sort by, in whole percent as it is shown: VMs do not change places
    with each update. Those without a share come last."""
    share = vm.available
    return 2.0 if share is None else round(share, 2)


def plain(text: str, characters_max: int) -> str:
    """Return the text in printable ASCII, cut to the length; `~` marks the cut."""
    shown = "".join(
        each if each.isascii() and each.isprintable() else "?" for each in text[: characters_max + 1]
    )
    return shown if len(shown) <= characters_max else shown[: max(0, characters_max - 1)] + "~"


def short_name(name: str, characters_max: int) -> str:
    """Return a name, or the end of a path: paths of several VMs have the same beginning."""
    text = plain(name, _PATH_CHARACTERS_MAX)
    if not text.startswith("/") or len(text) <= characters_max:
        return plain(text, characters_max)
    return f"...{text[3 - characters_max :]}"


def span(seconds: float) -> str:
    """Return a duration in one unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{min(seconds // length, 99_999):.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def size(size_bytes: float) -> str:
    """Return an amount of memory in one unit of 1,024."""
    for unit, length in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20)):
        if size_bytes >= length:
            return f"{min(size_bytes / length, 99_999):.1f}{unit}"
    return f"{max(0.0, size_bytes) / 1024:.0f}K"
