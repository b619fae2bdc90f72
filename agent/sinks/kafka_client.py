"""One Kafka producer's life, over aiokafka: the only file that knows the library.

What the library lacks and this file mends (aiokafka 0.14.0):

- an idempotent producer tries for ever, and `stop()` hangs while the cluster is away: `close` cuts;
- it finds brokers by what it learnt at first, never again by the bootstrap addresses (issue #459):
  a failed producer is thrown away by its owner, and a new one made;
- code 87 (INVALID_RECORD) is unknown to it and would look like a broker's unknown error;
- no type is declared: the Protocols below say what is used.
"""

# pyright: reportPrivateUsage=false
# aiokafka has no public hard close.

import asyncio
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol, cast

import aiokafka
import anyio
import anyio.to_thread
from aiokafka import errors as kafka_errors
from aiokafka.partitioner import DefaultPartitioner

from agent.contract.headers import Headers
from agent.core.reading import Record
from agent.sinks.complaints import Complaints
from agent.sinks.kafka_settings import Settings, Tls

_CLOSE_TIMEOUT_S = 2.0
_RETRY_BACKOFF_MS = 500


class Fault(StrEnum):
    """Whose fault it is that the broker did not take a batch."""

    RECORD = "record"  # a record's own: refused every time
    TIME = "time"  # a record's timestamp
    TOPIC = "topic"  # it is not there, or not ours to write to: every record of it waits
    LINK = "link"  # anything else; nothing is wrong with the records


class KafkaTrouble(Exception):
    """What aiokafka raised, sorted. `reason` is `too_large` or `invalid` where a record is at fault."""

    def __init__(self, fault: Fault, reason: str, detail: str) -> None:
        self.fault = fault
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


class Batch(Protocol):
    """Records for one partition, not sent yet (aiokafka's BatchBuilder)."""

    def append(
        self, *, timestamp: int | None, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]
    ) -> object | None:
        """Add a record; `None`: full, and closed now. The first one always fits."""
        ...

    def close(self) -> None:
        """Take no more."""
        ...


class _Transport(Protocol):
    def abort(self) -> None: ...


class _Writer(Protocol):
    transport: _Transport


class _Connection(Protocol):
    _writer: _Writer | None


class _Client(Protocol):
    _conns: dict[object, _Connection]

    async def close(self) -> None: ...


class _Sender(Protocol):
    sender_task: asyncio.Task[None] | None
    _send_produce_req: Callable[[int, object], Any]


class _Producer(Protocol):
    client: _Client
    _sender: _Sender
    _closed: bool

    async def start(self) -> None: ...
    async def partitions_for(self, topic: str) -> set[int]: ...
    def create_batch(self) -> Batch: ...
    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[object]: ...


