"""Checks whether a newer schema is compatible with an older one of the same major version.

jsoncompat compares the open variants as `serializer` (readers of the older version accept whatever is emitted
now) and the closed ones as `deserializer` (readers of the newer version accept whatever was emitted before).
Together they accept an added optional field and refuse what breaks readers.

jsoncompat 0.3.1 does not compare patterns or annotations such as `x-unit`, and does not detect a described
name that falls back into an open map: `_walk` does. It does not accept an `$id`, so `_judge` removes it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Literal, cast

import jsoncompat

from tests.contract.schema_files import Schema, opened

KEPT = ("x-unit", "x-kind", "pattern", "propertyNames", "format")
"""What must not change on a field: its unit, its kind, and what jsoncompat does not compare."""


def breakages(older: Schema, newer: Schema) -> list[str]:
    """Return how `newer` would break readers of `older`; nothing if it would not."""
    found = list(_walk("", older, newer))
    if not _judge(opened(older), opened(newer), "serializer"):
        found.append("jsoncompat: readers of the older version do not accept what is emitted now")
    if not _judge(older, newer, "deserializer"):
        found.append("jsoncompat: readers of the newer version do not accept what was emitted before")
    return found


def _judge(
    older: Mapping[str, object], newer: Mapping[str, object], role: Literal["serializer", "deserializer"]
) -> bool:
    texts = [
        json.dumps({name: value for name, value in schema.items() if name != "$id"})
        for schema in (older, newer)
    ]
    return bool(jsoncompat.check_compat(texts[0], texts[1], role))


def _walk(place: str, older: Schema, newer: Schema) -> Iterator[str]:
    for keyword in KEPT:
        if older.get(keyword) != newer.get(keyword):
            yield f"{place or '/'}: {keyword} was {older.get(keyword)!r} and is {newer.get(keyword)!r}"
    documented, still = _object(older, "x-values"), _object(newer, "x-values")
    for value in documented.keys() - still.keys():
        yield f"{place or '/'}: the value {value!r} is no longer documented"
    before, after = _object(older, "properties"), _object(newer, "properties")
    for name, field in before.items():
        if name in after:
            yield from _walk(f"{place}/{name}", cast(Schema, field), cast(Schema, after[name]))
        else:
            yield f"{place}/{name}: gone"
    for keyword in ("items", "additionalProperties"):
        if isinstance(older.get(keyword), dict):
            yield from _walk(f"{place}/{keyword}", _object(older, keyword), _object(newer, keyword))


def _object(schema: Schema, keyword: str) -> Schema:
    value = schema.get(keyword)
    return cast(Schema, value) if isinstance(value, dict) else {}
