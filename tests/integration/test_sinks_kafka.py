"""The Kafka sink against librdkafka's mock cluster, whose faults come on cue, and against a real Kafka 4."""

import asyncio
import gc
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agent.core.reading import Record, RecordKind
from agent.errors import SinkUnavailable
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_settings import Compression, Sasl, Settings, Tls
from agent.sinks.record_sink import Receipt
from tests.integration.faulty_kafka import PRODUCE, FaultyKafka, faulty_kafka
from tests.lab.kafka import RealKafka, Received, consume, free_port
from tests.unit.sinks.records import record
from tests.unit.sinks.sink_contract import PATIENCE_S, SinkContract

# kafka.apache.org/protocol, error codes
UNKNOWN_TOPIC, NOT_LEADER, TOO_LARGE, NOT_ENOUGH_REPLICAS, TOPIC_DENIED = 3, 6, 10, 19, 29
BAD_TIMESTAMP, OUT_OF_ORDER, FENCED, INVALID_RECORD = 32, 45, 47, 87


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def mock() -> Iterator[FaultyKafka]:
    with faulty_kafka() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncGenerator[None]:
    yield
    gc.collect()  # what is dropped unclosed warns, and warnings are errors
    left = [repr(task) for task in asyncio.all_tasks() if "aiokafka" in repr(task)]
    assert not left


def settings(
    bootstrap: str,
    *,
    topic: str = "samples",
    delivery_timeout_s: float = 10.0,
    compression: Compression = "none",
) -> Settings:
    return Settings(
        bootstrap_servers=tuple(bootstrap.split(",")),
        samples_topic=topic,
        states_topic="states",
        delivery_timeout_s=delivery_timeout_s,
        request_timeout_s=5.0,
        compression=compression,
    )


async def received(bootstrap: str, topic: str = "samples") -> list[Received]:
    return await anyio.to_thread.run_sync(consume, bootstrap, [topic])


def numbers(records: list[Received]) -> list[bytes]:
    return [each.value.rstrip() for each in records]


class KafkaPeer:
    def __init__(self, mock: FaultyKafka) -> None:
        self._mock = mock

    def sink(self) -> KafkaSink:
        return KafkaSink(settings(self._mock.bootstrap, delivery_timeout_s=PATIENCE_S))

    def stall(self) -> None:
        self._mock.delay(60_000)

    def resume(self) -> None:
        self._mock.delay(0)

    async def values(self, count: int) -> list[bytes]:
        return numbers(await received(self._mock.bootstrap))


@pytest.fixture
def peer(mock: FaultyKafka) -> KafkaPeer:
    return KafkaPeer(mock)


class TestKafkaSink(SinkContract):
    pass


# --- on the mock cluster ---


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_a_record_arrives_with_its_key_time_headers_and_topic(
    mock: FaultyKafka, compression: Compression
) -> None:
    sink = KafkaSink(settings(mock.bootstrap, compression=compression))

    await sink.send(
        [record(1), record(2, kind=RecordKind.VM_STATE, key="vm-9"), record(3, kind=RecordKind.AGENT_STATE)]
    )
    await sink.aclose()

    (sample,) = await received(mock.bootstrap)
    assert (sample.key, sample.value, sample.timestamp_ms) == ("vm-1", b'{"n":1}', record(1).timestamp_ms)
    assert sample.headers == {"ce_id": b"id-1"}
    assert sorted(numbers(await received(mock.bootstrap, "states"))) == [b'{"n":2}', b'{"n":3}']


async def test_a_key_goes_where_every_kafka_client_puts_it(mock: FaultyKafka) -> None:
    from confluent_kafka import Producer

    mock.create_topic("samples", 7)
    keys = [str(uuid.uuid4()) for _ in range(50)]
    sink = KafkaSink(settings(mock.bootstrap))
    await sink.send([record(n, key=key) for n, key in enumerate(keys)])
    await sink.aclose()
    ours = {each.key: each.partition for each in await received(mock.bootstrap)}

    mock.create_topic("theirs", 7)
    other = Producer({"bootstrap.servers": mock.bootstrap, "partitioner": "murmur2"})
    for key in keys:
        other.produce("theirs", b"", key=key)
    await anyio.to_thread.run_sync(other.flush, 10)

    assert ours == {each.key: each.partition for each in await received(mock.bootstrap, "theirs")}


async def test_nobody_listens(mock: FaultyKafka) -> None:
    sink = KafkaSink(settings(f"127.0.0.1:{free_port()}"))

    with pytest.raises(SinkUnavailable, match="Connect call failed"):
        await sink.send([record(1)])

    await sink.aclose()


