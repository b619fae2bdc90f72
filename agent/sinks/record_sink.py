"""What a destination of records promises to the delivery loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.core.reading import Record


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """One record that its sink will refuse every time."""

    index: int  # its place in the batch
    reason: str  # from the sink's fixed list
    detail: str  # for people


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch whose every record is settled: delivered, or refused for good."""

    refused: tuple[RefusedRecord, ...] = ()
    restamped: int = 0  # delivered, but with the time of sending: the peer refused the record's own


class RecordSink(Protocol):
    """Takes batches in order. One task uses it; it opens by itself at the first batch."""

    @property
    def name(self) -> str:
        """Names the sink in logs and counters."""
        ...

    @property
    def batch_bytes_max(self) -> int:
        """The largest batch it should be given, by `Record.size_bytes`."""
        ...

    @property
    def batch_records_max(self) -> int:
        """The largest batch it should be given, in records."""
        ...

    async def send(self, records: Sequence[Record]) -> Receipt:
        """Deliver `records` in order.

        Call it again with the same records after a failure or a cancellation: what was settled
        before is not sent again.

        Raises:
            SinkUnavailable: not every record is settled; they may be later. The sink stays usable.
            OutputClosed: nobody will read more.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything, at once. Safe to call twice, and while being cancelled."""
        ...
