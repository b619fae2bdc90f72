"""Tests of the Kafka sink with a real Kafka 4: what the mock does not check, and brokers that end."""

import time
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import anyio.to_thread
import pytest

from agent.errors import SinkUnavailable
from agent.sinks.kafka_blocking import Blocking
from agent.sinks.kafka_client import KafkaClient, wait
from agent.sinks.kafka_faults import Fault
from agent.sinks.kafka_journal import Journal
from agent.sinks.kafka_settings import Settings
from agent.sinks.library_warnings import LibraryWarnings
from agent.sinks.record_sink import Receipt
from tests.integration.conftest import need
from tests.integration.kafka_sinks import (
    assert_nothing_lost,
    by_key,
    many,
    numbers,
    received,
    send_until_taken,
    sink_to,
    unavailable_because,
)
from tests.integration.kafka_sinks import (
    no_task_is_left as no_task_is_left,
)
from tests.lab.kafka import RealKafka, real_kafka
from tests.unit.sinks.records import record


def topic_of(kafka: RealKafka, **config: str) -> str:
    name = f"sinks-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(name, 3, **config)
    return name


async def test_records_of_a_key_keep_their_order(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka)
    sink = sink_to(shared_kafka.bootstrap, topic, compression="lz4")
    batch = many(5000)

    for start in range(0, len(batch), 1000):
        assert await sink.send(batch[start : start + 1000]) == Receipt()
    await sink.aclose()

    arrived = by_key(await received(shared_kafka.bootstrap, topic))
    assert arrived == {f"vm-{k}": [each.value for each in batch if each.key == f"vm-{k}"] for k in range(20)}


async def test_more_than_a_produce_batch_of_one_key_keeps_its_order(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka)
    sink = sink_to(shared_kafka.bootstrap, topic)
    now_ms = int(time.time() * 1000)
    batch = [record(n, size_bytes=100_000, timestamp_ms=now_ms) for n in range(20)]

    assert await sink.send(batch) == Receipt()

    await sink.aclose()
    assert numbers(await received(shared_kafka.bootstrap, topic)) == [each.value.rstrip() for each in batch]


@pytest.mark.parametrize("large", [(0, 3), (1, 5)], ids=str)
async def test_records_after_one_that_is_too_large_are_delivered(
    shared_kafka: RealKafka, large: tuple[int, int]
) -> None:
    topic = topic_of(shared_kafka, **{"max.message.bytes": "20000"})
    sink = sink_to(shared_kafka.bootstrap, topic)
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


async def test_a_record_that_a_compacted_topic_cannot_hold_is_invalid(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka, cleanup_policy="compact")
    warnings = LibraryWarnings("aiokafka")
    warnings.start()
    settings = Settings(bootstrap_servers=(shared_kafka.bootstrap,))
    client = await KafkaClient.connect(settings, warnings, Journal(), Blocking("kafka"))
    batch = client.batch()
    batch.append(timestamp=int(time.time() * 1000), key=None, value=b"1", headers=[])  # ours have a key
    batch.close()

    future = await client.submit(batch, topic, 0)
    await wait([future])

    error = future.exception()
    await client.close()
    warnings.stop()
    assert error is not None
    trouble = client.trouble(error)
    assert (trouble.fault, trouble.reason) == (Fault.RECORD, "invalid")


async def test_no_record_overtakes_a_refused_produce_batch(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka, **{"max.message.bytes": "20000"})
    sink = sink_to(shared_kafka.bootstrap, topic)
    now_ms = int(time.time() * 1000)
    # The first 17 fill one produce batch, which is refused as a whole; the last is in the next, which is not.
    batch = [record(n, size_bytes=15_000, timestamp_ms=now_ms) for n in range(18)]

    receipt = await sink.send(batch)

    await sink.aclose()
    assert receipt == Receipt()
    assert numbers(await received(shared_kafka.bootstrap, topic)) == [each.value.rstrip() for each in batch]


