"""Tests of the Kafka sink with librdkafka's mock cluster, which fails on request."""

import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agent.core.reading import Record
from agent.errors import SinkUnavailable
from agent.sinks.kafka import KafkaSink
from agent.sinks.kafka_settings import Compression, Sasl, Tls
from agent.sinks.record_sink import Receipt
from tests.integration.kafka_sinks import (
    by_key,
    numbers,
    received,
    send_until_taken,
    sent_by_key,
    sink_to,
)
from tests.integration.kafka_sinks import (
    no_task_is_left as no_task_is_left,
)
from tests.lab.embedded_kafka import INIT_PRODUCER_ID, PRODUCE, EmbeddedKafka, embedded_kafka
from tests.lab.kafka import free_port
from tests.unit.sinks.records import record
from tests.unit.sinks.sink_contract import PATIENCE_S, SinkContract

# kafka.apache.org/protocol, error codes
UNKNOWN_TOPIC, NOT_LEADER, TOO_LARGE, BAD_TOPIC, NOT_ENOUGH_REPLICAS = 3, 6, 10, 17, 19
TOPIC_DENIED, CLUSTER_DENIED, BAD_TIMESTAMP, OUT_OF_ORDER, FENCED, INVALID_RECORD = 29, 31, 32, 45, 47, 87


@pytest.fixture
def mock() -> Iterator[EmbeddedKafka]:
    with embedded_kafka() as cluster:
        yield cluster


class KafkaPeer:
    def __init__(self, mock: EmbeddedKafka) -> None:
        self._mock = mock

    def sink(self) -> KafkaSink:
        return sink_to(self._mock.bootstrap, delivery_timeout_s=PATIENCE_S)

    def stall(self) -> None:
        self._mock.delay(60_000)

    def resume(self) -> None:
        self._mock.delay(0)

    async def values(self, count: int) -> list[bytes]:
        return numbers(await received(self._mock.bootstrap))


@pytest.fixture
def peer(mock: EmbeddedKafka) -> KafkaPeer:
    return KafkaPeer(mock)


class TestKafkaSink(SinkContract):
    pass


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_a_record_arrives_with_its_key_time_and_headers(
    mock: EmbeddedKafka, compression: Compression
) -> None:
    sink = sink_to(mock.bootstrap, compression=compression)

    await sink.send([record(1)])
    await sink.aclose()

    (got,) = await received(mock.bootstrap)
    assert (got.key, got.value, got.timestamp_ms) == ("vm-1", b'{"n":1}', record(1).timestamp_ms)
    assert got.headers == {"ce_id": b"id-1"}


async def test_a_key_goes_to_the_partition_that_other_clients_choose(mock: EmbeddedKafka) -> None:
    from confluent_kafka import Producer

    mock.create_topic("samples", 7)
    keys = [str(uuid.uuid4()) for _ in range(50)]
    sink = sink_to(mock.bootstrap)
    await sink.send([record(n, key=key) for n, key in enumerate(keys)])
    await sink.aclose()
    ours = {each.key: each.partition for each in await received(mock.bootstrap)}

    mock.create_topic("theirs", 7)
    other = Producer({"bootstrap.servers": mock.bootstrap, "partitioner": "murmur2"})
    for key in keys:
        other.produce("theirs", b"", key=key)
    await anyio.to_thread.run_sync(other.flush, 120)

    assert ours == {each.key: each.partition for each in await received(mock.bootstrap, "theirs")}


async def test_a_broker_without_a_listener_is_unavailable(mock: EmbeddedKafka) -> None:
    sink = sink_to(f"127.0.0.1:{free_port()}")

    with pytest.raises(SinkUnavailable, match="refuses the connection"):
        await sink.send([record(1)])

    await sink.aclose()


