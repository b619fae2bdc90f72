"""The ledger's file: `{"format": 1, "owed": [...]}`. Pure."""

import json
from collections.abc import Sequence
from typing import Any, cast

from agent.core.address import parse_address
from agent.core.ownership import IntervalChange
from agent.core.reading import SocketMark

FILE_NAME = "owed.json"
FORMAT = 1

_MARK = ("device", "inode", "mtime_ns")


class NotOurFormat(Exception):
    """It is not a ledger that this version can read. The message says why."""


def encode_owed(owed: Sequence[IntervalChange]) -> bytes:
    """Return the file's content."""
    document = {"format": FORMAT, "owed": [_document(each) for each in owed]}
    return json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"


def _document(owed: IntervalChange) -> dict[str, object]:
    # By hand: `asdict` copies deep, at ten times the cost.
    return {
        "path": str(owed.address),
        "mark": {name: getattr(owed.mark, name) for name in _MARK},
        "balloon_path": owed.balloon_path,
        "interval_before_s": owed.interval_before_s,
        "interval_set_s": owed.interval_set_s,
        "set_at_ms": owed.set_at_ms,
    }


def decode_owed(content: bytes) -> tuple[IntervalChange, ...]:
    """Return what is owed.

    Raises:
        NotOurFormat: cut off, changed by hand, by a newer version, or something else.
    """
    try:
        document: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotOurFormat("is not JSON") from error
    if not isinstance(document, dict):
        raise NotOurFormat("is not a ledger")
    ledger = cast("dict[str, Any]", document)
    if ledger.get("format") != FORMAT:
        raise NotOurFormat(f"has the format {ledger.get('format')!r:.40}, and this version reads {FORMAT}")
    entries: object = ledger.get("owed")
    if not isinstance(entries, list):
        raise NotOurFormat("has no list of what is owed")
    return tuple(_decode(each) for each in cast("list[object]", entries))


def _decode(entry: object) -> IntervalChange:
    if not isinstance(entry, dict):
        raise NotOurFormat("has an entry that is none")
    fields = cast("dict[str, object]", entry)
    mark: object = fields.get("mark")
    if not isinstance(mark, dict):
        raise NotOurFormat("has an entry without a mark")
    return IntervalChange(
        address=parse_address(_text(fields, "path")),
        mark=SocketMark(*(_number(cast("dict[str, object]", mark), name) for name in _MARK)),
        balloon_path=_text(fields, "balloon_path"),
        interval_before_s=_number(fields, "interval_before_s"),
        interval_set_s=_number(fields, "interval_set_s"),
        set_at_ms=_number(fields, "set_at_ms"),
    )


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise NotOurFormat(f"has an entry whose {name} is not text")
    return value


def _number(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise NotOurFormat(f"has an entry whose {name} is not a whole number")
    return value
