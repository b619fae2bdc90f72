"""One Kafka producer, over aiokafka. Only the kafka_* files import the library.

It works around these limits of aiokafka 0.14.0:

- an idempotent producer retries forever, and `stop()` hangs while the cluster is unreachable: `close` aborts;
- it looks up brokers in the metadata it got first, never again at the bootstrap addresses (issue #459):
  the owner discards a failed producer and makes a new one;
- it does not know the newer error codes, which would all look like an unknown error of a broker;
- it has no type declarations: the Protocols below declare what is used.
"""

# aiokafka has no public hard close.

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol, cast

import aiokafka
import anyio
from aiokafka import errors as kafka_errors
from aiokafka.partitioner import DefaultPartitioner

from agent.contract.headers import Headers
from agent.core.reading import Record
from agent.sinks.kafka_blocking import Blocking
from agent.sinks.kafka_cluster import Client, Cluster, topic_trouble
from agent.sinks.kafka_connections import Connections
from agent.sinks.kafka_faults import Fault, KafkaTrouble, described, incompatible
from agent.sinks.kafka_journal import Journal
from agent.sinks.kafka_settings import Settings
from agent.sinks.kafka_tokens import Tokens
from agent.sinks.library_warnings import LibraryWarnings

_CLOSE_TIMEOUT_S = 2.0
_RETRY_BACKOFF_MS = 500
_CODES_KNOWN, _CODES_MAX = 73, 256


class Batch(Protocol):
    """Records for one partition, not sent yet (aiokafka's BatchBuilder)."""

    def append(
        self, *, timestamp: int | None, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]
    ) -> object | None:
        """Add a record; `None`: the batch is full, and is now closed. The first record always fits."""
        ...

    def close(self) -> None:
        """Accept no more records."""
        ...


class _MessageBatch(Protocol):
    _drain_waiter: asyncio.Future[None]


class _Accumulator(Protocol):
    _batches: Mapping[object, Iterable[_MessageBatch]]
    _pending_batches: set[_MessageBatch]

    def fail_all(self, exception: BaseException) -> None: ...


class _Sender(Protocol):
    sender_task: asyncio.Task[None] | None
    _message_accumulator: _Accumulator
    _fail_all: Callable[[asyncio.Task[None]], None]
    _send_produce_req: Callable[[int, object], Any]


class _Producer(Protocol):
    client: Client
    _sender: _Sender
    _closed: bool

    async def start(self) -> None: ...
    async def partitions_for(self, topic: str) -> set[int]: ...
    def create_batch(self) -> Batch: ...
    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[object]: ...


