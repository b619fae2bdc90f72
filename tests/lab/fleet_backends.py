"""Run an embedded Kafka with its reader, and an OTLP receiver, in a separate process.

`python -m tests.lab.fleet_backends FOLDER` writes `backends.json` once both are ready, and every record it
reads to `records.jsonl`. After SIGTERM it reads the remaining records and ends.
"""

import base64
import gzip
import json
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.lab.embedded_kafka import embedded_kafka
from tests.lab.process import kill, start, wait_until

TOPICS = ("barograph.samples", "barograph.states")
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Totals:
    """The agent's own counters, as it exports them."""

    at_ms: float  # Unix milliseconds
    readings: int
    samples: int


@dataclass(frozen=True, slots=True)
class Backends:
    """The addresses and files of the backends. `pid` is the process of both."""

    pid: int
    kafka: str
    otlp: str
    records: Path
    requests: Path

    def totals(self) -> list[Totals]:
        """Return every export of the agent's own totals, in order."""
        found: list[Totals] = []
        for line in self.requests.read_bytes().splitlines():
            body = gzip.decompress(base64.b64decode(line))
            if b"barograph.readings" not in body:
                continue
            message = ExportMetricsServiceRequest.FromString(body)
            points = {
                metric.name: metric.sum.data_points[0]
                for resource in message.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                if metric.name in ("barograph.readings", "barograph.samples")
            }
            readings, samples = points["barograph.readings"], points["barograph.samples"]
            found.append(Totals(readings.time_unix_nano / 1e6, int(readings.as_int), int(samples.as_int)))
        return found


@contextmanager
def backends(folder: Path) -> Generator[Backends]:
    """Run both until the block ends. By then every acknowledged record has been written."""
    log, said = folder / "backends.log", folder / "backends.json"
    argv = [sys.executable, "-m", "tests.lab.fleet_backends", folder]
    process = start(argv, log, cwd=Path(__file__).parents[2])
    try:
        wait_until(said.exists, "the backends", process, log, 60)
        addresses = cast(dict[str, str], json.loads(said.read_text()))
        records, requests = folder / "records.jsonl", folder / "otlp.log"
        yield Backends(process.pid, addresses["kafka"], addresses["otlp"], records, requests)
        process.terminate()
        process.wait(30)
    finally:
        kill(process)


class _Otlp(BaseHTTPRequestHandler):
    """Accepts every request and writes its body to the log, one line each."""

    protocol_version = "HTTP/1.1"
    log: BinaryIO

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.log.write(base64.b64encode(body) + b"\n")
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


def _main(folder: Path) -> None:
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    with (
        embedded_kafka() as kafka,
        (folder / "otlp.log").open("wb", buffering=0) as _Otlp.log,  # pyrefly: ignore[instance-var-assign]
        (folder / "records.jsonl").open("wb", buffering=1 << 20) as records,
    ):
        for topic in TOPICS:
            kafka.create_topic(topic, PARTITIONS)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Otlp)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.5,), daemon=True).start()
        consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": "bench",
                "fetch.wait.max.ms": 500,
                "log_level": 0,
            }
        )
        partitions = [
            TopicPartition(topic, n, OFFSET_BEGINNING) for topic in TOPICS for n in range(PARTITIONS)
        ]
        consumer.assign(partitions)
        new = folder / "backends.new"
        new.write_text(
            json.dumps({"kafka": kafka.bootstrap, "otlp": f"http://127.0.0.1:{server.server_address[1]}"})
        )
        new.rename(folder / "backends.json")
        while not ending or _is_behind(consumer, partitions):
            for message in consumer.consume(500, 0.2):
                if message.error() is None:
                    records.write(cast(bytes, message.value()) + b"\n")
        consumer.close()


def _is_behind(consumer: Consumer, partitions: Sequence[TopicPartition]) -> bool:
    """Return whether there are records that `consumer` has not returned yet."""
    return any(
        max(each.offset, 0) < consumer.get_watermark_offsets(each, timeout=30)[1]
        for each in consumer.position(list(partitions))
    )


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
