"""The number of connections to brokers is bounded, whatever brokers the cluster names."""

import gc
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import anyio
import pytest

from agent.errors import SinkUnavailable
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_cluster import BROKERS_MAX, PARTITIONS_MAX
from agent.sinks.kafka_connection import BrokerConnection
from agent.sinks.kafka_connections import CONNECTIONS_MAX
from agent.sinks.kafka_settings import Settings
from tests.lab.scripted_kafka import (
    METADATA,
    PRODUCE,
    Field,
    Fields,
    Peer,
    array,
    i16,
    i32,
    scripted_kafka,
    text,
)
from tests.unit.sinks.records import record

BROKERS = 4 * CONNECTIONS_MAX


def led_by(peer: Peer, leaders: list[int], numbers: Sequence[int] | None = None) -> Fields:
    """Return metadata of a topic by the leaders of its partitions; -1 is none. The peer is each leader."""
    nodes = [node for node in leaders if node != -1] or [1]
    brokers = [(i32(node), text("127.0.0.1"), i32(peer.port), text(None)) for node in nodes]
    partitions = [
        (i16(0), i32(number), i32(node), array([(i32(node),)]), array([(i32(node),)]))
        for number, node in zip(numbers or range(len(leaders)), leaders, strict=True)
    ]
    return (
        array(brokers),
        i32(nodes[0]),
        array([(i16(0), text("samples"), Field("i8", 0), array(partitions))]),
    )


def sink_to(address: str) -> KafkaSink:
    settings = Settings(bootstrap_servers=(address,), compression="none")
    return KafkaSink(settings, "samples", "kafka.samples")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_cluster_with_a_broker_for_each_record_gets_few_connections() -> None:
    peer = Peer()
    async with scripted_kafka(peer) as address:
        peer.answers = {METADATA: lambda: led_by(peer, list(range(1, BROKERS + 1)))}
        records = [replace(record(number), key=f"vm-{number}") for number in range(2 * BROKERS)]
        sink, before, most = sink_to(address), descriptors(), 0
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, descriptors() - before)
                    await anyio.sleep(0.01)

            group.start_soon(watch)
            with anyio.fail_after(60):
                for _ in range(2):
                    await sink.send(records)
            group.cancel_scope.cancel()
        await sink.aclose()

    assert peer.records == 2 * len(records)
    # The peer's ends are in this process, too, and may be closed a moment later.
    assert most <= 4 * CONNECTIONS_MAX


async def test_a_partition_without_leader_does_not_make_the_agent_ask_all_the_time() -> None:
    peer = Peer()
    async with scripted_kafka(peer) as address:
        peer.answers = {METADATA: lambda: led_by(peer, [1, -1])}
        sink = sink_to(address)
        with anyio.move_on_after(3):
            await sink.send([replace(record(number), key=f"vm-{number}") for number in range(100)])
        asked = peer.requests[METADATA]
        peer.answers = {METADATA: lambda: led_by(peer, [1, 1])}
        with anyio.fail_after(60):
            await sink.send([replace(record(number), key=f"vm-{number}") for number in range(100)])
        await sink.aclose()

    assert 1 <= asked <= 10  # without pauses there are thousands


async def test_connections_that_are_closed_are_not_kept() -> None:
    peer = Peer(close_at=frozenset({PRODUCE}))
    async with scripted_kafka(peer) as address:
        peer.answers = {METADATA: lambda: led_by(peer, list(range(1, BROKERS + 1)))}
        sink = sink_to(address)
        records = [replace(record(number), key=f"vm-{number}") for number in range(2 * BROKERS)]
        async with anyio.create_task_group() as group:
            group.start_soon(sink.send, records)
            with anyio.fail_after(60):
                while peer.requests[PRODUCE] <= BROKERS:  # noqa: ASYNC110 - the peer's count
                    await anyio.sleep(0.05)
            gc.collect()
            kept = sum(isinstance(each, BrokerConnection) for each in gc.get_objects())
            group.cancel_scope.cancel()
        await sink.aclose()
        await anyio.wait_all_tasks_blocked()  # the peer has accepted all connections, and seen them end

    assert kept <= CONNECTIONS_MAX


@pytest.mark.parametrize(
    ("leaders", "numbers", "words"),
    [
        (list(range(1, BROKERS_MAX + 2)), None, f"at most {BROKERS_MAX} and {PARTITIONS_MAX} are used"),
        ([1] * (PARTITIONS_MAX + 1), None, f"at most {BROKERS_MAX} and {PARTITIONS_MAX} are used"),
        ([1, 1], (2**31 - 1, -1), "the 2 partitions of topic samples are not numbered from 0 on"),
        ([1, 1], (0, 0), "the 2 partitions of topic samples are not numbered from 0 on"),
    ],
    ids=["brokers", "partitions", "odd numbers", "the same number"],
)
async def test_unusable_metadata_of_a_cluster_is_refused_with_a_reason(
    leaders: list[int], numbers: Sequence[int] | None, words: str
) -> None:
    peer = Peer()
    async with scripted_kafka(peer) as address:
        peer.answers = {METADATA: lambda: led_by(peer, leaders, numbers)}
        sink, problem = sink_to(address), ""
        async with anyio.create_task_group() as group:

            async def send() -> None:
                with suppress(SinkUnavailable):
                    await sink.send([record(1)])

            group.start_soon(send)
            with anyio.fail_after(60):
                while words not in problem:
                    await anyio.sleep(0.05)
                    problem = sink.problem or ""
            group.cancel_scope.cancel()
        await sink.aclose()

    assert peer.records == 0
