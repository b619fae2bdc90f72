"""The leak job: one record at the first sample of each day, once an epoch has three complete days."""

from msgspec import UNSET, Struct, UnsetType

from barograph_streams.core.daily import Day, add
from barograph_streams.core.documents import Host, Sample, Vm
from barograph_streams.core.leak import DAYS_KEPT, Leak, leak_of
from barograph_streams.core.records import Record
from barograph_streams.core.sample_job import SampleJob, record_of_sample

TOPIC = "barograph.vm.leak"


class Memory(Struct, array_like=True, frozen=True):
    """What the job keeps of one VM."""

    epoch: str
    last_update_s: int
    days: tuple[Day, ...]  # the minimum of used memory, in bytes; the last day is not complete


class LeakDocument(Struct, frozen=True, omit_defaults=True):
    """The value of a record: schemas/leak describes it."""

    schema: str
    vm: Vm
    host: Host
    epoch: str
    sequence: int
    last_update: int
    leaking: bool
    bytes_per_hour: float
    confidence: float
    days: int
    available_bytes: int
    hours_left: float | UnsetType = UNSET


def fold(memory: Memory | None, sample: Sample) -> tuple[Memory | None, tuple[Record, ...]]:
    """Return what is kept after a sample, and the record that is due."""
    guest = sample.used
    if guest is None:
        return memory, ()
    if memory is None or memory.epoch != sample.epoch:
        memory = Memory(sample.epoch, 0, ())
    if sample.last_update <= memory.last_update_s:
        return memory, ()
    days = add(memory.days, sample.last_update, guest.used, choose=min, kept=DAYS_KEPT + 1)
    began = bool(memory.days) and days[-1].day != memory.days[-1].day
    found = leak_of(days[:-1], guest.available, guest.total) if began else None
    records = () if found is None else (leak_record(sample, found, guest.available),)
    return Memory(sample.epoch, sample.last_update, days), records


def leak_record(sample: Sample, leak: Leak, available: int) -> Record:
    """Return the record of a leak. Its id is that of the sample."""
    document = LeakDocument(
        schema="barograph.vm.leak/1.0",
        vm=sample.vm,
        host=sample.host,
        epoch=sample.epoch,
        sequence=sample.sequence,
        last_update=sample.last_update,
        leaking=leak.leaking,
        bytes_per_hour=leak.bytes_per_h,
        confidence=leak.confidence,
        days=leak.days,
        available_bytes=available,
        hours_left=UNSET if leak.hours_left is None else leak.hours_left,
    )
    return record_of_sample(TOPIC, "leak", sample, document)


JOB = SampleJob(fold, Memory)
