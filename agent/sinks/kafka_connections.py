"""The connections of one agent to its brokers: one to each broker, for all its producers.

Each topic has a producer of its own, so that one that fails does not hold up the others. The brokers pay for
connections: three from each of ten thousand agents are more than a broker accepts by default.
"""

# aiokafka's connections have no types, and no public hard close.

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast
from weakref import WeakValueDictionary

import anyio

from agent.sinks.kafka_connection import BrokerConnection
from agent.sinks.kafka_faults import BrokerAddress, Fault, KafkaTrouble
from agent.sinks.kafka_journal import Journal

CONNECTIONS_MAX = 128
"""At a time. A cluster may name any number of brokers, and others with each answer; the agent keeps 256
descriptors for all but the links to monitors."""

Closed = Callable[..., None]
"""Called with a connection that was closed, and aiokafka's reason."""


class Connections:
    """Owned by the event loop's thread. A connection is closed with the last producer that uses it."""

    def __init__(self) -> None:
        self._open: dict[BrokerAddress, BrokerConnection] = {}  # for the next producer
        self._used: dict[BrokerConnection, set[Journal]] = {}  # by which producers
        self._dialing: WeakValueDictionary[BrokerAddress, anyio.Lock] = WeakValueDictionary()
        self._producers: dict[Journal, Closed] = {}

    def follow(self, journal: Journal, closed: Closed) -> None:
        """Report closed connections and quotas to one producer, until it is discarded."""
        self._producers[journal] = closed

    async def get(
        self, address: BrokerAddress, journal: Journal, dial: Callable[[Closed], Awaitable[BrokerConnection]]
    ) -> BrokerConnection:
        """Return the connection to a broker for the producer of `journal`; `dial` opens it if there is none.

        Raises:
            KafkaTrouble: the broker cannot be used, or all `CONNECTIONS_MAX` wait for an answer.
        """
        lock = self._dialing.setdefault(address, anyio.Lock())
        async with lock:  # another producer may be connecting
            connection = self._open.get(address)
            if connection is None or not connection.connected():
                self._make_room()
                connection = await dial(self._closed)
                connection.throttled = self._throttled
            self._open.pop(address, None)
            self._open[address] = connection  # the last one is the most recently used
            self._used.setdefault(connection, set()).add(journal)
            return connection

    def discard(self, journal: Journal) -> None:
        """Forget a producer, and close the connections that no other one uses.

        The next producer gets new ones: a broker may have answered on the old ones what it cannot use, or not
        at all.
        """
        self._producers.pop(journal, None)
        for connection, producers in list(self._used.items()):
            if journal not in producers:
                continue
            producers.discard(journal)
            if self._open.get(connection.address) is connection:
                del self._open[connection.address]
            if not producers:
                _abort(connection)

    def _make_room(self) -> None:
        """Close connections that wait for no answer, those unused the longest first."""
        for connection in list(self._open.values()):
            if len(self._used) < CONNECTIONS_MAX:
                return
            if not connection._requests:
                _abort(connection)
        if len(self._used) >= CONNECTIONS_MAX:
            detail = f"more than {CONNECTIONS_MAX} brokers have not answered yet; check the brokers"
            raise KafkaTrouble(Fault.CONNECTION, "", detail)

    def _closed(self, connection: BrokerConnection, reason: Any) -> None:
        self._used.pop(connection, None)
        if self._open.get(connection.address) is connection:
            del self._open[connection.address]
        for closed in self._producers.copy().values():
            closed(connection, reason)

    def _throttled(self, throttle_ms: int, now_s: float) -> None:
        for journal in self._producers:
            journal.throttled(throttle_ms, now_s)


def _abort(connection: BrokerConnection) -> None:
    writer = cast("asyncio.StreamWriter | None", connection._writer)
    if writer is not None:
        writer.transport.abort()  # closing would flush to a peer that may not read
    connection.close()
