"""The records that the jobs write: CloudEvents 1.0 in binary mode, as the agent's are."""

from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct

from barograph_streams.core.documents import VALUE_BYTES_MAX, Outcome

DEAD_LETTER_TOPIC = "barograph.streams.dead"

KEY_BYTES_MAX = 1_024
"""Of a dead letter."""


class Record(Struct, frozen=True):
    """A record to be written to Kafka. Its timestamp is set by Flink's sink."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, str]
    level: str = ""  # of the key from now on, for the job's metrics; empty: it has none


class Place(Struct, frozen=True):
    """Where a record was read."""

    topic: str
    partition: int
    offset: int


def dead_letter(job: str, reason: Outcome, place: Place, key: bytes, value: bytes) -> Record:
    """Return the record of a value that a job cannot use, with its place and the reason.

    It is cut if it is longer than a producer sends. A record that cannot be written would end the job each
    time that it is read.
    """
    headers = {
        "reason": str(reason),
        "job": job,
        "topic": place.topic,
        "partition": str(place.partition),
        "offset": str(place.offset),
        "length": str(len(value)),
    }
    return Record(DEAD_LETTER_TOPIC, key[:KEY_BYTES_MAX], value[:VALUE_BYTES_MAX], headers)


def event_headers(
    job: str, *, kind: str, schema: str, id: str, key: str, subject: str | None, time_ms: int, sequence: int
) -> dict[str, str]:
    """Return the headers of a CloudEvent in binary mode.

    Args:
        job: that writes it.
        kind: of the document, without `barograph.`.
        schema: the name of the document's folder in schemas/.
        id: the same for the same event.
        key: of the record.
        subject: the VM's id; `None`: the event is of a host.
        time_ms: of the event, in Unix milliseconds.
        sequence: in the order of the key's events.
    """
    time = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": f"/barograph-streams/{job}",
        "ce_type": f"barograph.{kind}.v1",
        "ce_time": f"{time}.{time_ms % 1000:03}Z",
        "ce_dataschema": f"urn:barograph:schema:{schema}:1.0",
        **({} if subject is None else {"ce_subject": subject}),
        "ce_partitionkey": key,
        "ce_sequence": f"{sequence:020}",
    }