@pytest.mark.parametrize("code", [NOT_LEADER, NOT_ENOUGH_REPLICAS])
async def test_what_passes_is_tried_again_by_itself(mock: FaultyKafka, code: int) -> None:
    sink = KafkaSink(settings(mock.bootstrap))
    mock.fail_next(PRODUCE, [code, code])

    assert await sink.send([record(1)]) == Receipt()

    await sink.aclose()
    assert numbers(await received(mock.bootstrap)) == [b'{"n":1}']


@pytest.mark.parametrize(
    ("code", "message"),
    [(TOPIC_DENIED, "not allowed to write to a topic"), (OUT_OF_ORDER, "lost track"), (FENCED, "lost track")],
)
async def test_the_links_trouble_is_never_the_records(mock: FaultyKafka, code: int, message: str) -> None:
    sink = KafkaSink(settings(mock.bootstrap))
    mock.fail_next(PRODUCE, [code])

    with pytest.raises(SinkUnavailable, match=message):
        await sink.send([record(1)])
    receipt = await sink.send([record(1)])

    await sink.aclose()
    assert receipt == Receipt()
    assert numbers(await received(mock.bootstrap)) == [b'{"n":1}']


@pytest.mark.parametrize(("code", "reason"), [(TOO_LARGE, "too_large"), (INVALID_RECORD, "invalid")])
async def test_a_refused_record_is_found_and_the_others_arrive_in_order(
    mock: FaultyKafka, code: int, reason: str
) -> None:
    sink = KafkaSink(settings(mock.bootstrap))
    mock.fail_next(PRODUCE, [code, 0, 0, code])  # the batch, and its third record alone

    receipt = await sink.send([record(n) for n in range(6)])

    await sink.aclose()
    assert [(each.index, each.reason) for each in receipt.refused] == [(2, reason)]
    assert numbers(await received(mock.bootstrap)) == [record(n).value for n in (0, 1, 3, 4, 5)]


async def test_a_refused_time_is_stamped_anew_for_that_record_only(mock: FaultyKafka) -> None:
    sink = KafkaSink(settings(mock.bootstrap))
    mock.fail_next(PRODUCE, [BAD_TIMESTAMP, 0, BAD_TIMESTAMP])
    before_ms = int(time.time() * 1000)

    receipt = await sink.send([record(n) for n in range(3)])

    await sink.aclose()
    times_ms = [each.timestamp_ms for each in await received(mock.bootstrap)]
    assert receipt == Receipt(restamped=1)
    assert [times_ms[0], times_ms[2]] == [record(0).timestamp_ms] * 2
    assert before_ms <= times_ms[1] <= time.time() * 1000


async def test_where_the_present_time_is_refused_too_nothing_is_lost(mock: FaultyKafka) -> None:
    sink = KafkaSink(settings(mock.bootstrap))
    mock.fail_next(PRODUCE, [BAD_TIMESTAMP] * 3)

    with pytest.raises(SinkUnavailable, match="compare the clocks"):
        await sink.send([record(0), record(1)])
    await sink.send([record(0), record(1)])

    await sink.aclose()
    assert numbers(await received(mock.bootstrap)) == [record(0).value, record(1).value]


async def test_what_was_settled_before_a_failure_is_not_sent_again(mock: FaultyKafka) -> None:
    sink = KafkaSink(settings(mock.bootstrap))
    mock.fail_next(PRODUCE, [TOO_LARGE, 0, TOO_LARGE, TOPIC_DENIED])
    batch = [record(n) for n in range(4)]
    with pytest.raises(SinkUnavailable):
        await sink.send(batch)

    receipt = await sink.send(batch)

    await sink.aclose()
    assert [each.index for each in receipt.refused] == [1]
    assert numbers(await received(mock.bootstrap)) == [record(n).value for n in (0, 2, 3)]


async def test_an_unknown_topic_is_named(mock: FaultyKafka) -> None:
    short = Settings(
        bootstrap_servers=tuple(mock.bootstrap.split(",")), samples_topic="nowhere", request_timeout_s=0.5
    )
    sink = KafkaSink(short)
    mock.refuse_topic("nowhere", UNKNOWN_TOPIC)
    with pytest.raises(SinkUnavailable, match="topic nowhere does not exist; create it"):
        await sink.send([record(1)])
    mock.refuse_topic("nowhere", 0)
    mock.create_topic("nowhere", 1)

    await sink.send([record(1)])

    await sink.aclose()
    assert numbers(await received(mock.bootstrap, "nowhere")) == [b'{"n":1}']


