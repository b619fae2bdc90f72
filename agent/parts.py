"""Builds the sinks that are configured, and imports their libraries.

A library takes memory and time at each start, so one that is not needed is not imported. The imports are
here, before the first VM is watched: later they would delay the event loop. The OTLP exporters import gRPC or
the HTTP client in their own threads.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

from agent.config import Config
from agent.contract.payloads import Agent
from agent.core.delivery import DeliverySettings
from agent.core.reading import RecordKind
from agent.redaction import Redactor
from agent.runtime.containment import Contained
from agent.runtime.recorder import Keeper
from agent.sinks.record_sink import RecordSink
from agent.spool.disk import DiskSpool
from agent.spool.memory import MemoryBuffer
from agent.spool.queues import Queue
from agent.spool.record_queue import RecordQueue
from agent.telemetry import Counters, Snapshot

if TYPE_CHECKING:
    from agent.sinks.otlp_own import OwnTelemetry


class Feed(NamedTuple):
    """A sink, the queue that it is fed from, and when."""

    sink: RecordSink
    queue: RecordQueue
    settings: DeliverySettings


def feeds_of(
    config: Config, identity: Agent, spool: DiskSpool | None, counters: Counters, redact: Redactor
) -> tuple[list[Keeper], list[Feed]]:
    """Return the keepers of new records, and the sinks with their queues."""
    keepers: list[Keeper] = [] if spool is None else [spool]
    feeds: list[Feed] = []
    plain = DeliverySettings()

    def from_memory(sink: RecordSink, kinds: Collection[RecordKind], settings: DeliverySettings) -> None:
        buffer = MemoryBuffer(sink.name, config.buffer_bytes, counters, kinds)
        keepers.append(buffer)
        feeds.append(Feed(sink, buffer, settings))

    def from_queue(sink: RecordSink, queue: Queue, settings: DeliverySettings) -> None:
        if spool is None:
            from_memory(sink, queue.kinds, settings)
        else:
            feeds.append(Feed(sink, spool.queue(queue), settings))

    if config.kafka is not None:
        from agent.sinks.kafka import KafkaSink
        from agent.sinks.kafka_connections import Connections
        from agent.sinks.kafka_tokens import Tokens

        sasl = config.kafka.sasl
        tokens = None if sasl is None or sasl.oauth is None else Tokens(sasl.oauth, redact.add)
        connections = Connections()
        topics = {
            Queue.SAMPLES: config.kafka.samples_topic,
            Queue.STATES: config.kafka.states_topic,
            Queue.MEMORY: config.kafka.memory_topic,
        }
        paced = DeliverySettings(
            # Without a spool on disk, a kill would lose what waits.
            linger_ns=0 if spool is None else int(config.kafka.linger_s * 1e9),
            backlog_records_per_s=config.kafka.backlog_records_per_s,
        )
        for queue, topic in topics.items():  # a topic that fails must not hold up the others
            from_queue(KafkaSink(config.kafka, topic, queue.sink, tokens, connections), queue, paced)
    if config.otlp_logs is not None:
        from agent.sinks.otlp_logs import OtlpLogsSink

        from_queue(OtlpLogsSink(config.otlp_logs, identity, redact), Queue.LOGS, plain)
    if config.lines_enabled:
        from agent.sinks.lines import LinesSink

        from_memory(LinesSink(), frozenset(RecordKind) - Queue.LOGS.kinds, plain)
    return keepers, feeds


def otlp_export(config: Config, identity: Agent, counters: Counters, redact: Redactor) -> Contained | None:
    """Return the export of the VMs' metrics; `None`: OTLP is not configured."""
    if config.otlp is None:
        return None
    from agent.sinks.otlp import OtlpSink

    return Contained("otlp", OtlpSink(config.otlp, identity, counters, redact), counters)


def own_telemetry(
    config: Config, identity: Agent, look: Callable[[], Snapshot], redact: Redactor
) -> "OwnTelemetry | None":
    """Return the export of the agent's own metrics, which `look` takes; `None`: OTLP is not configured."""
    if config.otlp is None:
        return None
    from agent.sinks.otlp_own import OwnTelemetry

    return OwnTelemetry(config.otlp, identity, look, redact)
