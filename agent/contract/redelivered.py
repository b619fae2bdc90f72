"""Marks a record that was refused and is sent again by hand, with `redelivered`.

The mark is in two places. The document has the field `redelivered`, which is always true: a reader that sees
only values finds it in both modes. The CloudEvent has an extension attribute (spec.md, "Extension Context
Attributes"), a String that is always "true": in binary mode the header `ce_redelivered`, in structured mode a
part of the value, like the other attributes. Such a record follows records with a higher `sequence`: the only
exception to the order.
"""

from dataclasses import replace

import msgspec

from agent.contract.headers import decode_headers, encode_headers
from agent.core.reading import Record

_NAME = "redelivered"
_HEADER = f"ce_{_NAME}"
_TRUE = "true"

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])  # each value stays the same, byte for byte


def redelivered(record: Record) -> Record:
    """Return the record with the mark. Nothing else changes, and the id stays the same.

    Raises:
        ValueError: its value is not a JSON object or, in structured mode, not an event with such a `data`.
    """
    if is_redelivered(record):
        return record
    if not _is_structured(record):
        headers = [*decode_headers(record.headers), (_HEADER, _TRUE.encode())]
        return replace(record, headers=encode_headers(headers), value=_marked(record.value))
    event: dict[str, object] = dict(_object.decode(record.value))
    data = event.get("data")
    if not isinstance(data, msgspec.Raw):
        raise ValueError("the event has no data")
    event |= {_NAME: _TRUE, "data": msgspec.Raw(_marked(bytes(data)))}
    return replace(record, value=msgspec.json.encode(event))


def is_redelivered(record: Record) -> bool:
    """Whether the record has the mark.

    Raises:
        ValueError: it is in structured mode, and its value is not a JSON object.
    """
    if _is_structured(record):
        return _NAME in _object.decode(record.value)
    return any(name == _HEADER for name, _ in decode_headers(record.headers))


def _marked(document: bytes) -> bytes:
    fields: dict[str, object] = dict(_object.decode(document))
    return msgspec.json.encode(fields | {_NAME: True})


def _is_structured(record: Record) -> bool:
    return any(
        name == "content-type" and value.startswith(b"application/cloudevents+json")
        for name, value in decode_headers(record.headers)
    )
