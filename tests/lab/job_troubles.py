"""Troubles of stream jobs on a real Flink, for `tests.lab.record_series jobs`."""

from contextlib import ExitStack
from pathlib import Path

from confluent_kafka import Producer

from barograph_streams.core.jobs import SAMPLES_TOPIC, STATES_TOPIC
from barograph_streams.core.pressure_job import TOPIC as PRESSURE_TOPIC
from barograph_streams.core.quality_job import HOST_TOPIC, VM_TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.contract.generate_rules import RULES
from tests.lab.flink import Job, job
from tests.lab.kafka import RealKafka, real_kafka
from tests.lab.played_troubles import STEP_S, Habit, Recording, Step, next_start_s, play
from tests.lab.process import free_port
from tests.lab.prometheus import prometheus
from tests.unit.streams.making import make

MINUTES = 38
MORE = (
    "flink_jobmanager_job_numRestarts",
    "flink_jobmanager_job_numberOfCompletedCheckpoints",
    "flink_jobmanager_job_numberOfFailedCheckpoints",
    "flink_taskmanager_job_task_operator_pendingRecords",
    "flink_taskmanager_job_task_operator_barograph_job_outcome_records",
)
"""The series that the rules about the jobs need."""

_BACKLOG = 20_000
_QUOTA_BYTES_PER_S = 20_000
_VMS = 300  # each has one sample in each turn of the loop, which takes 3 s


class _Samples:
    """Samples of a small fleet."""

    def __init__(self, kafka: RealKafka) -> None:
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        self._sequence = 0

    def produce(self) -> None:
        """Produce the next sample of each VM."""
        self._sequence += 1
        for vm in range(_VMS):
            made = make(self._sequence, vm=vm)
            self._producer.produce(SAMPLES_TOPIC, made.value, key=made.key)
        if self._producer.flush(120):
            raise RuntimeError("Kafka does not accept the samples")

    def produce_many(self) -> None:
        """Produce more samples than a job may be behind."""
        for _ in range(_BACKLOG // _VMS):
            self.produce()

    def produce_garbage(self) -> None:
        """Produce records that are not JSON to the topic of the states."""
        for _ in range(20):
            self._producer.produce(STATES_TOPIC, b"{", key="vm-1")
        self._producer.flush(120)


def _lose(checkpoints: Path) -> None:
    """Make the storage of the checkpoints unwritable."""
    checkpoints.rename(checkpoints.with_suffix(".away"))
    checkpoints.touch()


def _bring_back(checkpoints: Path, failed: Job, words: tuple[str, ...]) -> None:
    """Repair the storage, and start the job again if Flink has given up."""
    checkpoints.unlink()
    checkpoints.with_suffix(".away").rename(checkpoints)
    if not failed.is_running():
        failed.start(*words)


def record(folder: Path, into: Path, minutes: float) -> None:
    """Record two jobs: one that reads slowly, and one that cannot write its checkpoints."""
    with ExitStack() as stack:
        kafka = stack.enter_context(real_kafka(folder / "kafka"))
        topics = (SAMPLES_TOPIC, STATES_TOPIC, PRESSURE_TOPIC, VM_TOPIC, HOST_TOPIC, DEAD_LETTER_TOPIC)
        for topic in topics:
            kafka.create_topic(topic, 1)
        samples = _Samples(kafka)
        ports = {name: free_port() for name in ("pressure", "quality")}
        jobs: dict[str, Job] = {}
        words: dict[str, tuple[str, ...]] = {}
        for name, port in ports.items():
            jobs[name] = stack.enter_context(
                job(folder / name, name, kafka.bootstrap, checkpoint_interval_ms=10_000)
            )
            words[name] = ("--metrics-port", str(port))
            jobs[name].start(*words[name])
        checkpoints = folder / "quality" / "checkpoints"
        for each in jobs.values():
            each.wait_for_checkpoint()
        hosts = {f"{name}:9249": f"127.0.0.1:{port}" for name, port in ports.items()}
        server = stack.enter_context(
            prometheus(folder / "s", hosts=hosts, job="flink", rules=RULES, every_s=STEP_S)
        )
        start_s = next_start_s()
        steps = [
            Step(1, "quality", "a program writes records that are not JSON", samples.produce_garbage),
            Step(
                2,
                "pressure",
                "a quota of Kafka limits what the job reads, and it is behind",
                lambda: (
                    kafka.limit_reader("barograph-streams-pressure-0", _QUOTA_BYTES_PER_S),
                    samples.produce_many(),
                ),
            ),
            Step(4, "quality", "the storage of the checkpoints fails", lambda: _lose(checkpoints)),
            Step(
                26,
                "pressure",
                "the quota is removed",
                lambda: kafka.limit_reader("barograph-streams-pressure-0", None),
            ),
            Step(
                30,
                "quality",
                "the storage is repaired, and the job started again",
                lambda: _bring_back(checkpoints, jobs["quality"], words["quality"]),
            ),
        ]
        recordings = {into / "jobs.yaml": Recording(server, start_s, folder, MORE)}
        play(recordings, start_s, minutes, steps, [Habit(2, 36, samples.produce)])
