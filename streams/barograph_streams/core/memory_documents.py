"""Parses the values of barograph.memory: docs/contract.md and schemas/memory, schemas/host."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from barograph_streams.core.documents import Count, Host, Sequence, Uuid, Vm
from barograph_streams.core.states import TimeMs, Word

IntervalS = Annotated[int, Meta(ge=1, le=86_400)]


class Configured(Struct, frozen=True):
    """What a VM was given."""

    base_bytes: Annotated[int, Meta(ge=1, le=(1 << 53) - 1)]
    plugged_bytes: Count


class Balloon(Struct, frozen=True):
    """The balloon of a VM."""

    actual_bytes: Count | UnsetType = UNSET
    deflate_on_oom: bool = False  # unknown counts as false, by which a guest uses more


class Process(Struct, frozen=True):
    """What QEMU takes of the host."""

    resident_bytes: Count
    swap_bytes: Count = 0
    hugetlb_bytes: Count = 0


class VmMemoryDocument(Struct, frozen=True):
    """What the jobs use of the memory of a VM."""

    schema: str
    vm: Vm
    host: Host
    run: Uuid
    sequence: Sequence
    observed_at_ms: TimeMs
    interval_s: IntervalS
    state: Word
    configured: Configured | UnsetType = UNSET
    balloon: Balloon | UnsetType = UNSET
    process: Process | UnsetType = UNSET
    redelivered: bool = False


class Memory(Struct, frozen=True):
    """The memory of a host."""

    total_bytes: Count | UnsetType = UNSET
    available_bytes: Count | UnsetType = UNSET


class Stall(Struct, frozen=True):
    """One line of PSI."""

    total_us: Count


class Pressure(Struct, frozen=True):
    """The PSI of a host."""

    some: Stall


class Vms(Struct, frozen=True):
    """The VMs that the agent observes."""

    count: Count


class HostMemoryDocument(Struct, frozen=True):
    """What the jobs use of the memory of a host."""

    schema: str
    host: Host
    run: Uuid
    sequence: Sequence
    observed_at_ms: TimeMs
    interval_s: IntervalS
    vms: Vms
    memory: Memory | UnsetType = UNSET
    pressure: Pressure | UnsetType = UNSET
    redelivered: bool = False


VM_MEMORY = "barograph.vm.memory"
HOST_MEMORY = "barograph.host.memory"

DECODERS = {
    VM_MEMORY: msgspec.json.Decoder(VmMemoryDocument),
    HOST_MEMORY: msgspec.json.Decoder(HostMemoryDocument),
}