async def test_a_time_that_the_broker_refuses_costs_no_record(shared_kafka: RealKafka) -> None:
    topic = topic_of(shared_kafka, **{"message.timestamp.after.max.ms": "3600000"})
    sink = sink_to(shared_kafka.bootstrap, topic)
    now_ms = int(time.time() * 1000)
    batch = [record(n, timestamp_ms=now_ms + (7_200_000 if n == 1 else 0)) for n in range(3)]

    receipt = await sink.send(batch)

    await sink.aclose()
    arrived = await received(shared_kafka.bootstrap, topic)
    assert receipt == Receipt(restamped=1)
    assert numbers(arrived) == [each.value for each in batch]
    assert abs(arrived[1].timestamp_ms - now_ms) < 600_000


async def test_a_broker_that_is_killed_and_comes_back_loses_nothing_and_keeps_the_order(
    own_kafka: RealKafka,
) -> None:
    topic = topic_of(own_kafka)
    sink = sink_to(own_kafka.bootstrap, topic, delivery_timeout_s=2.0)
    batches = [many(3000)[start : start + 500] for start in range(0, 3000, 500)]
    await send_until_taken(sink, batches[0])
    own_kafka.kill()
    with pytest.raises(SinkUnavailable):
        await sink.send(batches[1])
    await unavailable_because(sink, batches[1], "refuses the connection")
    own_kafka.start()

    for batch in batches[1:]:
        await send_until_taken(sink, batch)

    await sink.aclose()
    assert_nothing_lost(await received(own_kafka.bootstrap, topic), list(chain.from_iterable(batches)))


async def test_a_broker_that_hangs_is_abandoned_in_time_and_used_again(own_kafka: RealKafka) -> None:
    topic = topic_of(own_kafka)
    sink = sink_to(own_kafka.bootstrap, topic, delivery_timeout_s=1.0)
    batch = many(100)
    await send_until_taken(sink, batch[:50])
    own_kafka.freeze()
    began_s = time.monotonic()
    for _ in range(3):
        with pytest.raises(SinkUnavailable):
            await sink.send(batch[50:])
    assert time.monotonic() - began_s < 45  # three requests time out after 90 s
    own_kafka.thaw()

    await send_until_taken(sink, batch[50:])

    await sink.aclose()
    assert_nothing_lost(await received(own_kafka.bootstrap, topic), batch)


async def test_a_broker_that_comes_back_at_another_port_is_found_by_the_list_naming_both(
    own_kafka: RealKafka,
) -> None:
    topic = topic_of(own_kafka)
    (broker,) = own_kafka.brokers
    before = own_kafka.bootstrap
    broker.move()
    both = f"{before},{own_kafka.bootstrap}"
    sink = sink_to(both, topic, delivery_timeout_s=3.0, request_timeout_s=1.0)
    batches = [many(300, first=first) for first in range(0, 1500, 300)]
    await send_until_taken(sink, batches[0])
    await anyio.to_thread.run_sync(broker.stop)
    with pytest.raises(SinkUnavailable):
        await sink.send(batches[1])
    await anyio.to_thread.run_sync(own_kafka.start)

    for batch in batches[1:]:
        await send_until_taken(sink, batch)

    await sink.aclose()
    assert_nothing_lost(await received(own_kafka.bootstrap, topic), list(chain.from_iterable(batches)))


@pytest.fixture
def strict_kafka(folder: Path) -> Iterator[RealKafka]:
    """Yield a broker that does not create topics automatically."""
    need("kafka")
    with real_kafka(folder / "kafka", auto_create_topics_enable="false") as broker:
        yield broker


async def test_a_topic_that_brokers_do_not_create_is_named_and_nothing_is_lost_when_it_is_deleted(
    strict_kafka: RealKafka,
) -> None:
    sink = sink_to(strict_kafka.bootstrap, "nowhere", request_timeout_s=1.0, delivery_timeout_s=3.0)
    await unavailable_because(sink, [record(1)], "topic nowhere does not exist")
    await anyio.to_thread.run_sync(strict_kafka.create_topic, "nowhere")
    await send_until_taken(sink, many(100))
    await anyio.to_thread.run_sync(strict_kafka.delete_topic, "nowhere")
    sent = many(100, first=100)
    await unavailable_because(sink, sent, "topic nowhere does not exist")
    await anyio.to_thread.run_sync(strict_kafka.create_topic, "nowhere")

    await send_until_taken(sink, sent)

    await sink.aclose()
    assert_nothing_lost(await received(strict_kafka.bootstrap, "nowhere"), sent)
