"""The format of the ledger's file, `{"format": 1, "owed": [...]}`. Pure.

msgspec checks the shape. The JSON of a value is left to `json`: a path that is not UTF-8 has lone surrogates,
which msgspec's JSON refuses. `json` indents slowly, and what it makes for that is garbage in cycles, so the
text is composed here. One change writes all entries, so their texts are cached.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from agent.core.address import parse_address
from agent.core.ownership import IntervalChange
from agent.core.reading import SocketMark

FILE_NAME = "owed.json"
FORMAT = 1


class _Header(msgspec.Struct):
    format: Any = None


class _Entry(msgspec.Struct):
    path: str
    mark: SocketMark
    balloon_path: str
    interval_before_s: int
    interval_set_s: int
    set_at_ms: int


class _File(msgspec.Struct):
    format: int
    owed: list[_Entry]


_TEXTS_MAX = 4096  # of a few hundred bytes each


class NotOurFormat(Exception):
    """The content is not a ledger that this version can read. The message says why."""


class NewerFormat(NotOurFormat):
    """The content was written by a newer version."""


def encode_owed(changes: Sequence[IntervalChange]) -> bytes:
    """Return the file's content."""
    owed = f"[{','.join(map(_entry_text, changes))}\n ]" if changes else "[]"
    return f"{_object_text({'format': str(FORMAT), 'owed': owed}, depth=0)}\n".encode()


@lru_cache(_TEXTS_MAX)
def _entry_text(change: IntervalChange) -> str:
    mark = change.mark
    members = {
        "path": json.dumps(str(change.address)),
        "mark": _object_text(
            {"device": str(mark.device), "inode": str(mark.inode), "mtime_ns": str(mark.mtime_ns)}, depth=3
        ),
        "balloon_path": json.dumps(change.balloon_path),
        "interval_before_s": str(change.interval_before_s),
        "interval_set_s": str(change.interval_set_s),
        "set_at_ms": str(change.set_at_ms),
    }
    return f"\n  {_object_text(members, depth=2)}"


def _object_text(members: Mapping[str, str], depth: int) -> str:
    """Return an object as `json.dumps` indents it by 1; `depth` is the indentation of its last line."""
    line = "\n" + " " * depth
    return "{" + ",".join([f'{line} "{name}": {text}' for name, text in members.items()]) + line + "}"


def decode_owed(content: bytes) -> tuple[IntervalChange, ...]:
    """Return the entries of the file. Unknown fields are ignored.

    Raises:
        NewerFormat: of a newer version.
        NotOurFormat: truncated, edited by hand, or something else.
    """
    try:
        document: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotOurFormat("not JSON") from error
    try:
        found: object = msgspec.convert(document, _Header).format
        if type(found) is int and found > FORMAT:
            raise NewerFormat(f"format {found} is newer; this version reads format {FORMAT}")
        if found != FORMAT:
            raise NotOurFormat(f"format {found!r:.40} is not supported; this version reads format {FORMAT}")
        entries = msgspec.convert(document, _File).owed
    except msgspec.ValidationError as error:
        raise NotOurFormat(f"not a ledger: {error}") from error
    return tuple(
        IntervalChange(
            address=parse_address(each.path),
            mark=each.mark,
            balloon_path=each.balloon_path,
            interval_before_s=each.interval_before_s,
            interval_set_s=each.interval_set_s,
            set_at_ms=each.set_at_ms,
        )
        for each in entries
    )
