"""Delivers the records of one topic to Kafka: idempotent, acks=all, in order per key, with its own deadlines.

Rules, each with a test in tests/integration/test_sinks_kafka.py:

- a batch is settled when every record is acknowledged or refused for good; until then the sink raises
  SinkUnavailable, remembers what is settled, and continues from there when the batch is sent again;
- records with the same key never overtake each other: there is one request at a time for each partition, and
  several partitions are sent in parallel;
- a refused batch is sent again record by record, to find the refused records;
- after any failure the producer is discarded, and a new one starts from the configured addresses;
- a missing or forbidden topic, or a refused login, certificate or codec, is retried slowly, since only an
  operator can change that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from agent.contract.headers import decode_headers
from agent.core.reading import Record
from agent.errors import SinkUnavailable
from agent.sinks.kafka_blocking import Blocking
from agent.sinks.kafka_client import KafkaClient, append, wait
from agent.sinks.kafka_connections import Connections
from agent.sinks.kafka_faults import Fault, KafkaTrouble
from agent.sinks.kafka_journal import Journal
from agent.sinks.kafka_round import Round
from agent.sinks.kafka_settings import Settings
from agent.sinks.kafka_tokens import Tokens
from agent.sinks.library_warnings import LibraryWarnings
from agent.sinks.record_sink import Receipt, RefusedRecord

_OPERATOR_RETRY_S = 15.0


@dataclass(frozen=True, slots=True)
class _Accepted:
    restamped: bool = False


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str
    detail: str


_Outcome: TypeAlias = _Accepted | _Refused

_ACCEPTED = _Accepted()


class KafkaSink:
    """Delivers records to one topic of one cluster, with a producer of its own."""

    # Large enough for a full produce batch in flight to every partition. What was acknowledged is not sent
    # again after a failure.
    batch_bytes_max = 4 * 1024 * 1024
    batch_records_max = 4000

    def __init__(
        self,
        settings: Settings,
        topic: str,
        name: str,
        tokens: Tokens | None = None,
        connections: Connections | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: the cluster.
            topic: the topic.
            name: the name of the sink.
            tokens: for a login by OAUTHBEARER; several sinks may share them.
            connections: those of several sinks to the same cluster; `None`: its own.
        """
        self.name = name
        self._settings = settings
        self._topic = topic
        self._client: KafkaClient | None = None
        self._journal = Journal()
        self._blocking = Blocking(name)
        self._tokens = tokens
        self._connections = connections or Connections()
        self._warnings = LibraryWarnings("aiokafka")
        self._outcomes: dict[str, _Outcome] = {}  # by record id: the settled records of the present batch

    async def send(self, records: Sequence[Record]) -> Receipt:
        """Deliver `records`.

        Raises:
            SinkUnavailable: not every record is settled. Some may have been written although no
                acknowledgment arrived: they will be repeated, with the same id.
        """
        if self._outcomes:
            ids = {record.id for record in records}
            self._outcomes = {id: outcome for id, outcome in self._outcomes.items() if id in ids}
        complete = False
        try:
            with self._warnings.collect(), anyio.fail_after(self._settings.delivery_timeout_s):
                await self._deliver(records)
            complete = True
        except TimeoutError as error:
            detail = f"batch not acknowledged within {self._settings.delivery_timeout_s:g} s"
            known = self._journal.trouble(anyio.current_time())
            if known is not None:
                raise _unavailable(f"{known.detail} ({detail})", known.fault) from error
            warning = self._warnings.take()
            raise _unavailable(f"{detail}{f' ({warning})' if warning else ''}; check the brokers") from error
        except KafkaTrouble as error:
            raise _unavailable(error.detail, error.fault) from error
        finally:
            if not complete:
                await self._drop_client()
        receipt = self._receipt(records)
        self._outcomes = {}
        return receipt

    @property
    def problem(self) -> str | None:
        """What keeps the present batch from being accepted; `None`: nothing known."""
        known = self._journal.trouble(anyio.current_time())
        return self._warnings.newest or None if known is None else known.detail

    async def aclose(self) -> None:
        """Close the connections, within two seconds."""
        await self._drop_client()
        self._blocking.end()
        if self._tokens is not None:
            self._tokens.end()
        self._warnings.stop()

    async def _deliver(self, records: Sequence[Record]) -> None:
        left = self._not_settled(records)
        while left:
            client = await self._connected()
            partition_count = await client.partition_count(self._topic)
            round_ = Round(client, self._topic, partition_count)
            complete = False
            try:
                await round_.send(left)
                complete = not round_.refused
            finally:
                if not complete:  # otherwise no record is looked up
                    for load in round_.accepted:
                        self._outcomes.update((record.id, _ACCEPTED) for record in load.records)
                for record, problem in round_.damaged:
                    self._outcomes[record.id] = _Refused("invalid", f"damaged headers: {problem}")
            if complete:
                return
            await self._drop_client()  # a refusal makes every later batch to its partition out of sequence
            for load in round_.refused:
                for record in load.records:
                    self._outcomes[record.id] = await self._send_alone(record, load.partition)
            left = self._not_settled(records)

    def _not_settled(self, records: Sequence[Record]) -> Sequence[Record]:
        if not self._outcomes:
            return records
        return [record for record in records if record.id not in self._outcomes]

    async def _send_alone(self, record: Record, partition: int, *, restamp: bool = False) -> _Outcome:
        client = await self._connected()
        batch = client.batch()
        append(batch, record, decode_headers(record.headers), restamp=restamp)
        batch.close()
        future = await client.submit(batch, self._topic, partition)
        try:
            await wait([future])
        finally:
            if not future.cancel() and not future.cancelled():
                future.exception()  # otherwise asyncio reports it as never retrieved, if this is canceled
        if (error := future.exception()) is None:
            return _Accepted(restamped=restamp)
        trouble = client.trouble(error)
        if trouble.fault not in (Fault.RECORD, Fault.TIME):
            raise trouble
        await self._drop_client()
        if trouble.fault is Fault.RECORD:
            return _Refused(trouble.reason, trouble.detail)
        if restamp:
            detail = "the brokers refuse the current time of this host; compare the clocks"
            raise KafkaTrouble(Fault.CONNECTION, "", detail)
        return await self._send_alone(record, partition, restamp=True)

    async def _connected(self) -> KafkaClient:
        if self._client is None:
            self._warnings.start()
            self._journal = Journal()
            self._client = await KafkaClient.connect(
                self._settings,
                self._warnings,
                self._journal,
                self._blocking,
                self._topic,
                self._tokens,
                self._connections,
            )
        return self._client

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _receipt(self, records: Sequence[Record]) -> Receipt:
        refused: list[RefusedRecord] = []
        restamped = 0
        for index, record in enumerate(records if self._outcomes else ()):
            match self._outcomes.get(record.id, _ACCEPTED):
                case _Refused(reason, detail):
                    refused.append(RefusedRecord(index, reason, detail))
                case _Accepted(was_restamped):
                    restamped += was_restamped
        return Receipt(tuple(refused), restamped)


def _unavailable(detail: str, fault: Fault = Fault.CONNECTION) -> SinkUnavailable:
    is_slow = fault in (Fault.TOPIC, Fault.SETTING)
    return SinkUnavailable(f"kafka: {detail}", retry_after_s=_OPERATOR_RETRY_S if is_slow else None)
