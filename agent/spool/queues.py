"""The queues of the spool, and the order in which they lose records for lack of room."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from agent.core.reading import Record, RecordKind


class Queue(StrEnum):
    """The queues, each delivered in order. The values are the names of the tables."""

    SAMPLES = "samples"
    STATES = "states"
    MEMORY = "memory"
    LOGS = "logs"  # changes of state, for OTLP

    @property
    def kinds(self) -> frozenset[RecordKind]:
        """The kinds of records in it."""
        return frozenset(kind for kind, queue in _QUEUES.items() if queue is self)

    @property
    def sink(self) -> str:
        """The name of the sink that it feeds."""
        return f"otlp.{self}" if self is Queue.LOGS else f"kafka.{self}"

    @staticmethod
    def of(record: Record) -> "Queue":
        """Return the queue a record belongs to."""
        return _QUEUES[record.kind]


_QUEUES: Mapping[RecordKind, Queue] = {
    RecordKind.SAMPLE: Queue.SAMPLES,
    RecordKind.VM_STATE: Queue.STATES,
    RecordKind.AGENT_STATE: Queue.STATES,
    RecordKind.VM_MEMORY: Queue.MEMORY,
    RecordKind.HOST_MEMORY: Queue.MEMORY,
    RecordKind.LOG: Queue.LOGS,
}

DEAD_LETTERS = "dead_letters"
DROPPED_FIRST: Sequence[str] = (Queue.MEMORY, Queue.SAMPLES, DEAD_LETTERS, Queue.LOGS, Queue.STATES)
"""The tables in the order in which they lose records for lack of room.

The next memory record replaces a lost one; a lost sample is a gap; a lost state misleads until its heartbeat.
"""
