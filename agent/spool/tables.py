"""The tables of the spool, how they are created, and the translation of SQLite's errors."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import SpoolError, SpoolFault
from agent.spool.format import APPLICATION_ID, FORMAT, Undecodable
from agent.spool.state_directory import create_private_file, make_file_private

_BLOCKS = """first INTEGER PRIMARY KEY, last INTEGER NOT NULL, newest_ms INTEGER NOT NULL,
  content BLOB NOT NULL"""

_TABLES = f"""
CREATE TABLE samples ({_BLOCKS}) STRICT;
CREATE TABLE states ({_BLOCKS}) STRICT;
CREATE TABLE memory ({_BLOCKS}) STRICT;
CREATE TABLE logs ({_BLOCKS}) STRICT;
CREATE TABLE dead_letters (position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL,
  key TEXT NOT NULL, timestamp_ms INTEGER NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL,
  reason TEXT NOT NULL, detail TEXT NOT NULL, refused_at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE vms (path TEXT PRIMARY KEY, touched_ms INTEGER NOT NULL, memory BLOB NOT NULL) STRICT;
CREATE TABLE totals (name TEXT PRIMARY KEY, total INTEGER NOT NULL, settled INTEGER NOT NULL) STRICT;
INSERT INTO totals VALUES ('samples', 0, 0), ('states', 0, 0), ('memory', 0, 0), ('logs', 0, 0),
  ('dead_letters', 0, 0);
"""

_BUSY_TIMEOUT_S = 1.0
_WAL_KEPT_BYTES = 16 * 1024 * 1024

_FAULTS = {
    sqlite3.SQLITE_FULL: SpoolFault.FULL,
    sqlite3.SQLITE_CORRUPT: SpoolFault.DAMAGED,
    sqlite3.SQLITE_NOTADB: SpoolFault.DAMAGED,
}


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Raise errors of SQLite and of the file system, and what damage makes of a row, as `SpoolError`."""
    try:
        yield
    except Undecodable as error:
        raise SpoolError(str(path), SpoolFault.DAMAGED, str(error)) from error
    except sqlite3.Error as error:
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the primary code
        name: str = getattr(error, "sqlite_errorname", type(error).__name__)
        fault = _FAULTS.get(code, SpoolFault.UNUSABLE)
        raise SpoolError(str(path), fault, f"{error} ({name})") from error
    except OSError as error:
        raise SpoolError(str(path), SpoolFault.UNUSABLE, error.strerror or str(error)) from error


def connect(path: Path) -> sqlite3.Connection:
    """Open the spool at `path`; create it if it is missing.

    Raises:
        SpoolError: the file cannot be used; one of another program or of another format is unchanged.
    """
    with translated(path):
        for each in (path, *logs_of(path)):
            _refuse_foreign_link(each)
            make_file_private(each)
        create_private_file(path)  # SQLite gives its permissions to the logs, too
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
    """Open the spool at `path` for reading, even while an agent uses it.

    The connection neither writes nor checkpoints, so SQLite's bug with a second connection cannot occur
    (sqlite.org/wal.html#walresetbug).

    Raises:
        SpoolError: the file cannot be used, or is not of the present format.
    """
    with translated(path):
        if not path.is_file():
            detail = "no spool at this path; use --state-directory or --file"
            raise SpoolError(str(path), SpoolFault.UNUSABLE, detail)
        # SQLite creates a log even to read. If it cannot and there is none, the file is not being written.
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
        if not found:
            connection.close()
            raise SpoolError(str(path), SpoolFault.UNUSABLE, "an empty database, not a spool")
        return connection


def _refuse_foreign_link(path: Path) -> None:
    """Refuse a link that another user has made: SQLite would follow it."""
    if path.is_symlink() and path.lstat().st_uid not in (0, os.geteuid()):
        raise SpoolError(str(path), SpoolFault.UNUSABLE, "a link that another user has made; remove it")


def logs_of(path: Path) -> tuple[Path, Path]:
    """Return the paths of the write-ahead log of a database and of the log's index."""
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return the value of a numeric pragma."""
    row: tuple[int] = connection.execute(f"PRAGMA {name}").fetchone()
    return row[0]


def check_ours(connection: sqlite3.Connection, path: Path) -> int:
    """Return the file's format; 0 if the file is empty.

    Raises:
        SpoolError: the file is of another program, or of another format.
    """
    application, found = pragma(connection, "application_id"), pragma(connection, "user_version")
    tables: tuple[int] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or found or tables[0]):
        raise SpoolError(str(path), SpoolFault.FOREIGN, "a database of another program")
    if found > FORMAT:
        detail = f"format {found} is newer; this version reads format {FORMAT}"
        raise SpoolError(str(path), SpoolFault.NEWER, detail)
    if 0 < found < FORMAT:
        detail = f"format {found} is older; this version reads format {FORMAT}"
        raise SpoolError(str(path), SpoolFault.OLDER, detail)
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
        # Debian's SQLite overwrites deleted rows with zeros: twice the writing, and they are not secret.
        "secure_delete = OFF",
        "trusted_schema = OFF",
        "cell_size_check = ON",
    ):
        connection.execute(f"PRAGMA {statement}")
    if not found:
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; {_TABLES}"
            f"PRAGMA user_version = {FORMAT}; COMMIT"
        )