@pytest.mark.parametrize("code", [NOT_LEADER, NOT_ENOUGH_REPLICAS])
async def test_a_temporary_error_is_retried(mock: EmbeddedKafka, code: int) -> None:
    sink = sink_to(mock.bootstrap)
    mock.fail_next(PRODUCE, [code, code])

    assert await sink.send([record(1)]) == Receipt()

    await sink.aclose()
    assert numbers(await received(mock.bootstrap)) == [b'{"n":1}']


@pytest.mark.parametrize(
    ("request_kind", "code", "message"),
    [
        (PRODUCE, OUT_OF_ORDER, "lost track"),
        (PRODUCE, FENCED, "lost track"),
        (INIT_PRODUCER_ID, CLUSTER_DENIED, "IdempotentWrite on the cluster"),
    ],
)
async def test_a_fault_of_the_connection_does_not_refuse_the_record(
    mock: EmbeddedKafka, request_kind: int, code: int, message: str
) -> None:
    sink = sink_to(mock.bootstrap)
    mock.fail_next(request_kind, [code])

    with pytest.raises(SinkUnavailable, match=message) as unavailable:
        await sink.send([record(1)])
    receipt = await sink.send([record(1)])

    await sink.aclose()
    assert unavailable.value.retry_after_s is None
    assert receipt == Receipt()
    assert numbers(await received(mock.bootstrap)) == [b'{"n":1}']


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (TOPIC_DENIED, "topic samples: not authorized to write"),
        (BAD_TOPIC, "invalid, or reserved by Kafka"),
    ],
)
async def test_a_fault_of_a_topic_does_not_refuse_the_record_and_is_retried_slowly(
    mock: EmbeddedKafka, code: int, message: str
) -> None:
    sink = sink_to(mock.bootstrap)
    mock.fail_next(PRODUCE, [code])

    with pytest.raises(SinkUnavailable, match=message) as unavailable:
        await sink.send([record(1)])
    receipt = await sink.send([record(1)])

    await sink.aclose()
    assert 10 <= (unavailable.value.retry_after_s or 0) <= 30
    assert receipt == Receipt()
    assert numbers(await received(mock.bootstrap)) == [b'{"n":1}']


async def send_for_ever(sink: KafkaSink, each: Record) -> None:
    with anyio.fail_after(120):
        while True:
            await sink.send([each])


async def test_a_fault_of_a_topic_does_not_affect_another_topic(mock: EmbeddedKafka) -> None:
    lost = sink_to(mock.bootstrap, "nowhere", request_timeout_s=1.0)
    good = sink_to(mock.bootstrap, delivery_timeout_s=5.0)
    mock.refuse_topic("nowhere", UNKNOWN_TOPIC)
    delivered = 0

    async with anyio.create_task_group() as group:

        async def find_nowhere() -> None:
            with pytest.raises(SinkUnavailable, match="topic nowhere does not exist"):
                await lost.send([record(1)])
            group.cancel_scope.cancel()

        group.start_soon(find_nowhere)
        while True:
            assert await good.send([record(delivered)]) == Receipt()
            delivered += 1
    mock.take_down()
    with pytest.raises(SinkUnavailable) as unavailable:
        await send_for_ever(good, record(delivered))  # the brokers are not gone at once
    await good.aclose()
    await lost.aclose()
    mock.bring_up()

    assert delivered > 1  # while the other sink waits
    assert "nowhere" not in str(unavailable.value)
    assert len(await received(mock.bootstrap)) >= delivered


@pytest.mark.parametrize(("code", "reason"), [(TOO_LARGE, "too_large"), (INVALID_RECORD, "invalid")])
async def test_a_refused_record_is_found_and_the_others_arrive_in_order(
    mock: EmbeddedKafka, code: int, reason: str
) -> None:
    sink = sink_to(mock.bootstrap)
    mock.fail_next(PRODUCE, [code, 0, 0, code])  # the batch, and its third record alone

    receipt = await sink.send([record(n) for n in range(6)])

    await sink.aclose()
    assert [(each.index, each.reason) for each in receipt.refused] == [(2, reason)]
    assert numbers(await received(mock.bootstrap)) == [record(n).value for n in (0, 1, 3, 4, 5)]


