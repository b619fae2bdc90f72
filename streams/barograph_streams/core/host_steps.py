"""The second step of the jobs on hosts: it keeps what is known of a host and its VMs, and when that is void.

A job decides at each memory record of the host, by the host's own clock, so a backlog gives the same records
as live ones. Silence has no record: a timer of the job's clock shows it.
"""

from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from barograph_streams.core.documents import Outcome
from barograph_streams.core.facts import STALE_INTERVALS, HostFact, LeftFact, VmFact, decode, decode_vm
from barograph_streams.core.records import Record
from barograph_streams.core.steps import Step
from barograph_streams.core.validity import ALLOWANCE_MS, GRACE_MS

VMS_KEPT = 2_048
"""Of a host, the newest by arrival."""

FORGOTTEN_INTERVALS = 10
"""A VM without a record for so many intervals is no longer on the host."""

Memory = TypeVar("Memory")


class Judge(Protocol[Memory]):
    """What a job on hosts decides."""

    def judge(
        self, memory: Memory | None, host: HostFact, vms: Mapping[str, VmFact]
    ) -> tuple[Memory, tuple[Record, ...]]:
        """Return what is kept of a host after a record of its memory, and the records to write."""
        ...

    def void(self, memory: Memory, host: HostFact, now_ms: int) -> tuple[Memory, tuple[Record, ...]]:
        """Return the same after the host's newest record has become void."""
        ...


class Common(Struct, array_like=True):
    """What every job on hosts keeps of a host."""

    vms: dict[str, msgspec.Raw]  # encoded VmFacts by VM, in the order of arrival
    host: HostFact | None = None  # the newest
    is_void: bool = False
    void_at_ms: int = 0  # by the job's clock
    timer_ms: int = 0  # when the timer that is set fires; 0: none is


_encoder = Encoder()
_NONE = msgspec.Raw(_encoder.encode(None))


class HostSteps(Generic[Memory]):
    """The second step of a job."""

    def __init__(self, judge: Judge[Memory], memory: type[Memory]) -> None:
        self._judge = judge
        # A fact of a VM leaves the job's own memory encoded.
        self._decoder: Decoder[tuple[Common, msgspec.Raw]] = Decoder(tuple[Common, msgspec.Raw])
        optional: Any = memory | None
        self._memory_decoder: Decoder[Memory | None] = Decoder(optional)

    def step(self, kept: bytes | None, key: str, value: bytes, now_ms: int) -> Step:
        """Return what one fact changes; `key`: the host's id."""
        common, raw = (Common({}), _NONE) if kept is None else self._decoder.decode(kept)
        fact = decode(value)
        records: tuple[Record, ...] = ()
        timer_ms: int | None = None
        if isinstance(fact, VmFact):
            common.vms.pop(fact.vm, None)
            common.vms[fact.vm] = msgspec.Raw(value)
            while len(common.vms) > VMS_KEPT:
                del common.vms[next(iter(common.vms))]
        elif isinstance(fact, LeftFact):
            common.vms.pop(fact.vm, None)
        else:
            common.host, common.is_void = fact, False
            # A clock that is ahead does not keep the host valid for longer, and a backlog does not end it.
            read_ms = min(fact.at_ms, now_ms)
            valid_ms = STALE_INTERVALS * fact.interval_s * 1000 + ALLOWANCE_MS
            common.void_at_ms = max(read_ms + valid_ms, now_ms + GRACE_MS)
            before = self._memory_decoder.decode(raw)
            memory, records = self._judge.judge(before, fact, _known(common, fact))
            raw = msgspec.Raw(_encoder.encode(memory))
            if common.timer_ms == 0:
                common.timer_ms = timer_ms = common.void_at_ms
        return Step(Outcome.KEPT, _encoder.encode((common, raw)), records, timer_ms=timer_ms)

    def on_timer(self, kept: bytes | None, key: str, now_ms: int) -> Step:
        """Return what the passing of time changes."""
        if kept is None:
            return Step(Outcome.KEPT, None)
        common, raw = self._decoder.decode(kept)
        memory = self._memory_decoder.decode(raw)
        if now_ms - common.timer_ms > GRACE_MS:  # the job was down, and what it has missed follows
            common.void_at_ms = max(common.void_at_ms, now_ms + GRACE_MS)
        common.timer_ms = 0
        records: tuple[Record, ...] = ()
        timer_ms: int | None = None
        if common.host is not None and memory is not None and not common.is_void:
            if now_ms >= common.void_at_ms:
                common.is_void = True
                memory, records = self._judge.void(memory, common.host, now_ms)
                raw = msgspec.Raw(_encoder.encode(memory))
            else:
                common.timer_ms = timer_ms = common.void_at_ms
        return Step(Outcome.KEPT, _encoder.encode((common, raw)), records, timer_ms=timer_ms)


def _known(common: Common, host: HostFact) -> Mapping[str, VmFact]:
    """Return the VMs of a host, and forget those without a record for long."""
    found: dict[str, VmFact] = {}
    for vm, kept in list(common.vms.items()):
        fact = decode_vm(kept)
        if host.at_ms - fact.at_ms > FORGOTTEN_INTERVALS * fact.interval_s * 1000:
            del common.vms[vm]
        else:
            found[vm] = fact
    return found
