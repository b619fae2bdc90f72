"""The real Kafka with one broker or three, and a reader for any Kafka."""

import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import confluent_kafka
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.lab import setup
from tests.lab.broker import Broker, new_cluster_id
from tests.lab.cache import run
from tests.lab.embedded_kafka import EmbeddedKafka as EmbeddedKafka
from tests.lab.process import free_port as free_port

HEALTH_TOPIC = "lab.health"


@dataclass(frozen=True, slots=True)
class Received:
    """One record as a consumer receives it."""

    topic: str
    partition: int
    offset: int
    key: str
    timestamp_ms: int
    headers: Mapping[str, bytes]
    value: bytes


# A broker listens before it has registered with the controller. And when the client learns the brokers'
# addresses, it drops the bootstrap connection together with the request on it. A client whose first metadata
# has no controller waits for one until the timeout of the request, so each attempt has a new client.
_PASSING = frozenset(
    {
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_REPLICA_ASSIGNMENT,
        KafkaError._DESTROY_BROKER,
        KafkaError._TIMED_OUT,
    }
)
_ATTEMPT_S = 10


class RealKafka:
    """Apache Kafka 4 with one node or three. The data survive each end of it; `start` continues with them."""

    def __init__(
        self,
        folder: Path,
        overrides: Mapping[str, str] | None = None,
        *,
        nodes: int = 1,
        heap_mib: int = 512,
        host: str = "127.0.0.1",
    ) -> None:
        voters = {node: free_port() for node in range(1, nodes + 1)}
        self._replication = nodes
        cluster_id = new_cluster_id()
        folders = [folder] if nodes == 1 else [folder / str(node) for node in voters]
        for each in folders:
            each.mkdir(parents=True, exist_ok=True)
        self.brokers = [
            Broker(each, node, voters, cluster_id, overrides or {}, heap_mib, host)
            for each, node in zip(folders, voters, strict=True)
        ]

    @property
    def bootstrap(self) -> str:
        """Return the addresses of all brokers."""
        return ",".join(broker.address for broker in self.brokers)

    @property
    def port(self) -> int:
        """Return the port of the first broker."""
        return self.brokers[0].port

    def start(self, timeout_s: float = 120.0) -> None:
        """Start it with the data it has, and return once a record has been produced and read back.

        Raises:
            RuntimeError: it does not start, does not acknowledge the record, or does not return it.
        """
        for broker in self.brokers:
            broker.begin()
        for broker in self.brokers:
            broker.wait_until_listening(timeout_s)
        logs = ", ".join(str(broker.log) for broker in self.brokers)
        self.create_topic(HEALTH_TOPIC, 1)
        token = uuid.uuid4().hex
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        producer.produce(HEALTH_TOPIC, token.encode())
        if producer.flush(timeout_s):
            raise RuntimeError(f"Kafka listens but does not acknowledge a record; see {logs}")
        if not any(each.value == token.encode() for each in consume(self.bootstrap, [HEALTH_TOPIC])):
            raise RuntimeError(f"Kafka acknowledged a record but does not return it; see {logs}")

    def create_topic(self, name: str, partitions: int = 3, **config: str) -> None:
        """Create a topic if it is missing, with a replica on each broker. Return once it exists.

        Names in `config` use _ for a dot.
        """
        settings = {name.replace("_", "."): value for name, value in config.items()}
        self._create(NewTopic(name, partitions, self._replication, config=settings))

    def create_topic_on(self, name: str, replicas: list[list[int]]) -> None:
        """Create a topic if it is missing, with the replicas of each partition on these nodes."""
        self._create(NewTopic(name, len(replicas), replica_assignment=replicas))

    def _create(self, topic: NewTopic) -> None:
        deadline = time.monotonic() + 120
        while True:
            admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            created = cast(
                Mapping[str, Future[None]],
                admin.create_topics([topic], request_timeout=_ATTEMPT_S),
            )
            try:
                created[topic.topic].result(120)
            except KafkaException as error:
                code = cast(KafkaError, error.args[0]).code()
                if code == KafkaError.TOPIC_ALREADY_EXISTS:
                    break
                if code not in _PASSING or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                break
        # The controller knows it; a broker learns of it some time later.
        while admin.list_topics(topic.topic, timeout=120).topics[topic.topic].error is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the broker does not know topic {topic.topic}")
            time.sleep(0.05)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and return once the first broker has deleted it."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        deleted = cast(Mapping[str, Future[None]], admin.delete_topics([name]))
        deleted[name].result(120)

    def limit_reader(self, client_id: str, bytes_per_s: int | None) -> None:
        """Set or remove a quota on what a consumer reads.

        Raises:
            RuntimeError: Kafka refused; the message contains its error.
        """
        change = "--delete-config=consumer_byte_rate"
        if bytes_per_s is not None:
            change = f"--add-config=consumer_byte_rate={bytes_per_s}"
        java = (
            "java",
            "-Xmx128m",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{setup.kafka()}/*:{setup.kafka_tools()}/*",
        )
        words = ("--bootstrap-server", self.bootstrap, "--entity-type=clients", f"--entity-name={client_id}")
        run([*java, "kafka.admin.ConfigCommand", "--alter", *words, change])

    def wait_until_in_sync(self, topic: str, timeout_s: float = 180.0) -> None:
        """Return once every replica of the topic is in sync.

        Raises:
            TimeoutError: a replica is not in sync in time.
        """
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        deadline = time.monotonic() + timeout_s
        while True:
            partitions = admin.list_topics(topic, timeout=timeout_s).topics[topic].partitions
            # A broker that has just started may not know the topic yet.
            if partitions and all(len(each.isrs) == self._replication for each in partitions.values()):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} is not in sync after {timeout_s} s")
            time.sleep(0.05)

    def freeze(self) -> None:
        """Send SIGSTOP to all brokers."""
        for broker in self.brokers:
            broker.freeze()

    def thaw(self) -> None:
        """Send SIGCONT to all brokers."""
        for broker in self.brokers:
            broker.thaw()

    def stop(self, timeout_s: float = 120.0) -> None:
        """Send SIGTERM to one broker after the other."""
        for broker in self.brokers:
            broker.stop(timeout_s)

    def kill(self) -> None:
        """Send SIGKILL to all brokers."""
        for broker in self.brokers:
            broker.kill()


REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    # A replica that stops following leaves the in-sync replicas after this time: 30 s by default.
    "replica.lag.time.max.ms": "3000",
    # A broker that waits for a hanging controller longer is fenced itself: 30 s by default.
    "controller.socket.timeout.ms": "2000",
    "auto.create.topics.enable": "false",
}


@contextmanager
def kafka_cluster(folder: Path) -> Generator[RealKafka]:
    """Run three brokers until the block ends. Each has a replica; `acks=all` needs two in sync."""
    cluster = RealKafka(folder, REPLICATED, nodes=3, heap_mib=256)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@contextmanager
def real_kafka(folder: Path, *, host: str = "127.0.0.1", **overrides: str) -> Generator[RealKafka]:
    """Run a real broker until the block ends. Names in `overrides` use _ for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name.replace("_", "."): value for name, value in overrides.items()}
    broker = RealKafka(folder, settings, host=host)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def consume(
    bootstrap: str, topics: Sequence[str], timeout_s: float = 180.0, *, committed: bool = True
) -> list[Received]:
    """Return all records that the topics hold now, in order per partition.

    Args:
        bootstrap: the addresses of the brokers.
        topics: their names.
        timeout_s: for all of the reading.
        committed: leave out the records of transactions that are open or were aborted.

    Raises:
        TimeoutError: not all records arrived in time.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "enable.partition.eof": True,  # the last offsets may be markers of a transaction, not records
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
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
                raise TimeoutError(f"{len(received)} records in {timeout_s} s, without the ends of {ends}")
            for message in consumer.consume(500, timeout=0.2):
                place = (message.topic() or "", message.partition() or 0)
                error = message.error()
                if error is None:
                    received.append(_received(message))
                    if received[-1].offset >= ends.get(place, 0) - 1:
                        ends.pop(place, None)
                elif error.code() == KafkaError._PARTITION_EOF:  # documented
                    ends.pop(place, None)
                else:
                    raise KafkaException(error)
        return sorted(received, key=lambda each: (each.topic, each.partition, each.offset))
    finally:
        consumer.close()


def unread(bootstrap: str, topic: str, group: str, timeout_s: float = 90.0) -> int:
    """Return how many offsets of a topic a consumer group has not committed."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "log_level": 0})
    try:
        ends = _ends(consumer, [topic], timeout_s)
    finally:
        consumer.close()
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*place) for place in ends])
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    answers = cast(
        Mapping[str, Future[ConsumerGroupTopicPartitions]],
        admin.list_consumer_group_offsets([asked]),
    )
    places = answers[group].result(timeout_s).topic_partitions or []
    committed = {(each.topic, each.partition): max(0, each.offset) for each in places}
    return sum(end - committed.get(place, 0) for place, end in ends.items())


def forget(bootstrap: str, group: str, timeout_s: float = 90.0) -> None:
    """Delete the committed offsets of a consumer group, which must have no members."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    deleted = cast(
        Mapping[str, Future[None]],
        admin.delete_consumer_groups([group]),
    )
    deleted[group].result(timeout_s)


def _ends(consumer: Consumer, topics: Sequence[str], timeout_s: float) -> dict[tuple[str, int], int]:
    """Return the next offset of every partition that is not empty."""
    ends: dict[tuple[str, int], int] = {}
    for topic in topics:
        metadata = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        for partition in metadata.partitions:
            place = TopicPartition(topic, partition)
            low, high = _offsets(consumer, place, timeout_s)
            if high > low:
                ends[topic, partition] = high
    return ends


def _offsets(consumer: Consumer, place: TopicPartition, timeout_s: float) -> tuple[int, int]:
    """Return the first and the next offset. Retry while the partition has no leader after a freeze."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=timeout_s)
        except KafkaException as error:
            no_leader = error.args[0].code() == KafkaError._UNKNOWN_PARTITION  # documented
            if not no_leader or time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


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