async def test_a_record_with_headers_damaged_on_disk_is_refused_and_the_others_arrive_in_order(
    mock: EmbeddedKafka,
) -> None:
    sink = sink_to(mock.bootstrap)
    damaged = replace(record(2), headers=b"\xff")

    receipt = await sink.send([record(1), damaged, record(3)])
    again = await sink.send([damaged, record(4)])
    await sink.aclose()

    assert [(each.index, each.reason) for each in receipt.refused] == [(1, "invalid")]
    assert [each.index for each in again.refused] == [0]
    assert "damaged headers" in again.refused[0].detail
    assert numbers(await received(mock.bootstrap)) == [b'{"n":1}', b'{"n":3}', b'{"n":4}']


async def test_partitions_without_a_refused_record_are_not_sent_again(mock: EmbeddedKafka) -> None:
    mock.create_topic("samples", 4)
    sink = sink_to(mock.bootstrap)
    batch = [record(n, key=f"vm-{n % 8}") for n in range(200)]
    await sink.send([record(0, key="elsewhere")])
    mock.fail_next(PRODUCE, [TOO_LARGE])  # a request holds the batches of all partitions that a broker leads

    receipt = await sink.send(batch)

    await sink.aclose()
    arrived = [each for each in await received(mock.bootstrap) if each.key != "elsewhere"]
    assert receipt == Receipt()
    assert sorted(numbers(arrived)) == sorted(each.value for each in batch)
    assert by_key(arrived) == sent_by_key(batch)


async def test_only_the_record_with_a_refused_time_is_stamped_again(mock: EmbeddedKafka) -> None:
    sink = sink_to(mock.bootstrap)
    mock.fail_next(PRODUCE, [BAD_TIMESTAMP, 0, BAD_TIMESTAMP])
    before_ms = int(time.time() * 1000)

    receipt = await sink.send([record(n) for n in range(3)])

    await sink.aclose()
    times_ms = [each.timestamp_ms for each in await received(mock.bootstrap)]
    assert receipt == Receipt(restamped=1)
    assert [times_ms[0], times_ms[2]] == [record(0).timestamp_ms] * 2
    assert before_ms <= times_ms[1] <= time.time() * 1000


async def test_nothing_is_lost_where_the_current_time_is_refused_too(mock: EmbeddedKafka) -> None:
    sink = sink_to(mock.bootstrap)
    mock.fail_next(PRODUCE, [BAD_TIMESTAMP] * 3)

    with pytest.raises(SinkUnavailable, match="compare the clocks"):
        await sink.send([record(0), record(1)])
    await sink.send([record(0), record(1)])

    await sink.aclose()
    assert numbers(await received(mock.bootstrap)) == [record(0).value, record(1).value]


async def test_records_settled_before_a_failure_are_not_sent_again(mock: EmbeddedKafka) -> None:
    sink = sink_to(mock.bootstrap)
    mock.fail_next(PRODUCE, [TOO_LARGE, 0, TOO_LARGE, TOPIC_DENIED])
    batch = [record(n) for n in range(4)]
    with pytest.raises(SinkUnavailable):
        await sink.send(batch)

    receipt = await sink.send(batch)

    await sink.aclose()
    assert [each.index for each in receipt.refused] == [1]
    assert numbers(await received(mock.bootstrap)) == [record(n).value for n in (0, 2, 3)]


async def test_records_in_flight_when_another_partition_fails_may_arrive_and_are_not_repeated(
    mock: EmbeddedKafka,
) -> None:
    mock.create_topic("samples", 3)  # one on each broker
    sink = sink_to(mock.bootstrap)
    batch = [record(n, key=f"vm-{n}") for n in range(60)]
    await sink.send(batch)
    mock.fail_next_at(1, PRODUCE, FENCED)
    mock.delay(300, brokers=(2, 3))
    with pytest.raises(SinkUnavailable, match="lost track"):
        await sink.send([record(n + 60, key=f"vm-{n}") for n in range(60)])
    mock.delay(0)

    await sink.send([record(n + 60, key=f"vm-{n}") for n in range(60)])

    await sink.aclose()
    assert sorted(numbers(await received(mock.bootstrap))) == sorted(record(n).value for n in range(120))


