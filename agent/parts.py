"""Builds the sinks that are configured, and imports their libraries.

A library takes memory and time at each start, so one that is not needed is not imported. The imports are
here, before the first VM is watched: later they would delay the event loop. The OTLP exporters import gRPC or
the HTTP client in their own threads.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from agent.config import Config
from agent.contract.payloads import Agent
from agent.core.reading import RecordKind
from agent.redaction import Redactor
from agent.runtime.containment import Contained
from agent.runtime.recorder import Keeper
from agent.sinks.record_sink import RecordSink
from agent.spool.disk import DiskSpool
from agent.spool.memory import MemoryBuffer
from agent.spool.record_queue import RecordQueue
from agent.spool.store import Queue
from agent.telemetry import Counters, Snapshot

if TYPE_CHECKING:
    from agent.sinks.otlp_own import OwnTelemetry


def deliveries(
    config: Config, identity: Agent, spool: DiskSpool | None, counters: Counters, redact: Redactor
) -> tuple[list[Keeper], list[tuple[RecordSink, RecordQueue]]]:
    """Return the keepers of new records, and for each sink the queue it is fed from."""
    keepers: list[Keeper] = [] if spool is None else [spool]
    deliveries: list[tuple[RecordSink, RecordQueue]] = []

    def from_memory(sink: RecordSink, kinds: Collection[RecordKind]) -> None:
        buffer = MemoryBuffer(sink.name, config.buffer_bytes, counters, kinds)
        keepers.append(buffer)
        deliveries.append((sink, buffer))

    def from_queue(sink: RecordSink, queue: Queue) -> None:
        if spool is None:
            from_memory(sink, queue.kinds)
        else:
            deliveries.append((sink, spool.queue(queue)))

    if config.kafka is not None:
        from agent.sinks.kafka import KafkaSink
        from agent.sinks.kafka_tokens import Tokens

        sasl = config.kafka.sasl
        tokens = None if sasl is None or sasl.oauth is None else Tokens(sasl.oauth, redact.add)
        topics = {
            Queue.SAMPLES: config.kafka.samples_topic,
            Queue.STATES: config.kafka.states_topic,
            Queue.MEMORY: config.kafka.memory_topic,
        }
        for queue, topic in topics.items():  # a topic that fails must not hold up the others
            from_queue(KafkaSink(config.kafka, topic, queue.sink, tokens), queue)
    if config.otlp_logs is not None:
        from agent.sinks.otlp_logs import OtlpLogsSink

        from_queue(OtlpLogsSink(config.otlp_logs, identity, redact), Queue.LOGS)
    if config.lines_enabled:
        from agent.sinks.lines import LinesSink

        from_memory(LinesSink(), frozenset(RecordKind) - Queue.LOGS.kinds)
    return keepers, deliveries


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