class KafkaClient:
    """A started producer. Close it after any failure or refused record."""

    def __init__(
        self,
        producer: _Producer,
        warnings: LibraryWarnings,
        journal: Journal | None = None,
        compression: str = "",
        topic: str = "",
        connections: Connections | None = None,
    ) -> None:
        self._producer = producer
        self._connections = connections or Connections()
        self._warnings = warnings
        self._journal = journal or Journal()
        self._compression = compression
        self._topic = topic
        self._requests: set[asyncio.Task[Any]] = set()
        self._track_requests()

    @classmethod
    async def connect(
        cls,
        settings: Settings,
        warnings: LibraryWarnings,
        journal: Journal,
        blocking: Blocking,
        topic: str = "",
        tokens: Tokens | None = None,
        connections: Connections | None = None,
    ) -> "KafkaClient":
        """Return a producer that is connected to the cluster, over `connections` that it may share.

        This can take forever if the cluster answers only in part: the caller must set a deadline, and finds
        the reason in `journal`, also about `topic`.

        Raises:
            KafkaTrouble: it could not connect. Nothing is left open, also when cancelled.
        """
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
        )
        connections = connections or Connections()
        client = cls(producer, warnings, journal, settings.compression, topic, connections)
        Cluster(producer.client, settings, topic, journal, blocking, tokens, connections)
        try:
            await producer.start()
        except BaseException as error:
            await client.close()
            if isinstance(error, Exception):
                raise client.trouble(error) from error
            raise
        return client

    async def partition_count(self, topic: str) -> int:
        """Return the number of partitions of `topic`.

        Raises:
            KafkaTrouble: the topic does not exist, or the agent is not authorized to see it.
        """
        try:
            count = len(await self._producer.partitions_for(topic))
        except kafka_errors.UnknownTopicOrPartitionError as error:
            known = self._journal.trouble(anyio.current_time())
            raise (known or topic_trouble(topic, error.errno) or self.trouble(error)) from error
        except kafka_errors.TopicAuthorizationFailedError as error:
            raise (topic_trouble(topic, error.errno) or self.trouble(error)) from error
        except Exception as error:
            raise self.trouble(error) from error
        if not count:
            raise KafkaTrouble(Fault.CONNECTION, "", f"topic {topic}: no partitions; check the cluster")
        return count

    def batch(self) -> Batch:
        """Return an empty batch."""
        return self._producer.create_batch()

    async def submit(self, batch: Batch, topic: str, partition: int) -> asyncio.Future[object]:
        """Send `batch`. The future has the result; `trouble` classifies its exception.

        Send one at a time for each partition: while a producer is new to a partition, the broker accepts a
        batch even if the previous one was refused, and the order would be lost.

        Raises:
            KafkaTrouble: it was not sent.
        """
        try:
            return await self._producer.send_batch(batch, topic, partition=partition)
        except Exception as error:
            raise self.trouble(error) from error

    def trouble(self, error: BaseException) -> KafkaTrouble:
        """Return an exception of aiokafka, classified."""
        match error:
            case KafkaTrouble():
                return error
            case kafka_errors.MessageSizeTooLargeError() | kafka_errors.RecordListTooLargeError():
                detail = "larger than max.message.bytes of the topic; raise it"
                return KafkaTrouble(Fault.RECORD, "too_large", detail)
            case _InvalidRecord():
                return KafkaTrouble(
                    Fault.RECORD,
                    "invalid",
                    "refused by the broker as invalid (code 87); see the log of the broker",
                )
            case kafka_errors.InvalidTimestampError():
                return KafkaTrouble(Fault.TIME, "", "timestamp refused by the broker")
            case _UnsupportedCompression():
                detail = (
                    f"kafka.compression: the broker refuses {self._compression} (error 76, "
                    "UNSUPPORTED_COMPRESSION_TYPE); set gzip or none"
                )
                return KafkaTrouble(Fault.SETTING, "", detail)
            case kafka_errors.TopicAuthorizationFailedError() | kafka_errors.InvalidTopicError():
                return topic_trouble(self._topic, error.errno) or KafkaTrouble(Fault.TOPIC, "", str(error))
            case kafka_errors.ClusterAuthorizationFailedError():
                detail = (
                    "not authorized to write idempotently; allow IdempotentWrite on the cluster for the "
                    "agent's user (kafka-acls.sh --producer --idempotent)"
                )
                return KafkaTrouble(Fault.CONNECTION, "", detail)
            case kafka_errors.OutOfOrderSequenceNumber() | kafka_errors.ProducerFenced():
                name = type(error).__name__
                detail = f"the brokers lost track of this producer ({name}); the agent reconnects"
            case kafka_errors.IncompatibleBrokerVersion() | kafka_errors.UnsupportedVersionError():
                return incompatible(error)
            case (
                kafka_errors.KafkaConnectionError()
                | kafka_errors.NodeNotReadyError()
                | kafka_errors.RequestTimedOutError()
            ):
                known = self._journal.trouble(anyio.current_time())
                if known is not None:
                    return known
                detail = "no broker reachable; check the brokers and the network"
            case _:
                detail = described(error.__cause__ or error)
        return KafkaTrouble(Fault.CONNECTION, "", self._with_warning(detail))

    async def close(self) -> None:
        """End within two seconds, whatever the cluster does. Does not wait for deliveries."""
        producer = self._producer
        if producer._closed:
            return
        producer._closed = True  # else its __del__ warns
        tasks = {*self._requests, *([producer._sender.sender_task] if producer._sender.sender_task else [])}
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _CLOSE_TIMEOUT_S):
            # A cancelled sender waits for its requests: until a broker that hangs times out, or forever once
            # the metadata task has ended.
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            producer.client._conns.clear()  # `close` would close them
            self._connections.discard(self._journal)
            with suppress(Exception):  # from the end of the metadata task
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

        def failed(task: asyncio.Task[None]) -> None:
            """Fail what is queued. aiokafka's own callback fails where there is no transaction."""
            if task.cancelled() or (error := task.exception()) is None:
                return
            for request in self._requests:
                request.cancel()  # its batches fail below, and cannot be queued again
            accumulator = sender._message_accumulator
            queued = [batch for batches in accumulator._batches.values() for batch in batches]
            accumulator._pending_batches.update(queued)  # where aiokafka expects each batch that fails
            accumulator.fail_all(error)
            for batch in queued:
                batch._drain_waiter.exception()  # otherwise asyncio reports it as never retrieved

        sender._send_produce_req = tracked
        sender._fail_all = failed

    def _with_warning(self, detail: str) -> str:
        warning = self._warnings.take()
        return f"{detail} ({warning})" if warning and warning not in detail else detail


@lru_cache(maxsize=16_384)
def partition_of(key: str, partition_count: int) -> int:
    """Return the partition of `key`, as all Kafka clients compute it (murmur2). Cached, since it is slow."""
    place = cast("Callable[[bytes, list[int], list[int]], int]", DefaultPartitioner())
    return place(key.encode(), list(range(partition_count)), [])


def append(batch: Batch, record: Record, headers: Headers, *, restamp: bool = False) -> bool:
    """Add `record` to `batch`, with the current time if `restamp`; `False`: the batch is full."""
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
    """Wait until all are done, with whatever result. Canceling the wait does not cancel them."""
    await asyncio.wait(futures)


async def wait_for_any(futures: Iterable[asyncio.Future[object]]) -> None:
    """Wait until one is done, with whatever result. Canceling the wait does not cancel them."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


class _InvalidRecord(kafka_errors.BrokerResponseError):
    """INVALID_RECORD, which aiokafka does not know (kafka.apache.org/protocol, error codes)."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The broker refused a record of the batch"


class _UnsupportedCompression(kafka_errors.BrokerResponseError):
    """UNSUPPORTED_COMPRESSION_TYPE, which aiokafka does not know."""

    errno = 76
    message = "UNSUPPORTED_COMPRESSION_TYPE"
    description = "The broker does not support the compression of the batch"


class _UnnamedError(kafka_errors.BrokerResponseError):
    """An error that aiokafka does not know; otherwise its code is lost."""

    message = "UNNAMED"
    description = "kafka.apache.org/protocol lists the error codes"


def _name_error_codes() -> None:
    known = kafka_errors.kafka_errors
    for named in (_InvalidRecord, _UnsupportedCompression):
        known.setdefault(named.errno, named)
    for code in range(_CODES_KNOWN, _CODES_MAX):
        known.setdefault(code, type("BrokerError", (_UnnamedError,), {"errno": code}))


_name_error_codes()
