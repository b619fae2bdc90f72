"""Sends many records to the partitions of one topic, once: in order within each, all partitions in parallel.

Each record is added, in the given order, to the produce batch of its partition. A batch is sent when it is
full and no other batch of its partition is in flight. (Sorting the records by partition first takes twice
the CPU, since they lie apart in memory.) After a refused batch its partition gets nothing more in this round:
later records must not overtake it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from agent.contract.headers import decode_headers
from agent.core.reading import Record
from agent.sinks.kafka_client import Batch, KafkaClient, append, partition_of, wait, wait_for_any
from agent.sinks.kafka_faults import Fault, KafkaTrouble

_GRACE_S = 1.0  # after a failure, for batches in flight that may still be acknowledged: fewer repeats
_RECORDS_AT_ONCE = 256  # then other tasks run


@dataclass(frozen=True, slots=True)
class Load:
    """A produce batch and its records."""

    partition: int
    batch: Batch
    records: list[Record] = field(default_factory=list[Record])


class Round:
    """One attempt to send. Used by one task, for one call of `send`."""

    def __init__(self, client: KafkaClient, topic: str, partition_count: int) -> None:
        self.accepted: list[Load] = []  # acknowledged
        self.refused: list[Load] = []  # because of a record in them; at most one of each partition
        self.damaged: list[tuple[Record, str]] = []  # cannot be sent: their headers were damaged on disk
        self._client = client
        self._topic = topic
        self._partition_count = partition_count
        self._queued: dict[int, deque[Load]] = {}  # by partition, behind the batch in flight
        self._in_flight: dict[asyncio.Future[object], Load] = {}

    async def send(self, records: Sequence[Record]) -> None:
        """Return once each record is in `accepted` or `damaged`, or in or behind one in `refused`.

        Raises:
            KafkaTrouble: nothing is wrong with the records. `accepted` has those that were delivered, also
                when cancelled.
        """
        try:
            await self._load(records)
            while self._in_flight:
                await wait_for_any(self._in_flight)
                await self._collect()
        except KafkaTrouble:
            if self._in_flight:
                with anyio.move_on_after(_GRACE_S):
                    await wait(self._in_flight)
            raise
        finally:
            self._abandon()

    async def _load(self, records: Sequence[Record]) -> None:
        open_loads: dict[int, Load] = {}
        for number, record in enumerate(records):
            if number % _RECORDS_AT_ONCE == _RECORDS_AT_ONCE - 1:
                await anyio.lowlevel.checkpoint()
                await self._collect()
            try:
                headers = decode_headers(record.headers)
            except ValueError as error:
                self.damaged.append((record, str(error)))
                continue
            partition = partition_of(record.key, self._partition_count)
            load = open_loads.get(partition)
            if load is None or not append(load.batch, record, headers):
                if load is not None:
                    await self._send_load(load)
                load = open_loads[partition] = Load(partition, self._client.batch())
                append(load.batch, record, headers)
            load.records.append(record)
        for load in open_loads.values():
            await self._send_load(load)

    async def _send_load(self, load: Load) -> None:
        """Send `load` now, or queue it behind the batch in flight to its partition."""
        load.batch.close()
        queued = self._queued.get(load.partition)
        if queued is None:
            self._queued[load.partition] = deque()
            await self._submit(load)
        else:
            queued.append(load)

    async def _submit(self, load: Load) -> None:
        future = await self._client.submit(load.batch, self._topic, load.partition)
        self._in_flight[future] = load

    async def _collect(self) -> None:
        """Take the results of finished batches, and send those queued behind them."""
        for future in [each for each in self._in_flight if each.done()]:
            load = self._in_flight.pop(future)
            if (error := future.exception()) is not None:
                trouble = self._client.trouble(error)
                if trouble.fault not in (Fault.RECORD, Fault.TIME):
                    raise trouble
                self.refused.append(load)  # its partition stays blocked
                continue
            self.accepted.append(load)
            queued = self._queued[load.partition]
            if queued:
                await self._submit(queued.popleft())
            else:
                del self._queued[load.partition]

    def _abandon(self) -> None:
        for future, load in self._in_flight.items():
            if not future.done():
                future.cancel()  # otherwise asyncio reports its exception as never retrieved
            elif not future.cancelled() and future.exception() is None:
                self.accepted.append(load)
        self._in_flight.clear()
