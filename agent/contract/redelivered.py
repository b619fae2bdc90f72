"""The mark of a record that was refused once and is sent again by hand: the attribute `redelivered`.

A CloudEvents extension attribute (spec.md, "Extension Context Attributes"), a String that is always "true".
In binary mode it is the header `ce_redelivered`; in structured mode it stands in the value, beside the
other attributes. Such a record comes after ones with a higher `sequence`: the one exception to order.
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
    """Return the record with the mark, and nothing else changed; its id stays.

    Raises:
        ValueError: it is in structured mode, and its value is no JSON object.
    """
    if is_redelivered(record):
        return record
    if not _is_structured(record):
        headers = decode_headers(record.headers)
        return replace(record, headers=encode_headers([*headers, (_HEADER, _TRUE.encode())]))
    attributes: dict[str, object] = dict(_envelope.decode(record.value))  # each value byte for byte as it was
    return replace(record, value=msgspec.json.encode(attributes | {_ATTRIBUTE: _TRUE}))


def is_redelivered(record: Record) -> bool:
    """Whether the record has the mark.

    Raises:
        ValueError: it is in structured mode, and its value is no JSON object.
    """
    if _is_structured(record):
        return _ATTRIBUTE in _envelope.decode(record.value)
    return any(name == _HEADER for name, _ in decode_headers(record.headers))


def _is_structured(record: Record) -> bool:
    return any(
        name == "content-type" and value.startswith(b"application/cloudevents+json")
        for name, value in decode_headers(record.headers)
    )
