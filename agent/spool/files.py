"""The files of the spool: the mark beside it, its identity, and what becomes of an unusable one."""

import os
from pathlib import Path

from agent.spool.set_aside import name_aside
from agent.spool.tables import logs_of, translated


def mark_current(path: Path) -> None:
    """Mark the spool at `path` as current: its memory of VMs covers everything that was sent of them.

    The mark is a file beside the spool, so that it can be removed on a full disk.

    Raises:
        SpoolError: the mark cannot be set.
    """
    with translated(path):
        os.close(os.open(_mark(path), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def mark_stale(path: Path) -> None:
    """Remove the mark: records are about to be sent that the spool does not know of.

    Raises:
        SpoolError: the mark cannot be removed.
    """
    with translated(path):
        _mark(path).unlink(missing_ok=True)


def is_current(path: Path) -> bool:
    """Return whether the memory of VMs in the spool at `path` can be used."""
    return _mark(path).exists()


def set_aside(path: Path, now_ms: int) -> Path:
    """Rename an unusable spool together with its write-ahead log, and return its new path.

    Args:
        path: the spool.
        now_ms: Unix milliseconds; part of the new name.

    Raises:
        SpoolError: the file cannot be renamed.
    """
    with translated(path):
        aside = name_aside(path, now_ms)
        path.rename(aside)
        for log, log_aside in zip(logs_of(path), logs_of(aside), strict=True):
            if log.exists():
                log.rename(log_aside)
    return aside


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.vouched")


def file_id(path: Path) -> tuple[int, int] | None:
    """Return what identifies the file at `path`; `None`: there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def unlink_with_logs(path: Path) -> None:
    """Delete the spool at `path` with its write-ahead log."""
    for each in (path, *logs_of(path)):
        each.unlink(missing_ok=True)
