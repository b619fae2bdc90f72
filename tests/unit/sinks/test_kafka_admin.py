"""Tests of queries about topics to a broker with odd answers: each fails with one error and its reason."""

from collections.abc import Callable, Mapping

import pytest

from agent.core.topic_facts import ClusterFacts
from agent.errors import SinkUnavailable
from agent.sinks.kafka_admin import connected
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

VERSIONS = ((18, 0, 0), (METADATA, 8, 8), (22, 0, 0), (32, 1, 1))
WRITE = 1 << 4
ODD_TEXT = "\x1b[31m\u202e" + "x" * 5000


def metadata(port: int, partitions: Field | None = None, host: str | None = "127.0.0.1") -> Fields:
    one = (i16(0), i32(0), i32(1), i32(0), array([(i32(1),)]), array([(i32(1),)]), array([]))
    topic = (i16(0), text("samples"), Field("i8", 0), partitions or array([one]), i32(WRITE))
    brokers = array([(i32(1), text(host), i32(port), text(None))])
    return (i32(0), brokers, text("id"), i32(1), array([topic]), i32(0))


def configs(value: str | None) -> Fields:
    entry = (text("retention.ms"), text(value), Field("i8", 0), Field("i8", 1), Field("i8", 0), array([]))
    return (i32(0), array([(i16(0), text(None), Field("i8", 2), text("samples"), array([entry]))]))


async def facts_from(address: str) -> ClusterFacts:
    settings = Settings(bootstrap_servers=(address,), request_timeout_s=5.0, delivery_timeout_s=10.0)
    async with connected(settings) as admin:
        return await admin.facts(["samples"])


async def test_what_a_broker_shows_is_bounded_and_printable() -> None:
    peer = Peer(versions=VERSIONS)
    peer.answers = {METADATA: lambda: metadata(peer.port), 32: lambda: configs(ODD_TEXT)}

    async with scripted_kafka(peer) as address:
        facts = await facts_from(address)

    topic = facts.topics["samples"]
    assert (topic.replicas, topic.in_sync, topic.may_write, facts.idempotence_refused) == (
        [1],
        [1],
        True,
        False,
    )
    assert topic.config is not None
    shown = topic.config["retention.ms"]
    assert shown.isprintable()
    assert shown.isascii()
    assert len(shown) <= 203


@pytest.mark.parametrize("kind", ["no partitions", "no host", "null answer of the settings"])
async def test_an_odd_answer_is_one_error_with_a_reason(kind: str) -> None:
    peer = Peer(versions=VERSIONS)
    null = i32(-1)  # the length of an array that is null
    odd: Mapping[str, Mapping[int, Callable[[], Fields]]] = {
        "no partitions": {METADATA: lambda: metadata(peer.port, partitions=null)},
        "no host": {METADATA: lambda: metadata(peer.port, host=None)},
        "null answer of the settings": {METADATA: lambda: metadata(peer.port), 32: lambda: (i32(0), null)},
    }
    peer.answers = odd[kind]

    async with scripted_kafka(peer) as address:
        with pytest.raises(SinkUnavailable, match="kafka: "):
            await facts_from(address)
