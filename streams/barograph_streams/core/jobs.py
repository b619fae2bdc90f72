"""The jobs by name: what each reads, and what it does with a record."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from barograph_streams.core import (
    facts_by_vm,
    headroom_job,
    leak_job,
    noise_job,
    pressure_job,
    quality_job,
    right_size_job,
)
from barograph_streams.core.documents import Outcome
from barograph_streams.core.frames import place_of, value_of
from barograph_streams.core.records import Record, dead_letter
from barograph_streams.core.steps import Step

SAMPLES_TOPIC = "barograph.samples"
STATES_TOPIC = "barograph.states"
MEMORY_TOPIC = "barograph.memory"

COUNTED = tuple(str(outcome) for outcome in Outcome)
"""The names of the counters of a job, beside `lost` and `found`."""


class Steps(Protocol):
    """What a job does. It keeps one array of bytes for each key."""

    def step(self, kept: bytes | None, key: str, value: bytes, now_ms: int) -> Step:
        """Return what one record changes."""
        ...

    def on_timer(self, kept: bytes | None, key: str, now_ms: int) -> Step:
        """Return what the passing of time changes."""
        ...


class Job(Struct, frozen=True):
    """A job."""

    name: str
    reads: Sequence[str]
    writes: Sequence[str]
    steps: Steps
    has_timers: bool = False
    levels: Sequence[str] = ()  # that the job's metrics count keys by
    by_host: Steps | None = None  # the second step: it has timers, and its values are what `steps` has sent


JOBS: Mapping[str, Job] = {
    job.name: job
    for job in (
        Job(
            "pressure",
            (SAMPLES_TOPIC,),
            (pressure_job.TOPIC,),
            pressure_job.JOB,
            levels=tuple(map(str, pressure_job.Level)),
        ),
        Job("leak", (SAMPLES_TOPIC,), (leak_job.TOPIC,), leak_job.JOB),
        Job("right-size", (SAMPLES_TOPIC,), (right_size_job.TOPIC,), right_size_job.JOB),
        Job(
            "quality",
            (SAMPLES_TOPIC, STATES_TOPIC),
            (quality_job.VM_TOPIC, quality_job.HOST_TOPIC),
            quality_job.QualityJob(),
            has_timers=True,
        ),
        Job(
            "headroom",
            (SAMPLES_TOPIC, STATES_TOPIC, MEMORY_TOPIC),
            (headroom_job.TOPIC,),
            facts_by_vm.FactsByVm(),
            by_host=headroom_job.STEPS,
        ),
        Job(
            "noisy-guest",
            (SAMPLES_TOPIC, STATES_TOPIC, MEMORY_TOPIC),
            (noise_job.TOPIC,),
            facts_by_vm.FactsByVm(),
            by_host=noise_job.STEPS,
        ),
    )
}


def process(
    job: Job, kept: bytes | None, key: str, frame: bytes, now_ms: int
) -> tuple[Step, Sequence[Record]]:
    """Return what one record of Kafka changes, and the records to write: also the dead letter."""
    value = value_of(frame)
    step = job.steps.step(kept, key, value, now_ms)
    if not step.outcome.is_dead:
        return step, step.records
    return step, (dead_letter(job.name, step.outcome, place_of(frame), key.encode(), value),)
