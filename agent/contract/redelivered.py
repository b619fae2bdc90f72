"""Marks a record that was refused and is sent again by hand, with the attribute `redelivered`.

It is a CloudEvents extension attribute (spec.md, "Extension Context Attributes"), a String that is always
"true". In binary mode it is the header `ce_redelivered`; in structured mode it is part of the value, like the
other attributes. Such a record follows records with a higher `sequence`: the only exception to the order.
"""

from dataclasses import replace

import msgspec

from agent.contract.headers import decode_headers, encode_headers
from agent.core.reading import Record

_ATTRIBUTE = "redelivered"
_HEADER = f"ce_{_ATTRIBUTE}"
_TRUE = "true"

_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw])


def redelivered(record: Record) -> Record:
    """Return the record with the mark. Nothing else changes, and the id stays the same.

    Raises:
        ValueError: it is in structured mode, and its value is not a JSON object.
    """
    if is_redelivered(record):
        return record
    if not _is_structured(record):
        headers = decode_headers(record.headers)
        return replace(record, headers=encode_headers([*headers, (_HEADER, _TRUE.encode())]))
    attributes: dict[str, object] = dict(
        _envelope.decode(record.value)
    )  # each value stays the same, byte for byte
    return replace(record, value=msgspec.json.encode(attributes | {_ATTRIBUTE: _TRUE}))


def is_redelivered(record: Record) -> bool:
    """Whether the record has the mark.

    Raises:
        ValueError: it is in structured mode, and its value is not a JSON object.
    """
    if _is_structured(record):
        return _ATTRIBUTE in _envelope.decode(record.value)
    return any(name == _HEADER for name, _ in decode_headers(record.headers))


def _is_structured(record: Record) -> bool:
    return any(
        name == "content-type" and value.startswith(b"application/cloudevents+json")
        for name, value in decode_headers(record.headers)
    )
