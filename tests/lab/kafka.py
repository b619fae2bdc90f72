"""Kafka: the mock cluster inside librdkafka, and the real broker."""

import ctypes
import glob
import os
import signal
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
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.lab import setup
from tests.lab.process import free_port as free_port
from tests.lab.process import kill, listens, start, wait_until

HEALTH_TOPIC = "lab.health"


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
            # A broker started again is admitted only when its former self's session is over: 9 s by default.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            **(overrides or {}),
        }
        self._config = folder / "kraft.properties"
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._log = folder / "kafka.log"
        cluster = uuid.uuid4().hex[:22]
        format_ = self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config))
        if format_.wait(60):
            raise RuntimeError(f"Kafka's storage can not be formatted; see {self._log}")

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the broker, on the data it has, and return once a record produced is read back.

        Raises:
            RuntimeError: it does not start, or takes nothing, or gives nothing back.
        """
        self._process = self._java("kafka.Kafka", str(self._config))
        wait_until(lambda: listens(self.port), "Kafka", self._process, self._log, timeout_s)
        self.create_topic(HEALTH_TOPIC, 1)
        token = uuid.uuid4().hex
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        producer.produce(HEALTH_TOPIC, token.encode())
        if producer.flush(timeout_s):
            raise RuntimeError(f"Kafka listens and takes nothing; see {self._log}")
        if not any(each.value == token.encode() for each in consume(self.bootstrap, [HEALTH_TOPIC])):
            raise RuntimeError(f"Kafka took a record and does not give it back; see {self._log}")

    def create_topic(self, name: str, partitions: int = 3, **config: str) -> None:
        """Create a topic where there is none of that name, and return once it is there."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        created = cast(
            Mapping[str, Future[None]],
            admin.create_topics([NewTopic(name, partitions, 1, config=config)]),  # pyright: ignore[reportUnknownMemberType]
        )
        try:
            created[name].result(30)
        except KafkaException as error:
            if cast(KafkaError, error.args[0]).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def freeze(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM: an orderly end, as in a rollout; `start` goes on with its data."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout_s)
            self._process = None

    def kill(self) -> None:
        """SIGKILL; its data stay, `start` goes on with them."""
        if self._process is not None:
            kill(self._process)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def _java(self, *words: str) -> subprocess.Popen[bytes]:
        java = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", self._classes]
        return start([*java, *words], self._log, cwd=self._folder)


@contextmanager
def real_kafka(folder: Path, **overrides: str) -> Generator[RealKafka]:
    """A real broker that runs, and ends with the block. Names in `overrides` use _ for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = RealKafka(folder, {name.replace("_", "."): value for name, value in overrides.items()})
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def consume(bootstrap: str, topics: Sequence[str], timeout_s: float = 30.0) -> list[Received]:
    """Read everything the topics hold now, in order per partition.

    Raises:
        TimeoutError: not everything came in time.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "enable.partition.eof": True,  # the last offsets may hold no record: a transaction's marks
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    deadline = time.monotonic() + timeout_s
    try:
        ends = _ends(consumer, topics, timeout_s)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in ends])
        received: list[Received] = []
        while ends:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(received)} records in {timeout_s} s, and not the ends of {ends}")
            for message in consumer.consume(500, timeout=0.2):
                place = (message.topic() or "", message.partition() or 0)
                error = message.error()
                if error is None:
                    received.append(_received(message))
                    if received[-1].offset >= ends.get(place, 0) - 1:
                        ends.pop(place, None)
                elif error.code() == KafkaError._PARTITION_EOF:  # pyright: ignore[reportPrivateUsage] documented
                    ends.pop(place, None)
                else:
                    raise KafkaException(error)
        return sorted(received, key=lambda each: (each.topic, each.partition, each.offset))
    finally:
        consumer.close()


def _ends(consumer: Consumer, topics: Sequence[str], timeout_s: float) -> dict[tuple[str, int], int]:
    """Return the next offset of every partition that holds something."""
    ends: dict[tuple[str, int], int] = {}
    for topic in topics:
        metadata = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        for partition in metadata.partitions:
            place = TopicPartition(topic, partition)
            low, high = consumer.get_watermark_offsets(place, timeout=timeout_s)
            if high > low:
                ends[topic, partition] = high
    return ends


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


def library() -> ctypes.CDLL:
    """librdkafka itself, as the wheel brings it: its `rd_kafka_mock_*` functions inject faults."""
    base = Path(confluent_kafka.__file__).parent.parent
    return ctypes.CDLL(glob.glob(str(base / "confluent_kafka.libs" / "librdkafka*.so*"))[0])