class KafkaClient:
    """A started producer. Once anything has failed, or a record was refused, close it."""

    def __init__(self, producer: _Producer, complaints: Complaints) -> None:
        self._producer = producer
        self._complaints = complaints
        self._requests: set[asyncio.Task[Any]] = set()
        self._track_requests()

    @classmethod
    async def connect(cls, settings: Settings, complaints: Complaints) -> "KafkaClient":
        """Return a producer that has found the cluster.

        May take for ever where the cluster answers half-way: the caller has the deadline.

        Raises:
            KafkaTrouble: it could not; nothing is left open. So too when cancelled.
        """
        kafka_errors.kafka_errors.setdefault(_InvalidRecord.errno, _InvalidRecord)
        security = await _security(settings)
        make = cast("Callable[..., _Producer]", aiokafka.AIOKafkaProducer)
        producer = make(
            bootstrap_servers=list(settings.bootstrap_servers),
            client_id=settings.client_id,
            acks="all",
            enable_idempotence=True,
            compression_type=None if settings.compression == "none" else settings.compression,
            max_batch_size=settings.produce_batch_bytes,
            request_timeout_ms=int(settings.request_timeout_s * 1000),
            retry_backoff_ms=_RETRY_BACKOFF_MS,
            **security,
        )
        client = cls(producer, complaints)
        try:
            await producer.start()
        except BaseException as error:
            await client.close()
            if isinstance(error, _FOREIGN):
                raise client.trouble(error) from error
            raise
        return client

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions `topic` has.

        Raises:
            KafkaTrouble: the topic is unknown, or not ours to know.
        """
        try:
            return len(await self._producer.partitions_for(topic))
        except kafka_errors.UnknownTopicOrPartitionError as error:
            detail = f"topic {topic} does not exist; create it, or let the brokers create topics"
            raise KafkaTrouble(Fault.TOPIC, "", self._with_complaint(detail)) from error
        except _FOREIGN as error:
            raise self.trouble(error) from error

    def batch(self) -> Batch:
        """Return an empty batch."""
        return self._producer.create_batch()

    async def submit(self, batch: Batch, topic: str, partition: int) -> asyncio.Future[object]:
        """Send `batch`; the future tells what became of it, and `trouble` sorts its exception.

        One at a time for each partition: while a producer is new to a partition, the broker takes a
        batch although the one before it was refused, and the order would be lost.

        Raises:
            KafkaTrouble: it was not sent.
        """
        try:
            return await self._producer.send_batch(batch, topic, partition=partition)
        except _FOREIGN as error:
            raise self.trouble(error) from error

    def trouble(self, error: BaseException) -> KafkaTrouble:
        """Sort what aiokafka raised."""
        match error:
            case kafka_errors.MessageSizeTooLargeError() | kafka_errors.RecordListTooLargeError():
                return KafkaTrouble(Fault.RECORD, "too_large", "larger than the topic's max.message.bytes")
            case _InvalidRecord():
                return KafkaTrouble(Fault.RECORD, "invalid", "the broker calls it invalid (code 87)")
            case kafka_errors.InvalidTimestampError():
                return KafkaTrouble(Fault.TIME, "", "the broker refuses its timestamp")
            case kafka_errors.KafkaConnectionError():
                detail = "no broker can be talked to"
            case kafka_errors.TopicAuthorizationFailedError():
                return KafkaTrouble(Fault.TOPIC, "", f"not allowed to write to a topic: {error}")
            case kafka_errors.InvalidTopicError():
                return KafkaTrouble(Fault.TOPIC, "", "not a topic that can be written to")
            case kafka_errors.ClusterAuthorizationFailedError():
                detail = "not allowed to write idempotently (IdempotentWrite on the cluster)"
            case kafka_errors.OutOfOrderSequenceNumber() | kafka_errors.ProducerFenced():
                detail = f"the brokers have lost track of this producer: {type(error).__name__}"
            case _:
                detail = str(error) or type(error).__name__
        return KafkaTrouble(Fault.LINK, "", self._with_complaint(detail))

    async def close(self) -> None:
        """Cut everything within two seconds, whatever the cluster does. Never waits for deliveries."""
        producer = self._producer
        if producer._closed:
            return
        producer._closed = True  # else its __del__ warns
        tasks = {*self._requests, *([producer._sender.sender_task] if producer._sender.sender_task else [])}
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _CLOSE_TIMEOUT_S):
            # Without this the sender, once cancelled, waits for its requests: as long as a hung broker
            # takes to time out, or for ever once the metadata task has ended.
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            for connection in producer.client._conns.values():
                if connection._writer is not None:
                    connection._writer.transport.abort()  # a close would flush to a peer that reads nothing
            with suppress(*_FOREIGN):  # the metadata task's own end; nothing is open any more
                await producer.client.close()

    def _track_requests(self) -> None:
        sender = self._producer._sender
        send = sender._send_produce_req

        async def tracked(node_id: int, batches: object) -> None:
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            self._requests.add(task)
            try:
                await send(node_id, batches)
            finally:
                self._requests.discard(task)

        sender._send_produce_req = tracked

    def _with_complaint(self, detail: str) -> str:
        complaint = self._complaints.take()
        return f"{detail} ({complaint})" if complaint and complaint not in detail else detail


@lru_cache(maxsize=16_384)
def partition_of(key: str, partition_count: int) -> int:
    """Return `key`'s partition, as every Kafka client places it (murmur2); 6 us uncached."""
    place = cast("Callable[[bytes, list[int], list[int]], int]", DefaultPartitioner())
    return place(key.encode(), list(range(partition_count)), [])


def append(batch: Batch, record: Record, headers: Headers, *, restamp: bool = False) -> bool:
    """Add `record` to `batch`, with the present time where `restamp`; `False`: full."""
    return (
        batch.append(
            timestamp=None if restamp else record.timestamp_ms,
            key=record.key.encode(),
            value=record.value,
            headers=headers,
        )
        is not None
    )


async def wait(futures: Iterable[asyncio.Future[object]]) -> None:
    """Return when all are done, however they ended; cancelled, they go on."""
    await asyncio.wait(futures)


async def wait_for_any(futures: Iterable[asyncio.Future[object]]) -> None:
    """Return when one is done, however it ended; cancelled, they go on."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _security(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"security_protocol": "SSL" if settings.tls else "PLAINTEXT"}
    if settings.tls:
        try:
            options["ssl_context"] = await anyio.to_thread.run_sync(_ssl_context, settings.tls)
        except (OSError, ValueError) as error:
            tls = settings.tls
            names = ", ".join(str(name) for name in (tls.ca_file, tls.cert_file, tls.key_file) if name)
            raise KafkaTrouble(Fault.LINK, "", f"TLS files ({names}): {error}") from error
    if settings.sasl:
        options["security_protocol"] = "SASL_SSL" if settings.tls else "SASL_PLAINTEXT"
        options["sasl_mechanism"] = settings.sasl.mechanism
        options["sasl_plain_username"] = settings.sasl.username
        options["sasl_plain_password"] = settings.sasl.password
    return options


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


class _InvalidRecord(kafka_errors.BrokerResponseError):
    """INVALID_RECORD, which aiokafka does not know (kafka.apache.org/protocol, error codes)."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The broker refuses a record of the batch"


# AssertionError: aiokafka's words for a partition that has gone. UnicodeError: a host name that is none.
_FOREIGN = (kafka_errors.KafkaError, OSError, AssertionError, UnicodeError)
