"""The right-size job: one record at the first sample of each day, from the peaks of the complete days."""

from msgspec import Struct

from barograph_streams.core.daily import DAY_S, Day, add
from barograph_streams.core.documents import Host, Sample, Vm
from barograph_streams.core.records import Record
from barograph_streams.core.right_size import DAYS_KEPT, RightSize, after_oom, right_size_of
from barograph_streams.core.sample_job import SampleJob, record_of_sample

TOPIC = "barograph.vm.right-size"


class Memory(Struct, array_like=True, frozen=True):
    """What the job keeps of one VM."""

    epoch: str
    last_update_s: int
    oom_kills: int | None  # of the sample before
    days: tuple[Day, ...]  # the peak of used memory, in bytes; the last day is not complete


class RightSizeDocument(Struct, frozen=True):
    """The value of a record: schemas/right-size describes it."""

    schema: str
    vm: Vm
    host: Host
    epoch: str
    sequence: int
    last_update: int
    total_bytes: int
    target_bytes: int
    lower_bytes: int
    upper_bytes: int
    confidence: float
    days: int


def fold(memory: Memory | None, sample: Sample) -> tuple[Memory | None, tuple[Record, ...]]:
    """Return what is kept after a sample, and the record that is due.

    Days go on over epochs, since a reboot or a migration does not change what the VM needs. If the clock went
    back by more than a day, they begin again.
    """
    guest = sample.used
    if guest is None:
        return memory, ()
    if memory is not None and sample.last_update <= memory.last_update_s:
        if memory.epoch == sample.epoch:
            return memory, ()
        if memory.last_update_s - sample.last_update > DAY_S:
            memory = None
    used, kills = guest.used, sample.statistics.get("oom_kills")
    before = memory.oom_kills if memory is not None and memory.epoch == sample.epoch else None
    if kills is not None and before is not None and kills > before:
        used = after_oom(used)
    known = memory.days if memory is not None else ()
    at_s = max(sample.last_update, known[-1].day * DAY_S) if known else sample.last_update
    days = add(known, at_s, used, choose=max, kept=DAYS_KEPT + 1)
    began = bool(known) and days[-1].day != known[-1].day
    found = right_size_of(days[:-1]) if began else None
    records = () if found is None else (right_size_record(sample, found, guest.total),)
    return Memory(sample.epoch, sample.last_update, kills, days), records


def right_size_record(sample: Sample, size: RightSize, total: int) -> Record:
    """Return the record of a right size. Its id is that of the sample."""
    document = RightSizeDocument(
        schema="barograph.vm.right-size/1.0",
        vm=sample.vm,
        host=sample.host,
        epoch=sample.epoch,
        sequence=sample.sequence,
        last_update=sample.last_update,
        total_bytes=total,
        target_bytes=size.target,
        lower_bytes=size.lower,
        upper_bytes=size.upper,
        confidence=size.confidence,
        days=size.days,
    )
    return record_of_sample(TOPIC, "right-size", sample, document)


JOB = SampleJob(fold, Memory)
