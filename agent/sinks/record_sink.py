"""The interface between the delivery loop and a sink of records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.core.reading import Record


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """One record that its sink refuses for good."""

    index: int  # its position in the batch
    reason: str  # from the sink's fixed list
    detail: str  # for people


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of a batch in which every record is settled: delivered, refused for good, or lost."""

    refused: tuple[RefusedRecord, ...] = ()
    restamped: int = 0  # delivered with the time of sending, because the peer refused the record's own
    lost: Mapping[str, int] = field(default_factory=dict[str, int])  # how many, by reason; not known which


class RecordSink(Protocol):
    """Delivers batches in order. Used by one task; connects at the first batch."""

    @property
    def name(self) -> str:
        """The name of the sink in logs and counters."""
        ...

    @property
    def batch_bytes_max(self) -> int:
        """The largest batch to pass, by `Record.size_bytes`."""
        ...

    @property
    def batch_records_max(self) -> int:
        """The largest batch to pass, in records."""
        ...

    @property
    def problem(self) -> str | None:
        """What keeps the present batch from being accepted, as far as known; `None`: nothing."""
        ...

    async def send(self, records: Sequence[Record]) -> Receipt:
        """Deliver `records` in order.

        Call it again with the same records after a failure or a cancellation: records that are settled
        are not sent again.

        Raises:
            SinkUnavailable: not every record is settled. Call it again; the sink stays usable.
            OutputClosed: the output will never be read again.
        """
        ...

    async def aclose(self) -> None:
        """Release everything at once. Safe to call twice, and while being cancelled."""
        ...
