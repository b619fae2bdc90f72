"""The spool's tables, how a file comes to have them, and how SQLite's errors are told apart."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import SpoolError, SpoolFault
from agent.spool.format import APPLICATION_ID, FORMAT

_RECORD = """position INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, key TEXT NOT NULL,
  timestamp_ms INTEGER NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL"""

_TABLES = f"""
CREATE TABLE samples ({_RECORD}) STRICT;
CREATE TABLE states ({_RECORD}) STRICT;
CREATE TABLE dead_letters ({_RECORD.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT")},
  reason TEXT NOT NULL, detail TEXT NOT NULL, refused_at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE vms (path TEXT PRIMARY KEY, touched_ms INTEGER NOT NULL, memory BLOB NOT NULL) STRICT;
CREATE INDEX vms_touched ON vms (touched_ms);
CREATE TABLE totals (name TEXT PRIMARY KEY, total INTEGER NOT NULL) STRICT;
INSERT INTO totals VALUES ('samples', 0), ('states', 0), ('dead_letters', 0);
"""

_MIGRATIONS: dict[int, str] = {}
"""From format N, the statements that make it N + 1. One entry for each released format but the newest."""

_BUSY_TIMEOUT_S = 1.0
_WAL_KEPT_BYTES = 16 * 1024 * 1024

_FAULTS = {
    sqlite3.SQLITE_FULL: SpoolFault.FULL,
    sqlite3.SQLITE_CORRUPT: SpoolFault.DAMAGED,
    sqlite3.SQLITE_NOTADB: SpoolFault.DAMAGED,
}


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Let what SQLite and the file system raise out as `SpoolError`."""
    try:
        yield
    except sqlite3.Error as error:
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without its details
        name: str = getattr(error, "sqlite_errorname", type(error).__name__)
        fault = _FAULTS.get(code, SpoolFault.UNUSABLE)
        raise SpoolError(str(path), fault, f"{error} ({name})") from error
    except OSError as error:
        raise SpoolError(str(path), SpoolFault.UNUSABLE, error.strerror or str(error)) from error


def connect(path: Path) -> sqlite3.Connection:
    """Open the spool at `path`, made where it is missing and brought to the present format.

    Raises:
        SpoolError: it cannot be had. A file that is not ours, or a newer agent's, is as it was.
    """
    with translated(path):
        connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open the spool at `path` to look at it, also while an agent uses it.

    Such a connection neither writes nor checkpoints, so it cannot meet the one fault of SQLite's logs that
    takes a second connection (sqlite.org/wal.html#walresetbug).

    Raises:
        SpoolError: it cannot be had, or is not of the present format.
    """
    with translated(path):
        if not path.is_file():
            raise SpoolError(str(path), SpoolFault.UNUSABLE, "there is no spool here")
        # SQLite makes a log beside a file even to read it. Where it cannot and there is none, nobody writes.
        can_make_one = os.access(path.parent, os.W_OK, effective_ids=True)
        is_still = not can_make_one and not logs_of(path)[0].exists()
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if is_still else ''}",
            uri=True,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
        )
        try:
            found = check_ours(connection, path)
        except BaseException:
            connection.close()
            raise
        if found != FORMAT:
            connection.close()
            raise SpoolError(str(path), SpoolFault.UNUSABLE, f"has the format {found}: start the agent once")
        return connection


def logs_of(path: Path) -> tuple[Path, Path]:
    """Return the paths of the write-ahead log of a database and of the log's index."""
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that SQLite keeps of the file."""
    row: tuple[int] = connection.execute(f"PRAGMA {name}").fetchone()
    return row[0]


def check_ours(connection: sqlite3.Connection, path: Path) -> int:
    """Return the file's format; 0: it is empty.

    Raises:
        SpoolError: it is something else's, or newer.
    """
    application, found = pragma(connection, "application_id"), pragma(connection, "user_version")
    tables: tuple[int] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or found or tables[0]):
        raise SpoolError(str(path), SpoolFault.FOREIGN, "is a database of something else")
    if found > FORMAT:
        raise SpoolError(
            str(path), SpoolFault.NEWER, f"has the format {found}, and this version reads up to {FORMAT}"
        )
    return found


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    found = check_ours(connection, path)
    if not found:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in (
        "synchronous = FULL",
        f"journal_size_limit = {_WAL_KEPT_BYTES}",
        "temp_store = MEMORY",
        # Debian's SQLite fills what is deleted with zeros: twice the writing, for what is no secret.
        "secure_delete = OFF",
        "trusted_schema = OFF",
        "cell_size_check = ON",
    ):
        connection.execute(f"PRAGMA {statement}")
    steps = [_MIGRATIONS[number] for number in range(found, FORMAT)] if found else [_TABLES]
    if found != FORMAT:
        script = "".join(steps)
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; {script}"
            f"PRAGMA user_version = {FORMAT}; COMMIT"
        )
