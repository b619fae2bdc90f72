"""What the jobs on hosts know of a host and its VMs. The first step sends it to the host's second step."""

import msgspec
from msgspec import Struct, UnsetType

from barograph_streams.core.documents import Host
from barograph_streams.core.memory_documents import HostMemoryDocument

STALE_INTERVALS = 3
"""A record of `barograph.memory` that is older than so many of its intervals is stale (docs/contract.md)."""


class Guest(Struct, array_like=True, frozen=True):
    """The newest sample of a VM, as far as the jobs on hosts use it."""

    host: str  # its id
    epoch: str
    observed_at_ms: int
    polling_interval_s: int
    used: int | None  # in bytes
    swapped: int | None  # swap_in + swap_out, in bytes: a counter


class VmFact(Struct, array_like=True, frozen=True, tag="vm"):
    """A VM on a host, after a record of its memory or its state. Times are of the host's clock."""

    vm: str  # its id
    counted: bool  # False: it also runs on another host, and is counted there
    at_ms: int
    interval_s: int
    state: str
    configured: int | None  # all sizes in bytes
    base: int | None
    actual: int | None
    deflates: bool  # the balloon, when the guest runs out of memory
    resident: int | None  # without huge pages
    swapped: int  # by the host
    huge: int
    guest: Guest | None


class LeftFact(Struct, array_like=True, frozen=True, tag="left"):
    """A VM is no longer on a host."""

    vm: str


class HostFact(Struct, array_like=True, frozen=True, tag="host"):
    """The memory of a host. Times are of its own clock."""

    host: Host
    at_ms: int
    interval_s: int
    vms: int  # that the agent observes
    total: int | None
    available: int | None
    stalled_us: int | None  # since boot, at least one task (PSI `some`)


Fact = VmFact | LeftFact | HostFact

_encoder = msgspec.msgpack.Encoder()
_decoder: "msgspec.msgpack.Decoder[Fact]" = msgspec.msgpack.Decoder(Fact)
_vm_decoder = msgspec.msgpack.Decoder(VmFact)


def encode(fact: Fact) -> bytes:
    """Return a fact as it is sent to its host."""
    return _encoder.encode(fact)


def decode(value: bytes) -> Fact:
    """Return the fact that `encode` was given."""
    return _decoder.decode(value)


def decode_vm(value: msgspec.Raw) -> VmFact:
    """Return the fact of a VM that `encode` was given."""
    return _vm_decoder.decode(value)


def host_fact(document: HostMemoryDocument) -> HostFact:
    """Return the fact of a host's record."""
    memory = document.memory
    psi = document.pressure
    return HostFact(
        host=document.host,
        at_ms=document.observed_at_ms,
        interval_s=document.interval_s,
        vms=document.vms.count,
        total=None if isinstance(memory, UnsetType) else known(memory.total_bytes),
        available=None if isinstance(memory, UnsetType) else known(memory.available_bytes),
        stalled_us=None if isinstance(psi, UnsetType) else psi.some.total_us,
    )


def known(value: int | UnsetType) -> int | None:
    """Return a value that may be absent."""
    return None if isinstance(value, UnsetType) else value
