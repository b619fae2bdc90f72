"""How a producer of aiokafka finds its brokers: replaces four functions of its client.

The replacements do what aiokafka 0.14.0 does (client.py, cluster.py), with `kafka_connection.dial` for each
connection, with pauses between requests for metadata, and with every error contained: aiokafka's metadata
task ends at an error that it does not expect, and the producer then waits forever.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

import anyio
from aiokafka import conn as kafka_conn
from aiokafka import errors as kafka_errors
from aiokafka.protocol.metadata import MetadataRequest

from agent.sinks.kafka_blocking import Blocking
from agent.sinks.kafka_connection import BrokerConnection, dial
from agent.sinks.kafka_connections import Connections
from agent.sinks.kafka_faults import BrokerAddress, Fault, KafkaTrouble, Stage, described, failure, plain
from agent.sinks.kafka_journal import Journal
from agent.sinks.kafka_settings import Settings
from agent.sinks.kafka_tokens import Tokens

BROKERS_MAX = 1_000
"""Brokers of a cluster. aiokafka tries all of them for metadata."""

PARTITIONS_MAX = 20_000
"""Partitions of the topic. aiokafka copies them with each answer."""

_UPDATE_PAUSE_S = 0.25
_UPDATE_PAUSE_MAX_S = 2.0


class _BrokerMetadata(Protocol):
    host: str | None
    port: int


class _Metadata(Protocol):
    update_metadata: Callable[[Any], None]

    def broker_metadata(self, broker_id: object) -> _BrokerMetadata | None: ...


class Client(Protocol):
    """What is used of aiokafka's AIOKafkaClient."""

    cluster: _Metadata
    bootstrap: Callable[[], Any]
    _get_conn: Callable[..., Any]
    _metadata_update: Callable[[Any, Any], Awaitable[object]]
    _topics: set[str]
    _conns: dict[object, BrokerConnection]
    _get_conn_lock: asyncio.Lock
    _sync_task: asyncio.Task[None] | None
    _connections_max_idle_ms: int
    _on_connection_closed: Callable[..., None]

    async def close(self) -> None: ...
    async def _md_synchronizer(self) -> None: ...
    def force_metadata_update(self) -> object: ...


