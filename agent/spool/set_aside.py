"""The names of files that cannot be used and are kept for people to look into."""

from datetime import UTC, datetime
from pathlib import Path


def name_aside(path: Path, now_ms: int) -> Path:
    """Return an unused name for the file at `path`: `NAME.TIME.bad`, or `NAME.TIME.2.bad` and so on.

    The caller holds the lock of the directory, so the name stays unused until the caller renames the file.

    Args:
        path: the file to rename.
        now_ms: Unix milliseconds; the name gives them in UTC, to the second.
    """
    moment = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.{moment}.bad")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{moment}.{number}.bad")
    return aside
