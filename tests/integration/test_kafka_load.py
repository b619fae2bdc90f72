"""An agent's connections and requests to the brokers, and sinks that share connections independently."""

import struct
import time
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from agent.errors import SinkUnavailable
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_connections import Connections
from agent.sinks.kafka_settings import Settings
from agent.sinks.record_sink import Receipt
from tests.integration.kafka_sinks import assert_nothing_lost, many, received
from tests.integration.kafka_sinks import no_task_is_left as no_task_is_left
from tests.lab.agent import agent
from tests.lab.embedded_kafka import EmbeddedKafka
from tests.lab.kafka import RealKafka
from tests.lab.process import wait_until
from tests.lab.sim import simulated
from tests.unit.sinks.records import record

LINGER_S = 3.0
"""The default of kafka.linger."""


def connections_to(bootstrap: str, pid: int) -> list[int]:
    """Return the broker's port for each established connection of a process to one of these brokers."""
    ports = {int(each.rpartition(":")[2]) for each in bootstrap.split(",")}
    own: set[str] = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            own.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    found: list[int] = []
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, _, peer, state, *rest = line.split()
        port = int(peer.partition(":")[2], 16)
        if state == "01" and port in ports and f"socket:[{rest[5]}]" in own:
            found.append(port)
    return found


def batches_in(folder: Path, topic: str) -> int:
    """Return how many record batches the log of a topic has: each came with a request of its own.

    Layout: kafka.apache.org/documentation, "Record Batch": the base offset, and the length of what follows.
    """
    batches = 0
    for segment in folder.rglob(f"{topic}-0/*.log"):
        content, position = segment.read_bytes(), 0
        while position + 12 <= len(content):
            (length,) = struct.unpack_from(">i", content, position + 8)
            position += 12 + length
            batches += 1
    return batches


async def test_an_agent_has_one_connection_and_few_requests(own_kafka: RealKafka, folder: Path) -> None:
    connections, seconds, made = await anyio.to_thread.run_sync(run_agent, own_kafka, folder)

    assert connections == [own_kafka.port]
    for name, batches in made.items():
        assert batches <= seconds / LINGER_S + 2, (name, made, seconds)


def run_agent(own_kafka: RealKafka, folder: Path) -> tuple[list[int], float, dict[str, int]]:
    """Run an agent with 20 VMs; return its connections, a time in seconds, and each topic's batches in it."""
    run = uuid.uuid4().hex[:8]
    topics = {name: f"{name}-{run}" for name in ("samples", "states", "memory")}
    for topic in topics.values():
        own_kafka.create_topic(topic, 1)
    env = {f"BAROGRAPH_KAFKA__{name.upper()}_TOPIC": topic for name, topic in topics.items()}
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "2s", "--kafka", own_kafka.bootstrap)

    def count() -> dict[str, int]:
        return {name: batches_in(folder / "kafka", topic) for name, topic in topics.items()}

    with ExitStack() as stack:
        stack.enter_context(simulated(folder, vms=20))
        process = stack.enter_context(agent(folder, *words, env={**env, "BAROGRAPH_MEMORY__INTERVAL": "1s"}))
        wait_until(
            lambda: all(count().values()), "records of each kind", process.process, process.stderr, 240
        )
        before, began_s = count(), time.monotonic()
        wait_until(
            lambda: count()["samples"] >= before["samples"] + 5,
            "samples",
            process.process,
            process.stderr,
            240,
        )
        seconds = time.monotonic() - began_s
        made = {name: after - before[name] for name, after in count().items()}
        connections = connections_to(own_kafka.bootstrap, process.process.pid)

    return connections, seconds, made


def sinks_sharing(bootstrap: str, *topics: str, delivery_timeout_s: float = 60.0) -> list[KafkaSink]:
    """Return a sink for each topic, over the same connections."""
    connections = Connections()
    settings = Settings(
        bootstrap_servers=tuple(bootstrap.split(",")),
        delivery_timeout_s=delivery_timeout_s,
        request_timeout_s=min(delivery_timeout_s, 30.0),
        compression="none",
    )
    return [KafkaSink(settings, topic, f"kafka.{topic}", connections=connections) for topic in topics]


@contextmanager
def cluster_of(*topics: str) -> Generator[EmbeddedKafka]:
    cluster = EmbeddedKafka()
    for topic in topics:
        cluster.create_topic(topic, 6)
    try:
        yield cluster
    finally:
        cluster.close()


async def test_sinks_share_one_connection_to_each_broker() -> None:
    with cluster_of("a", "b", "c") as cluster:
        sinks = sinks_sharing(cluster.bootstrap, "a", "b", "c")

        async with anyio.create_task_group() as group:
            for sink in sinks:
                group.start_soon(sink.send, many(60))
        found = connections_to(cluster.bootstrap, _own_pid())
        await sinks[0].aclose()
        assert await sinks[1].send(many(60)) == Receipt()
        still = connections_to(cluster.bootstrap, _own_pid())
        for sink in sinks[1:]:
            await sink.aclose()
        with anyio.fail_after(60):
            while connections_to(cluster.bootstrap, _own_pid()):  # noqa: ASYNC110 - the kernel's list
                await anyio.sleep(0.01)

    assert len(found) == len(set(found)) == 3, found
    assert sorted(still) == sorted(found)


def _own_pid() -> int:
    return int(Path("/proc/self").readlink().name)


async def test_failing_batches_of_one_topic_do_not_affect_another_topic() -> None:
    with cluster_of("good") as cluster:
        cluster.refuse_topic("bad", 3)
        good, bad = sinks_sharing(cluster.bootstrap, "good", "bad", delivery_timeout_s=6.0)
        sent = many(300)
        failed = anyio.Event()

        async def fail() -> None:
            while True:
                try:
                    await bad.send([record(1)])
                except SinkUnavailable:
                    failed.set()

        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            for start in range(0, 300, 10):
                assert await good.send(sent[start : start + 10]) == Receipt()
                await anyio.sleep(0.01)
            with anyio.fail_after(60):
                await failed.wait()
            group.cancel_scope.cancel()
        for sink in (good, bad):
            await sink.aclose()

        assert_nothing_lost(await received(cluster.bootstrap, "good"), sent)


async def test_an_aborted_connection_repeats_no_record_of_another_topic(
    shared_kafka: RealKafka,
) -> None:
    run = uuid.uuid4().hex[:8]
    names = f"load-a-{run}", f"load-b-{run}"
    shared_kafka.create_topic(names[0], 3)
    shared_kafka.create_topic(names[1], 3, **{"max.message.bytes": "20000"})
    steady, refused = sinks_sharing(shared_kafka.bootstrap, *names)
    sent = many(1000)
    now_ms = int(time.time() * 1000)

    async def refuse() -> None:  # each refusal discards a producer
        for _ in range(5):
            receipt = await refused.send([record(1, size_bytes=30_000, timestamp_ms=now_ms)])
            assert len(receipt.refused) == 1

    async with anyio.create_task_group() as group:
        group.start_soon(refuse)
        for start in range(0, 1000, 20):
            assert await steady.send(sent[start : start + 20]) == Receipt()
    for sink in (steady, refused):
        await sink.aclose()

    arrived = await received(shared_kafka.bootstrap, names[0])
    assert_nothing_lost(arrived, sent)
    assert len(arrived) == len(sent), "a record arrived twice"
