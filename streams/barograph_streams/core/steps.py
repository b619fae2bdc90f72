"""What one record, or one timer, changes."""

from msgspec import Struct

from barograph_streams.core.documents import Outcome
from barograph_streams.core.records import Record


class Sent(Struct, frozen=True):
    """What a first step, whose keys are those of the records, tells the second step under another key."""

    key: str
    value: bytes


class Step(Struct, frozen=True):
    """What is kept of a key from now on, and what is to be done."""

    outcome: Outcome
    state: bytes | None  # to be kept for the key; None: as before
    records: tuple[Record, ...] = ()
    lost: int = 0  # change of the number of lost samples
    timer_ms: int | None = None  # when the job wants to be called, in Unix milliseconds
    sent: tuple[Sent, ...] = ()  # to the second step of the job