async def test_an_unknown_topic_is_named(mock: EmbeddedKafka) -> None:
    sink = sink_to(mock.bootstrap, "nowhere", request_timeout_s=0.5)
    mock.refuse_topic("nowhere", UNKNOWN_TOPIC)
    with pytest.raises(SinkUnavailable, match="topic nowhere does not exist; create it") as unavailable:
        await sink.send([record(1)])
    assert 10 <= (unavailable.value.retry_after_s or 0) <= 30
    mock.refuse_topic("nowhere", 0)
    mock.create_topic("nowhere", 1)

    await send_until_taken(sink, [record(1)])

    await sink.aclose()
    assert set(numbers(await received(mock.bootstrap, "nowhere"))) == {b'{"n":1}'}


async def test_brokers_that_never_answer_are_left_in_time(mock: EmbeddedKafka) -> None:
    sink = sink_to(mock.bootstrap, delivery_timeout_s=3.0)
    await sink.send([record(0)])
    mock.delay(60_000)
    began_s = time.monotonic()

    with pytest.raises(SinkUnavailable, match="batch not acknowledged within 3 s"):
        await sink.send([record(1)])
    await sink.aclose()

    assert time.monotonic() - began_s < 20  # a request times out after 30 s


async def test_records_accepted_but_not_acknowledged_are_sent_again_with_the_same_ids(
    mock: EmbeddedKafka,
) -> None:
    sink = sink_to(mock.bootstrap, delivery_timeout_s=3.0)
    await sink.send([record(0)])
    batch = [record(n) for n in range(1, 4)]
    mock.delay(60_000)  # delays the answer; the request takes effect at once
    with pytest.raises(SinkUnavailable):
        await sink.send(batch)
    mock.delay(0)

    receipt = await sink.send(batch)

    await sink.aclose()
    arrived = [(each.headers["ce_id"], each.value) for each in await received(mock.bootstrap)]
    once = [(each.id.encode(), each.value) for each in batch]
    assert receipt == Receipt()
    assert arrived == [(b"id-0", record(0).value), *once, *once]


async def test_a_cluster_that_has_moved_is_found_by_the_configured_addresses() -> None:
    with embedded_kafka() as old, embedded_kafka() as new:
        new.take_down()
        sink = sink_to(f"{old.bootstrap},{new.bootstrap}", delivery_timeout_s=3.0)
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
async def test_a_security_mismatch_makes_the_sink_unavailable_and_reveals_no_secret(
    mock: EmbeddedKafka, tls: Tls | None, sasl: Sasl | None
) -> None:
    sink = sink_to(mock.bootstrap, request_timeout_s=0.5, delivery_timeout_s=3.0, tls=tls, sasl=sasl)

    with pytest.raises(SinkUnavailable) as unavailable:
        await sink.send([record(1)])

    await sink.aclose()
    print(unavailable.value)
    assert "hunter2" not in str(unavailable.value)


async def test_the_librarys_logger_is_restored_when_the_last_sink_closes(mock: EmbeddedKafka) -> None:
    logger = logging.getLogger("aiokafka")
    before = (logger.level, logger.propagate, list(logger.handlers))
    first, second = sink_to(mock.bootstrap), sink_to(mock.bootstrap)
    await first.send([record(0)])
    await second.send([record(1)])

    await first.aclose()
    assert (logger.level, logger.propagate) == (logging.WARNING, False)  # the other sink still uses it
    await second.aclose()

    assert (logger.level, logger.propagate, list(logger.handlers)) == before
