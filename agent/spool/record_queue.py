"""The queue of records that delivery needs, in memory or on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.core.reading import Record


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that the sink refused for good."""

    record: Record
    reason: str
    detail: str
    refused_at_ms: int


class RecordQueue(Protocol):
    """The records not yet delivered to one sink, in order. One task takes them."""

    @property
    def waiting(self) -> int:
        """How many records can be taken now, including the batch in flight."""
        ...

    @property
    def held(self) -> int:
        """How many records are neither delivered nor lost, including those that cannot be taken now."""
        ...

    @property
    def oldest_ms(self) -> int | None:
        """When the next record to send was observed (Unix); `None`: there is none, or it is on disk."""
        ...

    async def arrival(self) -> None:
        """Return when at least one record can be taken."""
        ...

    async def take(self, *, records_max: int, size_bytes_max: int) -> Sequence[Record]:
        """Return the oldest records, the same ones until `settle`; none if none can be read now."""
        ...

    async def settle(self, refused: Sequence[DeadLetter]) -> None:
        """The last batch taken is delivered, except for `refused`. It is not taken again."""
        ...

    def abandon(self) -> int:
        """The agent is ending. Count the records lost with it, and return their number."""
        ...
