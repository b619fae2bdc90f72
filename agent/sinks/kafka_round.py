"""Many records to the partitions of one topic, once: in order within each, several partitions at a time.

Each record is looked at once, in the order given, and goes into the produce batch of its partition; a
batch sets out when it is full and nothing else of its partition is on its way. (Sorting the records by
partition first takes twice the CPU: their parts lie apart in memory.) A partition of which a batch was
refused gets nothing more in this round: what is behind it must not overtake it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from agent.contract.headers import decode_headers
from agent.core.reading import Record
from agent.sinks.kafka_client import (
    Batch,
    Fault,
    KafkaClient,
    KafkaTrouble,
    append,
    partition_of,
    wait,
    wait_for_any,
)

_LANDING_S = 1.0  # what is on its way when something fails may still be acknowledged: fewer repeats
_RECORDS_AT_ONCE = 256  # then others have their turn: under a millisecond


@dataclass(frozen=True, slots=True)
class Load:
    """A produce batch, and what is in it."""

    partition: int
    batch: Batch
    records: list[Record] = field(default_factory=list[Record])


class Round:
    """Sends once. Used by one task, for one call of `send`."""

    def __init__(self, client: KafkaClient, topic: str, partition_count: int) -> None:
        self.accepted: list[Load] = []  # acknowledged
        self.refused: list[Load] = []  # for the sake of a record in it, at most one of each partition
        self.damaged: list[tuple[Record, str]] = []  # cannot be sent: their headers were damaged on disk
        self._client = client
        self._topic = topic
        self._partition_count = partition_count
        self._waiting: dict[int, deque[Load]] = {}  # by partition: behind what is on its way
        self._flights: dict[asyncio.Future[object], Load] = {}

    async def send(self, records: Sequence[Record]) -> None:
        """Return once each record is in `accepted` or `damaged`, or in or behind one in `refused`.

        Raises:
            KafkaTrouble: nothing is wrong with the records. `accepted` says how far it came, so too when
                cancelled.
        """
        try:
            await self._load(records)
            while self._flights:
                await wait_for_any(self._flights)
                await self._land()
        except KafkaTrouble:
            if self._flights:
                with anyio.move_on_after(_LANDING_S):
                    await wait(self._flights)
            raise
        finally:
            self._abandon()

    async def _load(self, records: Sequence[Record]) -> None:
        open_loads: dict[int, Load] = {}
        for number, record in enumerate(records):
            if number % _RECORDS_AT_ONCE == _RECORDS_AT_ONCE - 1:
                await anyio.lowlevel.checkpoint()
                await self._land()
            try:
                headers = decode_headers(record.headers)
            except ValueError as error:
                self.damaged.append((record, str(error)))
                continue
            partition = partition_of(record.key, self._partition_count)
            load = open_loads.get(partition)
            if load is None or not append(load.batch, record, headers):
                if load is not None:
                    await self._depart(load)
                load = open_loads[partition] = Load(partition, self._client.batch())
                append(load.batch, record, headers)
            load.records.append(record)
        for load in open_loads.values():
            await self._depart(load)

    async def _depart(self, load: Load) -> None:
        """Send `load` now, or after what is on its way to its partition."""
        load.batch.close()
        waiting = self._waiting.get(load.partition)
        if waiting is None:
            self._waiting[load.partition] = deque()
            await self._submit(load)
        else:
            waiting.append(load)

    async def _submit(self, load: Load) -> None:
        future = await self._client.submit(load.batch, self._topic, load.partition)
        self._flights[future] = load

    async def _land(self) -> None:
        """Note what became of the flights that have ended, and send what waited for them."""
        for future in [each for each in self._flights if each.done()]:
            load = self._flights.pop(future)
            if (error := future.exception()) is not None:
                trouble = self._client.trouble(error)
                if trouble.fault not in (Fault.RECORD, Fault.TIME):
                    raise trouble
                self.refused.append(load)  # its partition keeps waiting
                continue
            self.accepted.append(load)
            waiting = self._waiting[load.partition]
            if waiting:
                await self._submit(waiting.popleft())
            else:
                del self._waiting[load.partition]

    def _abandon(self) -> None:
        for future, load in self._flights.items():
            if not future.done():
                future.cancel()  # else its end is reported as never retrieved
            elif not future.cancelled() and future.exception() is None:
                self.accepted.append(load)
        self._flights.clear()
