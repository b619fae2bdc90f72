"""Delivery to three real brokers while one is killed, one hangs, or all hang."""

import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import pytest

from agent.core.reading import Record
from agent.errors import SinkUnavailable
from agent.sinks.kafka import KafkaSink
from tests.integration.conftest import need
from tests.integration.kafka_sinks import (
    assert_nothing_lost,
    many,
    received,
    send_until_taken,
    sink_to,
)
from tests.integration.kafka_sinks import (
    no_task_is_left as no_task_is_left,
)
from tests.lab.kafka import RealKafka, kafka_cluster

# Three brokers need the whole machine: their session timeout is 3 s.
pytestmark = pytest.mark.alone

PARTITIONS = 6
PAUSE_S = 0.05  # leaves CPU time to the brokers
BATCH = 300  # of 60 keys: records for each partition, so that a batch needs all leaders


class Patience(NamedTuple):
    """How long a sink waits, in seconds: for one request, and for one batch."""

    request_timeout_s: float
    delivery_timeout_s: float


DEFAULT, SHORT = Patience(10.0, 30.0), Patience(1.0, 4.0)


@pytest.fixture
def cluster(folder: Path) -> Generator[RealKafka]:
    """Three brokers of one test, which may kill or freeze them."""
    need("kafka")
    with kafka_cluster(folder / "cluster") as running:
        yield running


def topic_of(cluster: RealKafka) -> str:
    name = f"cluster-{uuid.uuid4().hex[:8]}"
    cluster.create_topic(name, PARTITIONS)
    return name


class Delivering:
    """Delivers batch after batch to one sink, as the deliverer does."""

    def __init__(self, sink: KafkaSink) -> None:
        self.sent: list[Record] = []
        self.batches = 0  # acknowledged
        self.failures = 0
        self._sink = sink
        self._changed = anyio.Event()
        self._wanted = True

    async def run(self) -> None:
        """Deliver until `stop` is called."""
        while self._wanted:
            batch = many(BATCH, keys=60, first=len(self.sent))
            self.sent += batch
            while True:
                try:
                    await self._sink.send(batch)
                    break
                except SinkUnavailable:
                    self.failures += 1
                    self._tell()
                    await anyio.sleep(0.1)
            self.batches += 1
            self._tell()
            await anyio.sleep(PAUSE_S)

    async def more(self, batches: int, within_s: float = 180.0) -> None:
        """Return once `batches` more batches are acknowledged, all of them begun after this call."""
        goal = self.batches + batches + 1
        with anyio.fail_after(within_s):
            while self.batches < goal:
                await self._changed.wait()

    async def failing(self, within_s: float = 180.0) -> None:
        """Return once a batch has failed."""
        before = self.failures
        with anyio.fail_after(within_s):
            while self.failures == before:
                await self._changed.wait()

    def stop(self) -> None:
        """Stop after the current batch."""
        self._wanted = False

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def start_again(cluster: RealKafka, number: int, topic: str) -> None:
    def start() -> None:
        cluster.brokers[number].begin()
        cluster.brokers[number].wait_until_listening(180)
        cluster.wait_until_in_sync(topic)

    await anyio.to_thread.run_sync(start)


async def one_after_the_other(cluster: RealKafka, rounds: int, patience: Patience) -> None:
    topic = topic_of(cluster)
    sink = sink_to(
        cluster.bootstrap,
        topic,
        request_timeout_s=patience.request_timeout_s,
        delivery_timeout_s=patience.delivery_timeout_s,
        compression="zstd",
    )
    delivering = Delivering(sink)
    async with anyio.create_task_group() as group:
        group.start_soon(delivering.run)
        await delivering.more(3)
        for round_ in range(rounds):
            killed, frozen = round_ % 3, (round_ + 1) % 3
            cluster.brokers[killed].kill()
            await delivering.more(3)
            await start_again(cluster, killed, topic)
            cluster.brokers[frozen].freeze()
            try:
                await delivering.more(3)
            finally:
                cluster.brokers[frozen].thaw()
            await anyio.to_thread.run_sync(cluster.wait_until_in_sync, topic)
        await delivering.more(3)
        delivering.stop()

    await sink.aclose()
    assert_nothing_lost(await received(cluster.bootstrap, topic), delivering.sent)
    print(f"{rounds} rounds: {len(delivering.sent)} records, {delivering.failures} failures on the way")


async def test_one_broker_killed_and_another_one_hung_do_not_stop_delivery(cluster: RealKafka) -> None:
    await one_after_the_other(cluster, 1, SHORT)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_each_broker_killed_and_each_one_hung_with_the_default_timeouts(
    cluster: RealKafka,
) -> None:
    await one_after_the_other(cluster, 3, DEFAULT)


async def test_a_cluster_that_hangs_does_not_block_the_sink_and_later_gets_everything(
    cluster: RealKafka,
) -> None:
    topic = topic_of(cluster)
    sink = sink_to(cluster.bootstrap, topic, request_timeout_s=1.0, delivery_timeout_s=1.5)
    sent = many(BATCH, keys=60)
    await send_until_taken(sink, sent)
    late = many(BATCH, keys=60, first=BATCH)
    cluster.freeze()
    try:
        with pytest.raises(SinkUnavailable, match="batch not acknowledged"):
            await sink.send(late)
        with anyio.move_on_after(0.5):
            await sink.send(late)
        begun_s = time.monotonic()
        await sink.aclose()
        assert time.monotonic() - begun_s < 15.0  # it does not wait for the cluster
    finally:
        cluster.thaw()

    await send_until_taken(sink, late)

    await sink.aclose()
    assert_nothing_lost(await received(cluster.bootstrap, topic), [*sent, *late])


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_with_one_broker_dead_delivery_continues_once_another_one_stops_hanging(
    cluster: RealKafka,
) -> None:
    topic = topic_of(cluster)
    sink = sink_to(cluster.bootstrap, topic, request_timeout_s=1.0, delivery_timeout_s=4.0)
    delivering = Delivering(sink)
    async with anyio.create_task_group() as group:
        group.start_soon(delivering.run)
        await delivering.more(3)
        cluster.brokers[0].kill()
        cluster.brokers[1].freeze()
        try:
            await delivering.failing()
            await delivering.failing()
        finally:
            cluster.brokers[1].thaw()
        await delivering.more(5)
        delivering.stop()
    await start_again(cluster, 0, topic)

    await sink.aclose()
    assert_nothing_lost(await received(cluster.bootstrap, topic), delivering.sent)
