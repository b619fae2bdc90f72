"""Records to Kafka: idempotent, acks=all, in order per key, with deadlines of its own.

Rules, each with a test in tests/integration/test_sinks_kafka.py:

- a batch is settled when every record is acknowledged or refused for good; until then the sink says
  unavailable, remembers what is settled, and goes on from there when the batch comes again;
- records of one key never overtake each other: one request at a time for each partition;
- a refused batch is sent again record by record, to find the refused ones;
- after any failure the producer is thrown away, and the next one starts from the configured addresses.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from agent.core.reading import Record, RecordKind
from agent.errors import SinkUnavailable
from agent.sinks.complaints import Complaints
from agent.sinks.kafka_client import (
    Fault,
    KafkaClient,
    KafkaTrouble,
    append,
    partition_of,
    wait,
)
from agent.sinks.kafka_settings import Settings
from agent.sinks.record_sink import Receipt, RefusedRecord


@dataclass(frozen=True, slots=True)
class _Accepted:
    restamped: bool = False


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str
    detail: str


_Outcome: TypeAlias = _Accepted | _Refused
_Lane: TypeAlias = tuple[str, int]  # topic and partition: what Kafka keeps in order


class KafkaSink:
    """Delivers records to one cluster."""

    name = "kafka"
    batch_bytes_max = 1024 * 1024
    batch_records_max = 1000

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: KafkaClient | None = None
        self._complaints = Complaints("aiokafka")
        self._outcomes: dict[str, _Outcome] = {}  # by record id: what is settled of the present batch

    async def send(self, records: Sequence[Record]) -> Receipt:
        """Deliver `records`.

        Raises:
            SinkUnavailable: not every record is settled. Some may have been written without our knowing:
                they will be repeated, with the same id.
        """
        ids = {record.id for record in records}
        self._outcomes = {id: outcome for id, outcome in self._outcomes.items() if id in ids}
        complete = False
        try:
            with anyio.fail_after(self._settings.delivery_timeout_s):
                await self._deliver(records)
            complete = True
        except TimeoutError as error:
            complaint = self._complaints.take()
            waited = f"not everything acknowledged within {self._settings.delivery_timeout_s:g} s"
            raise self._unavailable(f"{waited} ({complaint})" if complaint else waited) from error
        except KafkaTrouble as error:
            raise self._unavailable(error.detail) from error
        finally:
            if not complete:
                await self._drop_client()
        receipt = self._receipt(records)
        self._outcomes = {}
        return receipt

    async def aclose(self) -> None:
        """Cut the connections, within two seconds."""
        await self._drop_client()
        self._complaints.stop()

    async def _deliver(self, records: Sequence[Record]) -> None:
        lanes = await self._lanes(records)
        while lanes:
            for lane, refused in await self._one_round(records, lanes):
                await self._one_by_one(records, lane, refused)
            lanes = {lane: left for lane, left in lanes.items() if left}

    async def _lanes(self, records: Sequence[Record]) -> dict[_Lane, deque[int]]:
        client = await self._connected()
        lanes: dict[_Lane, deque[int]] = {}
        counts: dict[str, int] = {}
        for index, record in enumerate(records):
            if record.id in self._outcomes:
                continue
            topic = self._topic(record)
            if topic not in counts:
                counts[topic] = await client.partition_count(topic)
            lane = (topic, partition_of(record.key, counts[topic]))
            lanes.setdefault(lane, deque()).append(index)
        return lanes

    async def _one_round(
        self, records: Sequence[Record], lanes: dict[_Lane, deque[int]]
    ) -> list[tuple[_Lane, list[int]]]:
        """Send one batch of each lane; return those refused for a record's sake, to be looked into."""
        client = await self._connected()
        sent: list[tuple[_Lane, list[int], asyncio.Future[object]]] = []
        troubles: list[KafkaTrouble] = []
        refused: list[tuple[_Lane, list[int]]] = []
        try:
            for lane, left in lanes.items():
                batch = client.batch()
                taken: list[int] = []
                while left and append(batch, records[left[0]]):
                    taken.append(left.popleft())
                batch.close()
                sent.append((lane, taken, await client.submit(batch, *lane)))
            await wait([future for _, _, future in sent])
        finally:
            for lane, taken, future in sent:
                if not future.done() or future.cancelled():
                    future.cancel()  # nobody waits any more: else its end is reported as never retrieved
                elif (error := future.exception()) is None:
                    self._outcomes.update((records[index].id, _Accepted()) for index in taken)
                elif (trouble := client.trouble(error)).fault is Fault.LINK:
                    troubles.append(trouble)
                else:
                    refused.append((lane, taken))
        if troubles:
            raise troubles[0]
        return refused

    async def _one_by_one(self, records: Sequence[Record], lane: _Lane, indices: list[int]) -> None:
        """Settle each record of a refused batch."""
        await self._drop_client()  # every later batch of this producer would be out of sequence
        for index in indices:
            record = records[index]
            self._outcomes[record.id] = await self._alone(lane, record)

    async def _alone(self, lane: _Lane, record: Record, *, restamp: bool = False) -> _Outcome:
        client = await self._connected()
        batch = client.batch()
        append(batch, record, restamp=restamp)
        batch.close()
        future = await client.submit(batch, *lane)
        try:
            await wait([future])
        finally:
            future.cancel()
        if (error := future.exception()) is None:
            return _Accepted(restamped=restamp)
        trouble = client.trouble(error)
        if trouble.fault is Fault.LINK:
            raise trouble
        await self._drop_client()
        if trouble.fault is Fault.RECORD:
            return _Refused(trouble.reason, trouble.detail)
        if restamp:
            detail = "the brokers refuse this host's present time: compare the clocks"
            raise KafkaTrouble(Fault.LINK, "", detail)
        return await self._alone(lane, record, restamp=True)

    async def _connected(self) -> KafkaClient:
        if self._client is None:
            self._complaints.start()
            self._client = await KafkaClient.connect(self._settings, self._complaints)
        return self._client

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _topic(self, record: Record) -> str:
        if record.kind is RecordKind.SAMPLE:
            return self._settings.samples_topic
        return self._settings.states_topic

    def _receipt(self, records: Sequence[Record]) -> Receipt:
        refused: list[RefusedRecord] = []
        restamped = 0
        for index, record in enumerate(records):
            match self._outcomes[record.id]:
                case _Refused(reason, detail):
                    refused.append(RefusedRecord(index, reason, detail))
                case _Accepted(was_restamped):
                    restamped += was_restamped
        return Receipt(tuple(refused), restamped)

    def _unavailable(self, detail: str) -> SinkUnavailable:
        servers = ", ".join(self._settings.bootstrap_servers)
        return SinkUnavailable(f"kafka {servers}: {detail}")
