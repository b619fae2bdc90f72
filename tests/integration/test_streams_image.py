"""Test of the image of the stream jobs on a cluster of containers, with the settings of the chart."""

import json
import shutil
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from barograph_streams.core.jobs import SAMPLES_TOPIC
from barograph_streams.core.pressure_job import TOPIC as PRESSURE_TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.integration.conftest import need
from tests.integration.test_streams import figures_of, metrics_page, produce, written_to
from tests.integration.test_streams_chart import rendered
from tests.lab.container import Container, container
from tests.lab.kafka import RealKafka
from tests.lab.local_http import OPENER
from tests.lab.process import free_port
from tests.lab.streams_image import streams_image
from tests.unit.streams.mixing import count, mixed, written

FLINK_USER = "9999"
LOOPBACK = (
    "jobmanager.rpc.address",
    "jobmanager.bind-host",
    "rest.address",
    "rest.bind-address",
    "taskmanager.host",
    "taskmanager.bind-host",
)


def settings(spec: dict[str, Any], *more: tuple[str, str]) -> list[str]:
    """Return a manifest's settings, without those that need Kubernetes, and `more` settings, as options."""
    configuration = {
        name: value
        for name, value in cast(dict[str, object], spec["flinkConfiguration"]).items()
        if not name.startswith("high-availability")
    }
    for manager in ("jobManager", "taskManager"):
        memory = spec[manager]["resource"]["memory"]
        configuration[f"{manager.lower()}.memory.process.size"] = memory
    return [f"-D{name}={value}" for name, value in (configuration | dict(more)).items()]


def has_written(job_manager: Container, kafka: RealKafka, expected: int, dead: int) -> bool:
    """Return whether so many records can be read. The JobManager must not have ended."""
    assert job_manager.process.poll() is None, job_manager.stdout.read_text()[-4000:]
    records, letters = written_to(kafka)
    return count(records) >= expected and len(letters) >= dead


@dataclass(frozen=True, slots=True)
class Cluster:
    """A job on a JobManager and TaskManagers."""

    job_manager: Container
    task_managers: Sequence[Container]
    rest: str
    metrics: Sequence[int]  # a port of each TaskManager

    def wait_for(self, kafka: RealKafka, records: dict[str, list[bytes]], dead: Sequence[bytes]) -> None:
        """Wait until as many records and dead letters have been written."""
        self.task_managers[0].wait_for(
            lambda: has_written(self.job_manager, kafka, count(records), len(dead)), "the records", 900
        )

    def stop_with_savepoint(self, storage: Path) -> Path:
        """Have the job write a savepoint and end, as the operator does; return the savepoint."""
        with OPENER.open(f"{self.rest}/jobs/overview", timeout=60) as answer:
            (running,) = json.load(answer)["jobs"]
        body = json.dumps({"targetDirectory": f"file://{storage}/savepoints", "drain": False}).encode()
        headers = {"Content-Type": "application/json"}
        with OPENER.open(
            urllib.request.Request(f"{self.rest}/jobs/{running['jid']}/stop", body, headers), timeout=60
        ) as answer:
            assert answer.status == 202
        self.task_managers[0].wait_for(
            lambda: "Application completed SUCCESSFULLY" in self.job_manager.stdout.read_text(),
            "the end of the job",
            600,
        )
        (made,) = (storage / "savepoints").glob("*/_metadata")
        return made.parent


@contextmanager
def cluster(
    folder: Path, spec: dict[str, Any], storage: Path, *, parallelism: int, savepoint: Path | None = None
) -> Generator[Cluster]:
    """Run the programs that the operator starts in pods, with its settings, until the end of the block."""
    image = streams_image()
    rest, metrics = free_port(), [free_port() for _ in range(parallelism)]
    places = [
        *((name, "127.0.0.1") for name in LOOPBACK),
        ("jobmanager.rpc.port", str(free_port())),
        ("rest.port", str(rest)),
        ("parallelism.default", str(parallelism)),
    ]
    options = ("--user", FLINK_USER, "--env", "FLINK_LOG_DIR=/tmp", "--volume", f"{storage}:{storage}")

    restored = () if savepoint is None else ("--fromSavepoint", f"file://{savepoint}")
    job = ("--job-classname", spec["job"]["entryClass"], *restored)
    with ExitStack() as stack:

        def start(
            name: str, words: Sequence[str], metrics_port: int, arguments: Sequence[str] = ()
        ) -> Container:
            (folder / name).mkdir(parents=True)
            port = ("metrics.reporter.prom.port", str(metrics_port))
            argv = [*words, *settings(spec, *places, port), *arguments]
            return stack.enter_context(container(folder / name, *options, words=argv, image=image))

        words = ("standalone-job.sh", "start-foreground", *job)
        job_manager = start("jm", words, free_port(), spec["job"]["args"])
        words = ("taskmanager.sh", "start-foreground")
        task_managers = [start(f"tm{port}", words, port) for port in metrics]
        yield Cluster(job_manager, task_managers, f"http://127.0.0.1:{rest}", metrics)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_the_image_runs_a_job_of_the_chart_and_continues_from_its_savepoint(
    own_kafka: RealKafka, folder: Path
) -> None:
    """The second half of the records is processed after an upgrade that doubles the parallelism."""
    need("image", "flink", "helm")
    for topic in (SAMPLES_TOPIC, PRESSURE_TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic, 2)
    storage = folder / "storage"
    storage.mkdir()
    shutil.chown(storage, int(FLINK_USER), int(FLINK_USER))
    folder.chmod(0o755)
    values = f"kafka.bootstrapServers={own_kafka.bootstrap},storage=file://{storage}"
    manifests = rendered(values)
    spec = next(each["spec"] for each in manifests if each["metadata"]["name"].endswith("-pressure"))
    stream = mixed(seed=5, vms=40, samples=60)
    half = stream[: len(stream) // 2]
    records, dead = written(stream)

    produce(own_kafka, half)
    with cluster(folder / "first", spec, storage, parallelism=1) as first:
        first.wait_for(own_kafka, *written(half))
        figures = figures_of(metrics_page(first.metrics[0]))
        savepoint = first.stop_with_savepoint(storage)
    produce(own_kafka, stream[len(half) :])
    with cluster(folder / "second", spec, storage, parallelism=2, savepoint=savepoint) as second:
        second.wait_for(own_kafka, records, dead)
        found, found_dead = written_to(own_kafka)

    assert found == records
    assert found_dead == dead
    assert figures["outcome_records", "kept"] > 0
    assert list(storage.glob("*/pressure/checkpoints/*/chk-*/_metadata"))
