"""Golden records of topics, keys, headers and partitions as aiokafka gets them, and of lines on stdout."""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from agent.config import Flags, load
from agent.contract.encode import Mode
from agent.core.reading import Record
from agent.sinks.kafka_client import KafkaClient, partition_of
from agent.sinks.kafka_round import Round
from agent.sinks.library_warnings import LibraryWarnings
from agent.sinks.lines import LinesSink, Settings
from agent.spool.queues import Queue
from tests.golden import documents, scenarios
from tests.golden.texts import Texts

_ENVIRON = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one", "BAROGRAPH_STATE_DIRECTORY": "/x"}
_PARTITIONS = 12


@dataclass
class _Batch:
    """A stand-in for aiokafka's BatchBuilder that keeps the records."""

    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def append(self, **given: Any) -> object:
        self.records.append(given)
        return object()

    def close(self) -> None:
        return


class _Sender:
    sender_task: None = None

    async def _send_produce_req(self, node_id: int, batches: object) -> None: ...


@dataclass
class _Producer:
    """A stand-in for aiokafka's producer that keeps the batches."""

    sent: list[tuple[str, int, _Batch]] = field(default_factory=list[tuple[str, int, _Batch]])
    _sender: _Sender = field(default_factory=_Sender)

    def create_batch(self) -> _Batch:
        return _Batch()

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> asyncio.Future[object]:
        self.sent.append((topic, partition, batch))
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


def topics(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the topic of each queue of records."""
    config = load(Flags(kafka="a:1"), {**_ENVIRON, **environ}, monitors_needed=False)
    assert config.kafka is not None
    return {
        Queue.SAMPLES: config.kafka.samples_topic,
        Queue.STATES: config.kafka.states_topic,
        Queue.MEMORY: config.kafka.memory_topic,
    }


def _records() -> list[Record]:
    return [
        each
        for mode in Mode
        for each in (
            *documents.records(scenarios.first_samples(), mode)[:3],
            *documents.records(scenarios.domain(), mode)[:3],
            *documents.records(scenarios.named_by_its_path(), mode)[:2],
            documents.agent_record(mode),
        )
    ]


async def _sent() -> str:
    names = topics({})
    texts, lines = Texts(), list[str]()
    for record in _records():
        producer = _Producer()
        client = KafkaClient(producer, LibraryWarnings("golden"))  # pyrefly: ignore[bad-argument-type]
        await Round(client, names[Queue.of(record)], _PARTITIONS).send([record])
        for topic, partition, batch in producer.sent:
            for given in batch.records:
                document = {
                    "topic": topic,
                    "partition_of_12": partition,
                    "key": given["key"].decode(),
                    "timestamp_ms": given["timestamp"],
                    "headers": [[name, value.decode()] for name, value in given["headers"]],
                    "value": texts.out_of(given["value"].decode()),
                }
                lines.append(json.dumps(document) + "\n")
    return "".join(lines)


async def _lines() -> str:
    with tempfile.TemporaryFile() as file:
        await LinesSink(Settings(descriptor=file.fileno())).send(_records())
        file.seek(0)
        return Texts().out_of(file.read().decode())


def made() -> dict[str, str]:
    """Return the recorded files."""
    mine = {
        "BAROGRAPH_KAFKA__SAMPLES_TOPIC": "mine.samples",
        "BAROGRAPH_KAFKA__STATES_TOPIC": "mine.states",
        "BAROGRAPH_KAFKA__MEMORY_TOPIC": "mine.memory",
    }
    names = {"default": topics({}), "configured": topics(mine)}
    keys = ("vm-1", "", scenarios.HOST_ID, "5f0c0000-0000-0000-0000-000000000001", "\u00e4")
    placed = {key: [partition_of(key, count) for count in (1, 3, 12, 50)] for key in keys}
    return {
        "topics/names.json": json.dumps(names, indent=1) + "\n",
        "topics/partitions.json": json.dumps(placed, indent=1) + "\n",
        "topics/kafka.jsonl": anyio.run(partial(_sent)),
        "topics/lines.jsonl": anyio.run(partial(_lines)),
    }