async def test_brokers_that_never_answer_are_left_in_time(mock: FaultyKafka) -> None:
    sink = KafkaSink(settings(mock.bootstrap, delivery_timeout_s=1.0))
    await sink.send([record(0)])
    mock.delay(60_000)
    began_s = time.monotonic()

    with pytest.raises(SinkUnavailable, match="not everything acknowledged within 1 s"):
        await sink.send([record(1)])
    await sink.aclose()

    assert time.monotonic() - began_s < 2.0


async def test_a_cluster_that_has_moved_is_found_by_the_configured_addresses() -> None:
    with faulty_kafka() as old, faulty_kafka() as new:
        new.take_down()
        sink = KafkaSink(settings(f"{old.bootstrap},{new.bootstrap}", delivery_timeout_s=1.0))
        await sink.send([record(0)])
        old.take_down()
        new.bring_up()
        with pytest.raises(SinkUnavailable):
            await sink.send([record(1)])

        receipt = await sink.send([record(1)])

        await sink.aclose()
        assert receipt == Receipt()
        assert numbers(await received(new.bootstrap)) == [record(1).value]


@pytest.mark.parametrize(
    ("tls", "sasl"),
    [
        (Tls(ca_file=Path("/nowhere/ca.pem")), None),
        (Tls(), None),
        (None, Sasl(mechanism="SCRAM-SHA-512", username="barograph", password="hunter2")),
    ],
    ids=["no such file", "TLS to a plain port", "a broker without SASL"],
)
async def test_security_that_does_not_fit_is_unavailable_and_tells_no_secret(
    mock: FaultyKafka, tls: Tls | None, sasl: Sasl | None
) -> None:
    servers = tuple(mock.bootstrap.split(","))
    sink = KafkaSink(
        Settings(bootstrap_servers=servers, request_timeout_s=0.5, delivery_timeout_s=3.0, tls=tls, sasl=sasl)
    )

    with pytest.raises(SinkUnavailable) as unavailable:
        await sink.send([record(1)])

    await sink.aclose()
    print(unavailable.value)
    assert "hunter2" not in str(unavailable.value)


# --- on a real broker ---


def topic_of(kafka: RealKafka, **config: str) -> str:
    name = f"sinks-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(name, 3, **config)
    return name


def by_key(records: list[Received]) -> dict[str, list[bytes]]:
    keys: dict[str, list[bytes]] = {}
    for each in records:
        keys.setdefault(each.key, []).append(each.value.rstrip())
    return keys


def many(count: int, keys: int = 20) -> list[Record]:
    return [record(n, key=f"vm-{n % keys}", timestamp_ms=int(time.time() * 1000)) for n in range(count)]


async def test_records_of_a_key_keep_their_order(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka)
    sink = KafkaSink(settings(shared_kafka.bootstrap, topic=topic, compression="lz4"))
    batch = many(5000)

    for start in range(0, len(batch), 1000):
        assert await sink.send(batch[start : start + 1000]) == Receipt()
    await sink.aclose()

    arrived = by_key(await received(shared_kafka.bootstrap, topic))
    assert arrived == {f"vm-{k}": [each.value for each in batch if each.key == f"vm-{k}"] for k in range(20)}


async def test_more_than_a_produce_batch_of_one_key_keeps_its_order(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka)
    sink = KafkaSink(settings(shared_kafka.bootstrap, topic=topic))
    now_ms = int(time.time() * 1000)
    batch = [record(n, size_bytes=100_000, timestamp_ms=now_ms) for n in range(20)]

    assert await sink.send(batch) == Receipt()

    await sink.aclose()
    assert numbers(await received(shared_kafka.bootstrap, topic)) == [each.value.rstrip() for each in batch]


@pytest.mark.parametrize("large", [(0, 3), (1, 5)], ids=str)
async def test_after_a_record_that_is_too_large_the_later_ones_still_go(
    shared_kafka: RealKafka, large: tuple[int, int]
) -> None:
    topic = topic_of(shared_kafka, **{"max.message.bytes": "20000"})
    sink = KafkaSink(settings(shared_kafka.bootstrap, topic=topic))
    now_ms = int(time.time() * 1000)
    batch = [record(n, size_bytes=30_000 if n in large else 10, timestamp_ms=now_ms) for n in range(6)]
    await sink.send([record(9, timestamp_ms=now_ms)])  # the broker knows this producer now

    receipt = await sink.send(batch)
    later = await sink.send(many(1))

    await sink.aclose()
    assert [(each.index, each.reason) for each in receipt.refused] == [(n, "too_large") for n in large]
    assert later == Receipt()
    arrived = by_key(await received(shared_kafka.bootstrap, topic))
    assert arrived["vm-1"] == [b'{"n":9}', *(batch[n].value.rstrip() for n in range(6) if n not in large)]
    assert arrived["vm-0"] == [b'{"n":0}']


