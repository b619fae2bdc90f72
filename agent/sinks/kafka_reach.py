"""Connects to each broker once, as the sink does, for `barograph doctor`. Sends no records."""

# aiokafka's requests have no types.

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias, cast

import anyio
from aiokafka import conn as kafka_conn

from agent.core.doctor.backends import BrokerFact
from agent.sinks.kafka_admin import brokers_request
from agent.sinks.kafka_blocking import Blocking
from agent.sinks.kafka_connection import BrokerConnection, dial
from agent.sinks.kafka_faults import BrokerAddress, KafkaTrouble, Stage, failure
from agent.sinks.kafka_journal import Journal
from agent.sinks.kafka_settings import Settings
from agent.sinks.kafka_tokens import Tokens

BROKERS_MAX = 32
"""Bootstrap servers, and again brokers that the cluster advertises, that are connected to."""

_AT_ONCE = 8
_IDLE_MAX_MS = 60_000


_Dial: TypeAlias = Callable[[BrokerAddress], Awaitable[BrokerConnection]]


class _Stages(Journal):
    """Keeps how far each attempt has come."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[BrokerAddress, Stage] = {}

    def reaches(self, address: BrokerAddress, stage: Stage, now_s: float) -> None:
        """Note the stage."""
        self.last[address] = stage
        super().reaches(address, stage, now_s)


async def reach(settings: Settings) -> Sequence[BrokerFact]:
    """Return the result for each bootstrap server, and for each broker that the first one names."""
    stages, blocking = _Stages(), Blocking("kafka-reach")
    sasl = settings.sasl
    tokens = None if sasl is None or sasl.oauth is None else Tokens(sasl.oauth)
    attempt = partial(
        dial,
        settings=settings,
        journal=stages,
        blocking=blocking,
        tokens=tokens,
        max_idle_ms=_IDLE_MAX_MS,
    )
    try:
        collect = cast("Callable[[list[str]], Sequence[tuple[str, int, object]]]", kafka_conn.collect_hosts)
        has_tls = settings.tls is not None
        places = sorted((host, port) for host, port, _ in collect(list(settings.bootstrap_servers)))
        servers = [BrokerAddress(host, port, None, has_tls) for host, port in places[:BROKERS_MAX]]
        facts, advertised = await _all(servers, attempt, stages)
        others = [BrokerAddress(host, port, node, has_tls) for node, host, port in advertised[:BROKERS_MAX]]
        more, _ = await _all(others, attempt, stages)
        return [*facts, *more]
    finally:
        blocking.end()
        if tokens is not None:
            tokens.end()


async def _all(
    addresses: Sequence[BrokerAddress], attempt: _Dial, stages: _Stages
) -> tuple[list[BrokerFact], list[tuple[int, str, int]]]:
    """Connect to each address; return the results in order, and the brokers that the first metadata name."""
    found: dict[BrokerAddress, BrokerFact] = {}
    named: list[tuple[int, str, int]] = []
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def look(address: BrokerAddress) -> None:
        async with limiter:
            try:
                connection = await attempt(address)
            except KafkaTrouble as trouble:
                stage = stages.last.get(address, Stage.CONNECTING)
                found[address] = _fact(address, stage, trouble)
                return
            try:
                metadata = await connection.send(brokers_request())
                brokers = [(int(node), str(host), int(port)) for node, host, port, *_ in metadata.brokers]
                named.extend(brokers if not named else [])
                found[address] = _fact(address)
            except Exception as error:  # noqa: BLE001 - whatever a broker answers
                found[address] = _fact(address, Stage.VERSIONS, failure(address, Stage.VERSIONS, error))
            finally:
                connection.close()

    async with anyio.create_task_group() as group:
        for address in addresses:
            group.start_soon(look, address)
    return [found[each] for each in addresses], named


def _fact(
    address: BrokerAddress, stage: Stage | None = None, trouble: KafkaTrouble | None = None
) -> BrokerFact:
    return BrokerFact(
        str(address),
        address.node is None,
        "" if stage is None else stage.value,
        "" if trouble is None else trouble.detail,
    )
