"""The pressure job: samples in, a record at each change of a VM's pressure level and as a heartbeat.

Its results depend on the samples of a VM and their order alone, never on the time of processing: a replay
gives the same records.
"""

from collections.abc import Mapping

from msgspec import UNSET, Struct, UnsetType

from barograph_streams.core.documents import Host, Sample, Vm
from barograph_streams.core.pressure import Level, Pressure, PressureState, advance
from barograph_streams.core.records import Record
from barograph_streams.core.sample_job import SampleJob, record_of_sample

TOPIC = "barograph.vm.pressure"

HEARTBEAT_S = 300
"""A level that has not changed is written again after so much `last_update`."""

COMPONENTS = (
    "headroom",
    "major_faults",
    "swap",
    "allocation_stalls",
    "direct_scans",
    "reclaim",
    "oom_kill",
)


class Memory(Struct, array_like=True, frozen=True):
    """What the job keeps of one VM."""

    pressure: PressureState
    level: Level  # of the newest record
    written_s: int  # the `last_update` of the newest record


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


def fold(memory: Memory | None, sample: Sample) -> tuple[Memory | None, tuple[Record, ...]]:
    """Return what is kept after a sample, and the record that is due."""
    pressure = advance(
        None if memory is None else memory.pressure,
        epoch=sample.epoch,
        last_update_s=sample.last_update,
        statistics=sample.statistics,
    )
    if pressure is None:
        return memory, ()
    level = pressure.state.level
    if memory is not None and memory.level is level:
        # Below 0 after the host's clock was set back, when `since` has changed as well.
        if 0 <= sample.last_update - memory.written_s < HEARTBEAT_S:
            return Memory(pressure.state, level, memory.written_s), ()
        record = pressure_record(sample, pressure, None, heartbeat=True)
    else:
        previous_level = None if memory is None else memory.level
        record = pressure_record(sample, pressure, previous_level, heartbeat=False)
    return Memory(pressure.state, level, sample.last_update), (record,)


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
    return record_of_sample(TOPIC, "pressure", sample, document, state.level)


JOB = SampleJob(fold, Memory)