async def test_behind_a_refused_produce_batch_nothing_overtakes_it(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka, **{"max.message.bytes": "20000"})
    sink = KafkaSink(settings(shared_kafka.bootstrap, topic=topic))
    now_ms = int(time.time() * 1000)
    # The first 17 fill one produce batch, which is refused as a whole; the last is in the next, which is not.
    batch = [record(n, size_bytes=15_000, timestamp_ms=now_ms) for n in range(18)]

    receipt = await sink.send(batch)

    await sink.aclose()
    assert receipt == Receipt()
    assert numbers(await received(shared_kafka.bootstrap, topic)) == [each.value.rstrip() for each in batch]


async def test_a_time_that_the_broker_refuses_costs_no_record(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka, **{"message.timestamp.after.max.ms": "3600000"})
    sink = KafkaSink(settings(shared_kafka.bootstrap, topic=topic))
    now_ms = int(time.time() * 1000)
    batch = [record(n, timestamp_ms=now_ms + (7_200_000 if n == 1 else 0)) for n in range(3)]

    receipt = await sink.send(batch)

    await sink.aclose()
    arrived = await received(shared_kafka.bootstrap, topic)
    assert receipt == Receipt(restamped=1)
    assert numbers(arrived) == [each.value for each in batch]
    assert abs(arrived[1].timestamp_ms - now_ms) < 30_000


async def test_a_broker_that_is_killed_and_comes_back_loses_nothing_and_keeps_the_order(
    own_kafka: RealKafka,
) -> None:
    topic = topic_of(own_kafka)
    sink = KafkaSink(settings(own_kafka.bootstrap, topic=topic, delivery_timeout_s=2.0))
    batches = [many(3000)[start : start + 500] for start in range(0, 3000, 500)]
    await sink.send(batches[0])
    own_kafka.kill()
    with pytest.raises(SinkUnavailable):
        await sink.send(batches[1])
    with pytest.raises(SinkUnavailable, match="Connect call failed"):
        await sink.send(batches[1])
    own_kafka.start()

    for batch in batches[1:]:
        await send_until_taken(sink, batch)

    await sink.aclose()
    arrived = by_key(await received(own_kafka.bootstrap, topic))
    for key, values in arrived.items():
        sent = [each.value for batch in batches for each in batch if each.key == key]
        assert list(dict.fromkeys(values)) == sent  # a repeat may be there, but never in front of its turn


async def test_a_broker_that_hangs_is_left_in_time_and_taken_up_again(own_kafka: RealKafka) -> None:
    topic = topic_of(own_kafka)
    sink = KafkaSink(settings(own_kafka.bootstrap, topic=topic, delivery_timeout_s=1.0))
    batch = many(100)
    await sink.send(batch[:50])
    own_kafka.freeze()
    began_s = time.monotonic()
    for _ in range(3):
        with pytest.raises(SinkUnavailable):
            await sink.send(batch[50:])
    assert time.monotonic() - began_s < 6.0
    own_kafka.thaw()

    await send_until_taken(sink, batch[50:])

    await sink.aclose()
    arrived = by_key(await received(own_kafka.bootstrap, topic))
    assert {key: list(dict.fromkeys(values)) for key, values in arrived.items()} == {
        key: [each.value for each in batch if each.key == key] for key in arrived
    }


async def send_until_taken(sink: KafkaSink, batch: list[Record]) -> None:
    with anyio.fail_after(30):
        while True:
            try:
                await sink.send(batch)
            except SinkUnavailable:
                await anyio.sleep(0.1)
            else:
                return


@pytest.fixture
def strict_kafka(folder: Path, shared_kafka: RealKafka) -> Iterator[RealKafka]:
    """A broker that creates no topic by itself; after the shared one, which skips where there is none."""
    (folder / "kafka").mkdir()
    broker = RealKafka(folder / "kafka", {"auto.create.topics.enable": "false"})
    health = threading.Thread(target=broker.create_topic, args=("lab.health",))  # waits for the broker
    health.start()
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
        health.join()


async def test_a_topic_that_brokers_do_not_create_is_named(strict_kafka: RealKafka) -> None:
    sink = KafkaSink(
        Settings(bootstrap_servers=(strict_kafka.bootstrap,), samples_topic="nowhere", request_timeout_s=1.0)
    )
    with pytest.raises(SinkUnavailable, match="topic nowhere does not exist"):
        await sink.send([record(1)])
    await anyio.to_thread.run_sync(strict_kafka.create_topic, "nowhere")

    receipt = await sink.send(many(1))

    await sink.aclose()
    assert receipt == Receipt()
