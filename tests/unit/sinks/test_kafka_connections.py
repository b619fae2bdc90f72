"""The number of connections to brokers is bounded, whatever brokers the cluster names."""

import os
from dataclasses import replace

import anyio

from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_connections import CONNECTIONS_MAX
from agent.sinks.kafka_settings import Settings
from tests.lab.scripted_kafka import (
    METADATA,
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


def led_by(peer: Peer, leaders: list[int]) -> Fields:
    """Return metadata of a topic with a leader for each partition; all are at the peer's address."""
    brokers = [(i32(node), text("127.0.0.1"), i32(peer.port), text(None)) for node in leaders]
    partitions = [
        (i16(0), i32(number), i32(node), array([(i32(node),)]), array([(i32(node),)]))
        for number, node in enumerate(leaders)
    ]
    return (
        array(brokers),
        i32(leaders[0]),
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
