"""Parses the values of records. What is accepted follows docs/contract.md and schemas/sample.

A value is untrusted: any program that may write to the topic may have written it. Every field that a job
uses is checked against the schema's type and bounds; other fields are ignored (rule 1 of the contract).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

VALUE_BYTES_MAX = 1 << 18
"""The longest value that is parsed. The longest that an agent writes is much shorter."""

SEQUENCE_MAX = (1 << 53) - 1

Uuid = Annotated[str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
Sequence = Annotated[int, Meta(ge=1, le=SEQUENCE_MAX)]
Count = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]
Name = Annotated[str, Meta(max_length=1024)]
Labels = Annotated[dict[str, Annotated[str, Meta(max_length=256)]], Meta(max_length=256)]

_MAJOR = "1."


class Outcome(StrEnum):
    """What became of a record."""

    KEPT = "kept"
    SUPERSEDED = "superseded"  # kept, but a newer epoch of the VM has begun: not used for current values
    REDELIVERED = "redelivered"  # kept, but late: not used for current values
    REPEAT = "repeat"
    UNIDENTIFIED = "unidentified"  # the state of a VM whose id is not known yet
    OTHER_KIND = "other_kind"  # of a kind that this reader does not know, which is no error
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    VERSION = "version"  # of another major version
    DOCUMENT = "document"  # not valid by the schema
    KEY = "key"  # not the id of the document's VM

    @property
    def is_dead(self) -> bool:
        """Whether the record is written to the topic of dead letters."""
        return self in _DEAD


_DEAD = frozenset({Outcome.TOO_LARGE, Outcome.NOT_JSON, Outcome.VERSION, Outcome.DOCUMENT, Outcome.KEY})


class Vm(Struct, frozen=True, omit_defaults=True):
    """The VM of a document."""

    id: Uuid
    id_source: str
    uuid: Uuid | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET


class Host(Struct, frozen=True, omit_defaults=True):
    """The host of a document."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    name: Annotated[str, Meta(min_length=1, max_length=1024)]
    labels: Labels | UnsetType = UNSET


class Previous(Struct, frozen=True):
    """The end of the epoch before."""

    epoch: Uuid
    sequence: Sequence


class Used(Struct, frozen=True):
    """A guest's memory, in bytes."""

    used: int
    available: int
    total: int


class Sample(Struct, frozen=True):
    """What the jobs use of a sample."""

    schema: str
    vm: Vm
    host: Host
    epoch: Uuid
    sequence: Sequence
    last_update: Annotated[int, Meta(ge=1, le=253_402_300_799)]
    observed_at_ms: Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
    origin: Annotated[str, Meta(max_length=64)]
    missed_at_most: Count
    polling_interval_s: Annotated[int, Meta(ge=0, le=4_294_967_295)]
    statistics: Annotated[dict[str, Count], Meta(max_length=256)]
    previous: Previous | UnsetType = UNSET
    redelivered: bool = False
    data: msgspec.Raw | UnsetType = UNSET  # of a CloudEvent in structured mode, which is not a sample itself

    @property
    def is_polled(self) -> bool:
        """Whether the age of the values is known (rule 5)."""
        return self.origin == "poll"

    @property
    def used(self) -> Used | None:
        """The guest's memory in use; `None`: the statistics do not show it."""
        available, total = self.statistics.get("available_memory"), self.statistics.get("total_memory")
        if available is None or total is None or available > total:
            return None
        return Used(total - available, available, total)


class _Head(Struct):
    """What tells a document from a CloudEvent in structured mode, and its kind."""

    data: msgspec.Raw | UnsetType = UNSET
    schema: str | UnsetType = UNSET


_head = msgspec.json.Decoder(_Head)

SAMPLE = "barograph.vm.sample"
_SAMPLE_SCHEMA = f"{SAMPLE}/{_MAJOR}"
_sample = msgspec.json.Decoder(Sample)
DECODERS: Mapping[str, "msgspec.json.Decoder[Sample]"] = {SAMPLE: _sample}
"""How to decode a sample."""

Document = TypeVar("Document")


def parse_sample(key: str, value: bytes) -> Sample | Outcome:
    """Return the sample of a record, or why it is not used.

    Args:
        key: of the record.
        value: a document, or a CloudEvent in structured mode that contains one.
    """
    document = _plain_sample(value) or parse(value, DECODERS)
    if isinstance(document, Outcome):
        return document
    return document if key == document.vm.id else Outcome.KEY


def _plain_sample(value: bytes) -> Sample | None:
    """Return the sample that a value is; `None`: look closer. Most values are one, and are decoded once."""
    if len(value) > VALUE_BYTES_MAX:
        return None
    try:
        sample = _sample.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    is_plain = isinstance(sample.data, UnsetType) and sample.schema.startswith(_SAMPLE_SCHEMA)
    return sample if is_plain else None


def parse(value: bytes, decoders: "Mapping[str, msgspec.json.Decoder[Document]]") -> Document | Outcome:
    """Return the document of a record, or why it is not used; `decoders`: of the kinds that are wanted."""
    if len(value) > VALUE_BYTES_MAX:
        return Outcome.TOO_LARGE
    document: bytes | msgspec.Raw = value
    try:
        head = _head.decode(document)
        if not isinstance(head.data, UnsetType):
            document = head.data
            head = _head.decode(document)
    except msgspec.ValidationError:
        return Outcome.DOCUMENT
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Outcome.NOT_JSON
    kind, _, version = ("", "", "") if isinstance(head.schema, UnsetType) else head.schema.partition("/")
    decoder = decoders.get(kind)
    if decoder is None:
        return Outcome.OTHER_KIND if kind.startswith("barograph.") and version else Outcome.DOCUMENT
    if not version.startswith(_MAJOR):
        return Outcome.VERSION
    try:
        return decoder.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Outcome.DOCUMENT
