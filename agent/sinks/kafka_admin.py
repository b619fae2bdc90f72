"""Asks a Kafka cluster about topics, and creates topics. Makes no decisions: agent/core/topic_audit.py does.

Uses the connections of the sink, so names, certificates, logins and answers have the same bounds.
"""

# aiokafka's requests have no types.

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar, TypeAlias, cast

import anyio
from aiokafka import conn as kafka_conn
from aiokafka import errors as kafka_errors
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from agent.core.topic_commands import Wanted
from agent.core.topic_facts import (
    CONFIG_NAMES,
    TOPIC_DENIED,
    UNKNOWN_TOPIC,
    ClusterFacts,
    TopicFacts,
)
from agent.errors import SinkUnavailable
from agent.sinks.kafka_blocking import Blocking
from agent.sinks.kafka_connection import BrokerConnection, dial
from agent.sinks.kafka_faults import BrokerAddress, Fault, KafkaTrouble, Stage, described, failure, plain
from agent.sinks.kafka_journal import Journal
from agent.sinks.kafka_settings import Settings
from agent.sinks.kafka_tokens import Tokens

# kafka.apache.org/protocol: resource types, operations of ACLs, error codes
_TOPIC_RESOURCE = 2
_WRITE = 4
_NO_OPERATIONS = -(2**31)
_CLUSTER_DENIED, _TOPIC_EXISTS = 31, 36

_ASK_AGAIN_S = 0.2
_IDLE_MAX_MS = 60_000

_Reach: TypeAlias = Callable[[BrokerAddress], Awaitable[BrokerConnection]]


