"""The headroom job: what each host could have available, and how far it is overcommitted."""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Struct, UnsetType

from barograph_streams.core.documents import SEQUENCE_MAX, Host
from barograph_streams.core.facts import HostFact, VmFact
from barograph_streams.core.headroom import Headroom, LeftOut, Sum, headroom_of
from barograph_streams.core.host_steps import HostSteps
from barograph_streams.core.records import Record, event_headers

TOPIC = "barograph.host.headroom"

HEARTBEAT_MS = 900_000
"""A host that has not changed is written again after so much time of its own clock."""

CHANGE = 0.02
"""A size has changed if it differs by this share of the host's memory; a confidence, by this number."""

CURRENT, VOID = "current", "void"


class Memory(Struct, array_like=True, frozen=True):
    """What the job keeps of one host."""

    written: Headroom | None  # of the newest record; None: it was void
    written_ms: int  # by the host's clock
    sequence: int


class HostMemory(Struct, frozen=True, omit_defaults=True):
    """The memory of the host."""

    total_bytes: int | UnsetType = UNSET
    available_bytes: int | UnsetType = UNSET


class Part(Struct, frozen=True, omit_defaults=True):
    """A sum over VMs; the ratio is that to the host's memory."""

    bytes: int
    vms: int
    ratio: float | UnsetType = UNSET


class HeadroomDocument(Struct, frozen=True, omit_defaults=True):
    """The value of a record: schemas/headroom describes it."""

    schema: str
    host: Host
    sequence: int
    observed_at_ms: int
    condition: str
    heartbeat: bool
    memory: HostMemory | UnsetType = UNSET
    headroom_bytes: int | UnsetType = UNSET
    reclaimable: Part | UnsetType = UNSET
    reclaimable_resident: Part | UnsetType = UNSET
    vms: int | UnsetType = UNSET
    configured: Part | UnsetType = UNSET
    actual: Part | UnsetType = UNSET
    resident: Part | UnsetType = UNSET
    unreported_vms: int | UnsetType = UNSET
    unreported: Part | UnsetType = UNSET
    confidence: float | UnsetType = UNSET
    left_out: Mapping[LeftOut, int] | UnsetType = UNSET


_encoder = msgspec.json.Encoder()


class HeadroomJudge:
    """What the job decides."""

    def judge(
        self, memory: Memory | None, host: HostFact, vms: Mapping[str, VmFact]
    ) -> tuple[Memory, tuple[Record, ...]]:
        """Return what is kept of a host after a record of its memory, and the record that is due."""
        found = headroom_of(host, vms.values())
        if memory is None:
            memory = Memory(None, 0, 0)
        changed = memory.written is None or differs(memory.written, found)
        if not changed and 0 <= host.at_ms - memory.written_ms < HEARTBEAT_MS:
            return memory, ()
        sequence = memory.sequence + 1
        record = _record(_current(host, found, sequence, heartbeat=not changed))
        return Memory(found, host.at_ms, sequence), (record,)

    def void(self, memory: Memory, host: HostFact, now_ms: int) -> tuple[Memory, tuple[Record, ...]]:
        """Return the same after the host's newest record has become void."""
        document = HeadroomDocument(
            schema="barograph.host.headroom/1.0",
            host=host.host,
            sequence=memory.sequence + 1,
            observed_at_ms=now_ms,
            condition=VOID,
            heartbeat=False,
        )
        return Memory(None, memory.written_ms, document.sequence), (_record(document),)


def differs(before: Headroom, now: Headroom) -> bool:
    """Whether so much has changed that a record is due."""
    counts = [(each.vms, each.unreported_vms, each.left_out, each.total) for each in (before, now)]
    if counts[0] != counts[1] or (before.available is None) is not (now.available is None):
        return True
    if abs(before.confidence - now.confidence) >= CHANGE:
        return True
    bound = CHANGE * (now.total or 0)
    return any(abs(old - new) > bound for old, new in zip(_sizes(before), _sizes(now), strict=True))


def _sizes(headroom: Headroom) -> tuple[int, ...]:
    sums = (headroom.configured, headroom.actual, headroom.resident)
    return headroom.available or 0, headroom.reclaimable.bytes, *(each.bytes for each in sums)


def _current(host: HostFact, found: Headroom, sequence: int, *, heartbeat: bool) -> HeadroomDocument:
    total, available = found.total, found.available
    return HeadroomDocument(
        schema="barograph.host.headroom/1.0",
        host=host.host,
        sequence=sequence,
        observed_at_ms=host.at_ms,
        condition=CURRENT,
        heartbeat=heartbeat,
        memory=HostMemory(
            UNSET if total is None else total,
            UNSET if available is None else available,
        ),
        headroom_bytes=UNSET if available is None else min(available + found.reclaimable.bytes, SEQUENCE_MAX),
        reclaimable=_part(found.reclaimable, None),
        reclaimable_resident=_part(found.reclaimable_resident, None),
        vms=found.vms,
        configured=_part(found.configured, total),
        actual=_part(found.actual, total),
        resident=_part(found.resident, total),
        unreported_vms=found.unreported_vms,
        unreported=_part(found.unreported, None),
        confidence=found.confidence,
        left_out=found.left_out,
    )


def _part(found: Sum, total: int | None) -> Part:
    return Part(found.bytes, found.vms, found.bytes / total if total else UNSET)


def _record(document: HeadroomDocument) -> Record:
    key = document.host.id
    headers = event_headers(
        "headroom",
        kind="host.headroom",
        schema="headroom",
        id=f"{key}/{document.observed_at_ms}/{document.sequence}",
        key=key,
        subject=None,
        time_ms=document.observed_at_ms,
        sequence=document.sequence,
    )
    return Record(TOPIC, key.encode(), _encoder.encode(document), headers)


STEPS = HostSteps(HeadroomJudge(), Memory)
