"""Kafka: the mock cluster inside librdkafka, and the real broker."""

import ctypes
import glob
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.lab import setup
from tests.lab.qemu import die_with_parent


@dataclass(frozen=True, slots=True)
class Received:
    """One record as a consumer gets it."""

    topic: str
    partition: int
    offset: int
    key: str
    timestamp_ms: int
    headers: Mapping[str, bytes]
    value: bytes


class EmbeddedKafka:
    """librdkafka's mock cluster, in this process. Keeps and checks little; for the demo and for faults."""

    def __init__(self, brokers: int = 3) -> None:
        self._producer = Producer({"test.mock.num.brokers": brokers, "log_level": 0})
        metadata = self._producer.list_topics(timeout=10)
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
        self._brokers = brokers

    def close(self) -> None:
        """End the cluster."""
        del self._producer


class RealKafka:
    """Apache Kafka 4, one node, KRaft."""

    def __init__(self, folder: Path, overrides: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port, controller_port = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._classes = f"{setup.kafka()}/*"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "data"),
            "num.partitions": "3",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            **(overrides or {}),
        }
        self._config = folder / "kraft.properties"
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        cluster = uuid.uuid4().hex[:22]
        self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config)).wait(60)

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the broker, and return once a record produced is read back."""
        self._process = self._java("kafka.Kafka", str(self._config))
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    break
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"Kafka does not start; see {self._folder}/kafka.log") from None
                time.sleep(0.1)
        token = uuid.uuid4().hex
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        producer.produce("lab.health", token.encode())
        if producer.flush(max(deadline - time.monotonic(), 1)):
            raise RuntimeError("Kafka listens and takes nothing")
        if not any(each.value == token.encode() for each in consume(self.bootstrap, ["lab.health"])):
            raise RuntimeError("Kafka took a record and does not give it back")

    def create_topic(self, name: str, partitions: int = 3, **config: str) -> None:
        """Create a topic, and return once it is there."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        created = cast(
            Mapping[str, Future[None]],
            admin.create_topics([NewTopic(name, partitions, 1, config=config)]),  # pyright: ignore[reportUnknownMemberType]
        )
        created[name].result(30)

    def freeze(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; its data stay, `start` goes on with them."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def _java(self, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / "kafka.log").open("ab") as log:
            return subprocess.Popen(
                ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", self._classes, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                cwd=self._folder,
            )


@contextmanager
def real_kafka(folder: Path, **overrides: str) -> Generator[RealKafka]:
    """A real broker that runs, and ends with the block. Names in `overrides` use _ for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = RealKafka(folder, {name.replace("_", "."): value for name, value in overrides.items()})
    try:
        broker.start()
        yield broker
    finally:
        broker.thaw()
        broker.kill()


def consume(bootstrap: str, topics: Sequence[str], timeout_s: float = 30.0) -> list[Received]:
    """Read everything the topics hold now, in order per partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    try:
        ends: dict[tuple[str, int], int] = {}
        for topic in topics:
            metadata = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
            for partition in metadata.partitions:
                low, high = consumer.get_watermark_offsets(
                    TopicPartition(topic, partition), timeout=timeout_s
                )
                if high > low:
                    ends[topic, partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in ends])
        received: list[Received] = []
        deadline = time.monotonic() + timeout_s
        while ends and time.monotonic() < deadline:
            for message in consumer.consume(500, timeout=0.5):
                error = message.error()
                if error is not None:
                    raise RuntimeError(str(error))
                received.append(_received(message))
                place = (received[-1].topic, received[-1].partition)
                if received[-1].offset >= ends.get(place, 0) - 1:
                    ends.pop(place, None)
        return sorted(received, key=lambda each: (each.topic, each.partition, each.offset))
    finally:
        consumer.close()


def _received(message: confluent_kafka.Message) -> Received:
    headers = {name: value for name, value in message.headers() or [] if isinstance(value, bytes)}
    key = message.key()
    return Received(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=key.decode() if isinstance(key, bytes) else str(key),
        timestamp_ms=message.timestamp()[1],
        headers=headers,
        value=message.value() or b"",
    )


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def library() -> ctypes.CDLL:
    """librdkafka itself, as the wheel brings it: its `rd_kafka_mock_*` functions inject faults."""
    base = Path(confluent_kafka.__file__).parent.parent
    return ctypes.CDLL(glob.glob(str(base / "confluent_kafka.libs" / "librdkafka*.so*"))[0])