class Admin:
    """A connection to one broker. Use `connected` to make one."""

    def __init__(self, connection: BrokerConnection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings

    async def facts(self, topics: Sequence[str]) -> ClusterFacts:
        """Return what the cluster shows of the topics.

        Raises:
            KafkaTrouble: it does not answer.
        """
        metadata = await self._ask(_MetadataRequest(topics))
        found = {each[1]: each for each in metadata.topics if each[1] in topics}
        existing = [name for name, each in found.items() if not each[0]]
        configs = await self._configs(existing) if existing else {}
        return ClusterFacts(
            brokers=len(metadata.brokers),
            topics={
                name: _topic_facts(each, metadata.API_VERSION, configs.get(name))
                for name, each in found.items()
            },
            idempotence_refused=await self._idempotence_refused(),
        )

    async def create(self, topics: Mapping[str, Wanted]) -> dict[str, str]:
        """Create topics. Return why each of those that do not exist now could not be created.

        Raises:
            KafkaTrouble: the cluster does not answer.
        """
        requested = [
            (name, wanted.partitions, wanted.replicas, [], list(wanted.config.items()))
            for name, wanted in topics.items()
        ]
        make = cast("Callable[..., Request[Any]]", CreateTopicsRequest)
        timeout_ms = int(self._settings.request_timeout_s * 500)
        answer = await self._ask(make(requested, timeout_ms, False))
        return {
            topic: _error(code, message)
            for topic, code, message in answer.topic_errors
            if topic in topics and code not in (0, _TOPIC_EXISTS)
        }

    async def wait_for(self, topics: Sequence[str]) -> None:
        """Return once this broker knows the topics and their leaders, which may be never."""
        while True:
            metadata = await self._ask(_MetadataRequest(topics))
            if all(not code and partitions for code, _, _, partitions, *_ in metadata.topics):
                leaders = [each[2] for _, _, _, partitions, *_ in metadata.topics for each in partitions]
                if -1 not in leaders:
                    return
            await anyio.sleep(_ASK_AGAIN_S)

    async def _configs(self, topics: Sequence[str]) -> dict[str, dict[str, str] | str]:
        """Return the settings of each topic, or why they are not visible."""
        resources = [(_TOPIC_RESOURCE, name, list(CONFIG_NAMES)) for name in topics]
        try:
            answer = await self._ask(DescribeConfigsRequest(resources))
        except KafkaTrouble as trouble:
            if trouble.fault is Fault.SETTING:  # a service that does not have this request
                return dict.fromkeys(topics, "the service does not support the request")
            raise
        return {
            name: _error(code, message)
            if code
            else {entry[0]: plain(entry[1] or "") for entry in entries if entry[0] in CONFIG_NAMES}
            for code, message, _, name, entries in answer.resources
        }

    async def _idempotence_refused(self) -> bool | None:
        """Ask for the id of a producer, as the sink does at each start."""
        make = cast("Callable[..., Request[Any]]", InitProducerIdRequest)
        try:
            answer = await self._ask(make(None, 0))
        except KafkaTrouble:
            return None
        if answer.error_code == _CLUSTER_DENIED:
            return True
        return None if answer.error_code else False

    async def _ask(self, request: Request[Any]) -> Any:
        try:
            return await self._connection.send(request)
        except Exception as error:
            raise failure(self._connection.address, Stage.VERSIONS, error) from error


@asynccontextmanager
async def connected(settings: Settings) -> AsyncGenerator[Admin]:
    """Connect to the controller of the cluster, which also creates topics on brokers with ZooKeeper.

    All of it, the body included, has `delivery_timeout_s`.

    Raises:
        SinkUnavailable: the cluster cannot be reached, or does not answer in time.
    """
    journal, blocking = Journal(), Blocking("kafka-topics")
    sasl = settings.sasl
    tokens = None if sasl is None or sasl.oauth is None else Tokens(sasl.oauth)
    reach = partial(
        dial,
        settings=settings,
        journal=journal,
        blocking=blocking,
        tokens=tokens,
        max_idle_ms=_IDLE_MAX_MS,
    )
    try:
        with anyio.fail_after(settings.delivery_timeout_s):
            first = await _first(settings, reach)
            try:
                connection = await _controller(first, settings, reach)
                try:
                    yield Admin(connection, settings)
                finally:
                    connection.close()
            finally:
                first.close()
    except KafkaTrouble as trouble:
        raise SinkUnavailable(f"kafka: {trouble.detail}") from trouble
    except TimeoutError as error:
        known = journal.trouble(anyio.current_time())
        detail = f"no answer within {settings.delivery_timeout_s:g} s (kafka.delivery_timeout)"
        raise SinkUnavailable(f"kafka: {known.detail if known else detail}") from error
    except Exception as error:  # whatever a broker answers
        detail = f"the answer of the brokers cannot be used ({described(error)}); check the cluster"
        raise SinkUnavailable(f"kafka: {detail}") from error
    finally:
        blocking.end()
        if tokens is not None:
            tokens.end()


def brokers_request() -> Request[Any]:
    """Return a request for the brokers of the cluster."""
    return _MetadataRequest(())


async def _first(settings: Settings, reach: _Reach) -> BrokerConnection:
    """Return a connection to the first bootstrap server that can be used."""
    collect = cast("Callable[[list[str]], Sequence[tuple[str, int, object]]]", kafka_conn.collect_hosts)
    troubles: list[KafkaTrouble] = []
    for host, port, _ in collect(list(settings.bootstrap_servers)):
        try:
            return await reach(BrokerAddress(host, port, None, settings.tls is not None))
        except KafkaTrouble as trouble:
            troubles.append(trouble)
    raise min(troubles, key=lambda each: each.fault is not Fault.SETTING)


async def _controller(first: BrokerConnection, settings: Settings, reach: _Reach) -> BrokerConnection:
    """Return a connection to the broker that the cluster names as its controller; `first`: it names none."""
    try:
        metadata = await first.send(_MetadataRequest(()))
        brokers = {node: (host, port) for node, host, port, *_ in metadata.brokers}
        node = metadata.controller_id
    except Exception as error:
        raise failure(first.address, Stage.VERSIONS, error) from error
    if node not in brokers:
        return first
    host, port = brokers[node]
    return await reach(BrokerAddress(host or "", port, node, settings.tls is not None))


def _topic_facts(topic: Sequence[Any], version: int, config: dict[str, str] | str | None) -> TopicFacts:
    code, _, _, partitions, *more = topic
    # error, partition, leader, leader's epoch (from version 7), replicas, replicas in sync, offline ones
    replicas_at = 4 if version >= _Metadata_v8.API_VERSION else 3
    operations = more[0] if more else _NO_OPERATIONS
    error = config if isinstance(config, str) else ""
    return TopicFacts(
        error_code=code,
        error=_error(code, None) if code and code not in (UNKNOWN_TOPIC, TOPIC_DENIED) else "",
        replicas=[len(each[replicas_at]) for each in partitions],
        in_sync=[len(each[replicas_at + 1]) for each in partitions],
        leaderless=sum(each[2] == -1 for each in partitions),
        may_write=None if operations == _NO_OPERATIONS else bool(operations & 1 << _WRITE),
        config=config if isinstance(config, dict) else None,
        config_error=error,
    )


def _error(code: int, message: str | None) -> str:
    error = kafka_errors.for_code(code)()
    return f"{type(error).__name__}, {plain(message)}" if message else described(error)


class _MetadataResponse_v8(Response):
    API_KEY: ClassVar[int] = 3  # pyrefly: ignore[bad-override]
    API_VERSION: ClassVar[int] = 8  # pyrefly: ignore[bad-override]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _Metadata_v8(RequestStruct):
    """Metadata with the operations that the user may perform on each topic (KIP-430, Kafka 2.3)."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse_v8
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


_MetadataStruct: TypeAlias = MetadataRequest_v5 | _Metadata_v8


class _MetadataRequest(Request[_MetadataStruct]):
    """The metadata of topics, without creating any."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_MetadataStruct]) -> _MetadataStruct:
        """Return the request in a version that the broker knows."""
        if request_struct_class.API_VERSION == _Metadata_v8.API_VERSION:
            return request_struct_class(self._topics, False, False, True)
        return request_struct_class(self._topics, False)
