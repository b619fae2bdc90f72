"""What jobs on samples have in common: the reader in front, and one state of bytes for each VM."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from barograph_streams.core.documents import Outcome, Sample, parse_sample
from barograph_streams.core.reader import ReaderState, new_state, take
from barograph_streams.core.records import Record, event_headers
from barograph_streams.core.steps import Step

Memory = TypeVar("Memory")
Fold = Callable[[Memory | None, Sample], tuple[Memory | None, tuple[Record, ...]]]
"""Returns what is kept of a VM after a sample, and the records to write.

It sees each new sample with origin `poll` once, in order, and none of an epoch that a newer one has followed.
"""

_encoder = Encoder()
_document_encoder = msgspec.json.Encoder()


class SampleJob(Generic[Memory]):
    """A job that reads barograph.samples."""

    def __init__(self, fold: Fold[Memory], memory: type[Memory]) -> None:
        self._fold = fold
        kept: Any = tuple[ReaderState, memory | None]
        self._decoder: Decoder[tuple[ReaderState, Memory | None]] = Decoder(kept)

    def decode(self, kept: bytes) -> tuple[ReaderState, Memory | None]:
        """Return the state of a VM."""
        return self._decoder.decode(kept)

    def step(self, kept: bytes | None, key: str, value: bytes, now_ms: int = 0) -> Step:
        """Return what one record changes. The time of processing has no influence.

        Args:
            kept: the state of the VM; `None`: no sample has arrived.
            key: of the record: the VM's id.
            value: of the record.
            now_ms: not used.
        """
        sample = parse_sample(key, value)
        if isinstance(sample, Outcome):
            return Step(sample, None)
        reader, memory = (new_state(), None) if kept is None else self._decoder.decode(kept)
        reading = take(reader, sample)
        records: tuple[Record, ...] = ()
        if reading.outcome is Outcome.KEPT and sample.is_polled:
            memory, records = self._fold(memory, sample)
        return Step(reading.outcome, _encoder.encode((reader, memory)), records, reading.lost)

    def on_timer(self, kept: bytes | None, key: str, now_ms: int) -> Step:
        """Return no change: the job sets no timer."""
        return Step(Outcome.KEPT, None)


def record_of_sample(topic: str, job: str, sample: Sample, document: Struct, level: str = "") -> Record:
    """Return the record of a document that follows from a sample. Its id is that of the sample."""
    headers = event_headers(
        job,
        kind=f"vm.{job}",
        schema=job,
        id=f"{sample.vm.id}/{sample.epoch}/{sample.last_update}",
        key=sample.vm.id,
        subject=sample.vm.id,
        time_ms=sample.last_update * 1000,
        sequence=sample.sequence,
    )
    return Record(topic, sample.vm.id.encode(), _document_encoder.encode(document), headers, level)
