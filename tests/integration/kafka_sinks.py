"""Create Kafka sinks for tests, and read and check the records that arrived."""

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Sequence

import anyio
import anyio.to_thread
import pytest

from agent.core.reading import Record
from agent.errors import SinkUnavailable
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_settings import Compression, Sasl, Settings, Tls
from tests.lab.kafka import Received, consume
from tests.unit.sinks.records import record


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncGenerator[None]:
    yield
    gc.collect()  # an object that was not closed warns, and warnings are errors
    deadline_s = anyio.current_time() + 30
    while left := [repr(task) for task in asyncio.all_tasks() if "aiokafka" in repr(task)]:
        assert anyio.current_time() < deadline_s, left
        await anyio.sleep(0.01)  # a canceled task ends in a later iteration of the loop


def sink_to(
    bootstrap: str,
    topic: str = "samples",
    *,
    delivery_timeout_s: float = 60.0,
    request_timeout_s: float = 30.0,
    compression: Compression = "none",
    tls: Tls | None = None,
    sasl: Sasl | None = None,
) -> KafkaSink:
    """Return a sink with the timeouts and the security that the test needs."""
    settings = Settings(
        bootstrap_servers=tuple(bootstrap.split(",")),
        delivery_timeout_s=delivery_timeout_s,
        request_timeout_s=request_timeout_s,
        compression=compression,
        tls=tls,
        sasl=sasl,
    )
    return KafkaSink(settings, topic, f"kafka.{topic}")


def many(count: int, keys: int = 20, first: int = 0) -> list[Record]:
    """Return records with the current time; they take `keys` keys in turn."""
    now_ms = int(time.time() * 1000)
    return [record(n, key=f"vm-{n % keys}", timestamp_ms=now_ms) for n in range(first, first + count)]


async def received(bootstrap: str, topic: str = "samples") -> list[Received]:
    """Return all records of the topic."""
    return await anyio.to_thread.run_sync(consume, bootstrap, [topic])


def numbers(records: Sequence[Received]) -> list[bytes]:
    """Return the values without the padding that makes them large."""
    return [each.value.rstrip() for each in records]


def by_key(records: Sequence[Received]) -> dict[str, list[bytes]]:
    """Return the values of each key, in the order of arrival."""
    keys: dict[str, list[bytes]] = {}
    for each in records:
        keys.setdefault(each.key, []).append(each.value.rstrip())
    return keys


def sent_by_key(records: Sequence[Record]) -> dict[str, list[bytes]]:
    """Return the values of each key, in the order in which they were sent."""
    keys: dict[str, list[bytes]] = {}
    for each in records:
        keys.setdefault(each.key, []).append(each.value.rstrip())
    return keys


def assert_nothing_lost(arrived: Sequence[Received], sent: Sequence[Record]) -> None:
    """Assert that every record arrived, in order per key. A repeat may follow its first arrival."""
    first = {key: list(dict.fromkeys(values)) for key, values in by_key(arrived).items()}
    assert first == sent_by_key(sent)
    ids = {(each.headers["ce_id"], each.value) for each in arrived}
    assert ids == {(each.id.encode(), each.value) for each in sent}


async def send_until_taken(sink: KafkaSink, batch: Sequence[Record], within_s: float = 120.0) -> None:
    """Send until the sink accepts the batch, as the deliverer does."""
    with anyio.fail_after(within_s):
        while True:
            try:
                await sink.send(batch)
            except SinkUnavailable:
                await anyio.sleep(0.1)
            else:
                return


async def unavailable_because(sink: KafkaSink, batch: Sequence[Record], words: str) -> SinkUnavailable:
    """Send until the sink fails with `words` in the error; return that error. Others may come first."""
    heard: list[str] = []
    with anyio.move_on_after(120):
        while True:
            try:
                await sink.send(batch)
            except SinkUnavailable as error:
                heard.append(str(error))
                if words in heard[-1]:
                    return error
            await anyio.sleep(0.1)
    raise AssertionError(f"{words!r} is not in the errors, of which the last are {heard[-5:]}")
