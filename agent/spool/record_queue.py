"""What the delivery loop needs of whatever holds records: memory or disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.core.reading import Record


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that its sink refused for good."""

    record: Record
    reason: str
    detail: str
    refused_at_ms: int


class RecordQueue(Protocol):
    """What one sink has not taken yet, in order. One task takes."""

    @property
    def waiting(self) -> int:
        """How many records can be had now, the batch in flight included."""
        ...

    @property
    def held(self) -> int:
        """How many records are neither delivered nor lost, also those that cannot be had now."""
        ...

    @property
    def oldest_ms(self) -> int | None:
        """When the next record to be sent was observed (Unix); `None`: none waits, or it is not in memory."""
        ...

    async def arrival(self) -> None:
        """Return when at least one record can be had."""
        ...

    async def take(self, *, records_max: int, size_bytes_max: int) -> Sequence[Record]:
        """Return the oldest records, the same ones until `settle`; none where none can be read now."""
        ...

    async def settle(self, refused: Sequence[DeadLetter]) -> None:
        """The batch taken last is delivered, but for those refused: it will not come again."""
        ...

    def abandon(self) -> int:
        """The agent ends: return how many records are lost with it, which are counted."""
        ...
