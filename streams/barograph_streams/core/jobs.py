"""The jobs by name: what each reads, and what it does with a record."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from barograph_streams.core import pressure_job
from barograph_streams.core.documents import Outcome
from barograph_streams.core.frames import split_frame
from barograph_streams.core.pressure_job import Step
from barograph_streams.core.records import Record, dead_letter

COUNTED = tuple(str(outcome) for outcome in Outcome)
"""The names of the counters of a job, beside `lost` and `found`."""


class Job(Struct, frozen=True):
    """A job: it keeps one array of bytes for each key."""

    name: str
    topics: Sequence[str]
    step: Callable[[bytes | None, str, bytes], Step]


JOBS: Mapping[str, Job] = {
    job.name: job for job in (Job("pressure", ("barograph.samples",), pressure_job.step),)
}


def process(job: Job, kept: bytes | None, key: str, frame: bytes) -> tuple[Step, Sequence[Record]]:
    """Return what one record of Kafka changes, and the records to write: also the dead letter."""
    place, value = split_frame(frame)
    step = job.step(kept, key, value)
    if not step.outcome.is_dead:
        return step, step.records
    return step, (dead_letter(job.name, step.outcome, place, key.encode(), value),)
