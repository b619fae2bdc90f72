"""The records of the quality job: schemas/quality and schemas/host-quality describe them."""

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from barograph_streams.core.documents import Host
from barograph_streams.core.reader import ReaderState
from barograph_streams.core.records import Record, event_headers
from barograph_streams.core.validity import Condition, Finding

VM_TOPIC = "barograph.vm.quality"
HOST_TOPIC = "barograph.host.quality"


class Id(Struct, frozen=True):
    """A VM."""

    id: str


class Samples(Struct, frozen=True):
    """How many samples of a VM the job has read."""

    kept: int
    repeats: int
    redelivered: int
    lost: int
    missed_at_most: int


class QualityDocument(Struct, frozen=True, omit_defaults=True):
    """The value of a record."""

    schema: str
    host: Host
    condition: Condition
    state: str
    since_ms: int
    sequence: int
    observed_at_ms: int
    heartbeat: bool
    vm: Id | UnsetType = UNSET
    previous_condition: Condition | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    samples: Samples | UnsetType = UNSET


_encoder = msgspec.json.Encoder()


def quality_record(
    key: str,
    *,
    host: Host,
    is_host: bool,
    found: Finding,
    previous: Finding | None,
    samples: ReaderState,
    sequence: int,
    at_ms: int,
    heartbeat: bool,
) -> Record:
    """Return the record of what a VM or a host is. Its id has the key, the time and the sequence."""
    kind: Literal["host", "vm"] = "host" if is_host else "vm"
    counts = Samples(samples.kept, samples.repeats, samples.redelivered, samples.lost, samples.missed)
    document = QualityDocument(
        schema=f"barograph.{kind}.quality/1.0",
        host=host,
        condition=found.condition,
        state=found.state,
        since_ms=found.since_ms,
        sequence=sequence,
        observed_at_ms=at_ms,
        heartbeat=heartbeat,
        vm=UNSET if is_host else Id(key),
        previous_condition=UNSET if previous is None else previous.condition,
        reason=found.reason or UNSET,
        samples=UNSET if is_host else counts,
    )
    headers = event_headers(
        "quality",
        kind=f"{kind}.quality",
        schema="host-quality" if is_host else "quality",
        id=f"{key}/{at_ms}/{sequence}",
        key=key,
        subject=None if is_host else key,
        time_ms=at_ms,
        sequence=sequence,
    )
    return Record(HOST_TOPIC if is_host else VM_TOPIC, key.encode(), _encoder.encode(document), headers)
