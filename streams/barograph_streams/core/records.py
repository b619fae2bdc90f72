"""The records that the jobs write: CloudEvents 1.0 in binary mode, as the agent's are."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from barograph_streams.core.documents import Host, Outcome, Sample, Vm
from barograph_streams.core.pressure import Level, Pressure

PRESSURE_TOPIC = "barograph.vm.pressure"
DEAD_LETTER_TOPIC = "barograph.streams.dead"

COMPONENTS = (
    "headroom",
    "major_faults",
    "swap",
    "allocation_stalls",
    "direct_scans",
    "reclaim",
    "oom_kill",
)


class Record(Struct, frozen=True):
    """A record to be written to Kafka. Its timestamp is set by Flink's sink."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, str]


class PressureDocument(Struct, frozen=True, omit_defaults=True):
    """The value of a record of `barograph.vm.pressure`: schemas/pressure describes it."""

    schema: str
    vm: Vm
    host: Host
    epoch: str
    sequence: int
    last_update: int
    level: Level
    since: int
    heartbeat: bool
    components: Mapping[str, float]
    score: float | UnsetType = UNSET
    previous_level: Level | UnsetType = UNSET


class Place(Struct, frozen=True):
    """Where a record was read."""

    topic: str
    partition: int
    offset: int


_encoder = msgspec.json.Encoder()


def pressure_record(
    sample: Sample, pressure: Pressure, previous_level: Level | None, *, heartbeat: bool
) -> Record:
    """Return the record of the pressure after a sample. Its id is that of the sample."""
    state = pressure.state
    document = PressureDocument(
        schema="barograph.vm.pressure/1.0",
        vm=sample.vm,
        host=sample.host,
        epoch=sample.epoch,
        sequence=sample.sequence,
        last_update=sample.last_update,
        level=state.level,
        since=state.since_s,
        heartbeat=heartbeat,
        components={name: pressure.components[name] for name in COMPONENTS if name in pressure.components},
        score=UNSET if pressure.score is None else pressure.score,
        previous_level=UNSET if previous_level is None else previous_level,
    )
    return Record(
        PRESSURE_TOPIC,
        sample.vm.id.encode(),
        _encoder.encode(document),
        _headers(
            "pressure",
            "vm.pressure",
            id=f"{sample.vm.id}/{sample.epoch}/{sample.last_update}",
            key=sample.vm.id,
            time_s=sample.last_update,
            sequence=sample.sequence,
        ),
    )


def dead_letter(job: str, reason: Outcome, place: Place, key: bytes, value: bytes) -> Record:
    """Return the record of a value that a job cannot use: unchanged, with its place and the reason."""
    headers = {
        "reason": str(reason),
        "job": job,
        "topic": place.topic,
        "partition": str(place.partition),
        "offset": str(place.offset),
    }
    return Record(DEAD_LETTER_TOPIC, key, value, headers)


def _headers(
    job: Literal["pressure"], kind: str, *, id: str, key: str, time_s: int, sequence: int
) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": f"/barograph-streams/{job}",
        "ce_type": f"barograph.{kind}.v1",
        "ce_time": datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "ce_dataschema": f"urn:barograph:schema:{job}:1.0",
        "ce_subject": key,
        "ce_partitionkey": key,
        "ce_sequence": f"{sequence:020}",
    }