class Cluster:
    """The brokers of one producer."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        topic: str,
        journal: Journal,
        blocking: Blocking,
        tokens: Tokens | None = None,
        connections: Connections | None = None,
    ) -> None:
        """Replace the functions of `client`; `connections` are shared with other producers."""
        self._client = client
        self._connections = connections or Connections()
        self._topic = topic
        self._has_tls = settings.tls is not None
        self._journal = journal
        self._dial = partial(
            dial,
            settings=settings,
            journal=journal,
            blocking=blocking,
            tokens=tokens,
            max_idle_ms=client._connections_max_idle_ms,
        )
        self._servers = tuple(settings.bootstrap_servers)
        self._update = client.cluster.update_metadata
        self._ask = client._metadata_update
        self._asked_s = -math.inf  # on the event loop's clock
        self._pause_s = _UPDATE_PAUSE_S
        if topic:
            client._topics = {
                topic
            }  # otherwise aiokafka asks for all topics before it sends the first record
        client.bootstrap = self._bootstrap
        client._get_conn = self._connection
        client._metadata_update = self._ask_in_time
        client.cluster.update_metadata = self._learn
        self._connections.follow(journal, self._closed)

    async def _bootstrap(self) -> None:
        """Get the metadata of the cluster from the first bootstrap server that answers.

        Raises:
            KafkaTrouble: none answers.
        """
        collect = cast("Callable[[list[str]], Sequence[tuple[str, int, object]]]", kafka_conn.collect_hosts)
        troubles: list[KafkaTrouble] = []
        for host, port, _ in collect(list(self._servers)):
            address = BrokerAddress(host, port, None, self._has_tls)
            try:
                connection = await self._dial(address)
            except KafkaTrouble as trouble:
                troubles.append(trouble)
                continue
            try:
                metadata = await connection.send(MetadataRequest([]))
                if not metadata.brokers:
                    detail = f"{address.source}: {address} does not know any broker yet; check the cluster"
                    raise KafkaTrouble(Fault.CONNECTION, "", detail)
            except Exception as error:  # noqa: BLE001 - whatever a broker answers
                trouble = failure(address, Stage.VERSIONS, error)
                self._journal.failed(address, trouble)
                troubles.append(trouble)
                continue
            finally:
                connection.close()
            self._learn(metadata)
            if self._client._sync_task is None:
                self._client._sync_task = asyncio.get_running_loop().create_task(
                    self._client._md_synchronizer()
                )
            return
        raise min(troubles, key=lambda each: each.fault is not Fault.SETTING)

    async def _connection(
        self, node: object, *, group: object = 0, no_hint: bool = False
    ) -> BrokerConnection | None:
        """Return the connection to a broker; `None`: there is none now."""
        client, key = self._client, (node, group)
        connection = client._conns.get(key)
        if connection is not None:
            if connection.connected():
                return connection
            del client._conns[key]
            connection.close()
        broker = client.cluster.broker_metadata(node)
        try:
            if broker is None:
                raise kafka_errors.StaleMetadata(f"broker {node} is not in the metadata")
            async with client._get_conn_lock:
                if (connection := client._conns.get(key)) is None:
                    address = BrokerAddress(broker.host or "", broker.port, cast("int", node), self._has_tls)
                    self._journal.reaches(address, Stage.CONNECTING, anyio.current_time())
                    connection = await self._connections.get(
                        address, self._journal, lambda closed: self._dial(address, on_close=closed)
                    )
                    self._journal.connected(address)
                    client._conns[key] = connection
        except (KafkaTrouble, kafka_errors.StaleMetadata):
            client.force_metadata_update()
            return None
        return connection

    def _closed(self, connection: BrokerConnection, reason: object) -> None:
        conns = self._client._conns
        for key in [key for key, each in conns.items() if each is connection]:
            del conns[key]  # aiokafka keeps it until the same broker is needed again
        self._client._on_connection_closed(connection, reason)

    async def _ask_in_time(self, cluster: object, topics: object) -> object:
        """Ask for metadata, after a pause if the last answer is recent.

        aiokafka asks again at once while a partition has no leader.
        """
        if anyio.current_time() >= self._asked_s + 2 * self._pause_s:
            self._pause_s = _UPDATE_PAUSE_S
        elif self._asked_s + self._pause_s > anyio.current_time():
            await anyio.sleep_until(self._asked_s + self._pause_s)
            self._pause_s = min(2 * self._pause_s, _UPDATE_PAUSE_MAX_S)
        try:
            return await self._ask(cluster, topics)
        finally:
            self._asked_s = anyio.current_time()

    def _learn(self, metadata: Any) -> None:
        """Take the newest metadata; ignore what cannot be used."""
        try:
            _check(metadata, self._topic)
            brokers = [
                BrokerAddress(host or "", port, node, self._has_tls)
                for node, host, port, *_ in metadata.brokers
            ]
            self._update(metadata)
            self._journal.forget(brokers)
            for error_code, topic, *_, partitions in metadata.topics:
                if topic is not None and topic == self._topic:
                    self._journal.topic(topic_trouble(topic, error_code, partitions))
        except Exception as error:  # noqa: BLE001 - whatever a broker answers
            detail = f"the metadata of the cluster cannot be used ({described(error)}); check the brokers"
            self._journal.topic(KafkaTrouble(Fault.CONNECTION, "", detail))


def _check(metadata: Any, topic: str) -> None:
    """Raise a ValueError for a cluster or topic larger than any, or with partitions that are not in order."""
    brokers = len(metadata.brokers)
    numbers = [
        number for _, name, *_, partitions in metadata.topics if name == topic for _, number, *_ in partitions
    ]
    if brokers > BROKERS_MAX or len(numbers) > PARTITIONS_MAX:
        limit = f"at most {BROKERS_MAX} and {PARTITIONS_MAX} are used"
        raise ValueError(f"{brokers} brokers and {len(numbers)} partitions; {limit}")
    if sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"the {len(numbers)} partitions of topic {topic} are not numbered from 0 on")


def topic_trouble(
    topic: str, error_code: int, partitions: Sequence[Sequence[Any]] = ()
) -> KafkaTrouble | None:
    """Return why records cannot be sent to `topic`, according to its metadata; `None`: they can."""
    match error_code:
        case 0:
            if not partitions:
                return KafkaTrouble(Fault.CONNECTION, "", f"topic {topic}: no partitions; check the cluster")
            leaderless = [partition for _, partition, leader, *_ in partitions if leader == -1]
            if not leaderless:
                return None
            detail = (
                f"topic {topic}: partition {leaderless[0]} has no leader; start the brokers with its replicas"
            )
            return KafkaTrouble(Fault.CONNECTION, "", detail)
        case 3:
            detail = f"topic {topic} does not exist; create it, or allow the brokers to create topics"
        case 5:
            return KafkaTrouble(Fault.CONNECTION, "", f"topic {topic}: no leader is elected yet; wait")
        case 17:
            detail = f"topic {plain(topic)}: the name is invalid, or reserved by Kafka; use another name"
        case 29:
            detail = (
                f"topic {topic}: not authorized to write to the topic; allow Describe and Write on it for "
                "the agent's user (kafka-acls.sh --producer)"
            )
        case _:
            error = kafka_errors.for_code(error_code)()
            return KafkaTrouble(Fault.CONNECTION, "", f"topic {topic}: {described(error)}; check the brokers")
    return KafkaTrouble(Fault.TOPIC, "", detail)
