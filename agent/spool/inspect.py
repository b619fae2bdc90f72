"""The contents of a spool, for people. Reads a file in use by an agent, or a copy, and changes neither."""

import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.spool.store import DEAD_LETTERS, Queue
from agent.spool.tables import connect_read_only, logs_of, pragma, translated


@dataclass(frozen=True, slots=True)
class Waiting:
    """The records in one queue."""

    records: int
    oldest_ms: int | None  # the time of the next record to send; None: the queue is empty


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of one spool at one instant."""

    format: int
    waiting: Mapping[Queue, Waiting]
    dead_letters: Mapping[str, int]  # by reason
    vms: int  # remembered
    used_bytes: int  # of the pages in use: what is bounded
    file_bytes: int  # with free pages
    log_bytes: int  # of the write-ahead log, in addition


def contents(path: Path) -> Contents:
    """Return the contents of the spool at `path`.

    Raises:
        SpoolError: there is no spool, or it cannot be read.
    """
    with snapshot(path) as connection:
        rows = dict(connection.execute("SELECT name, total FROM totals"))
        by_reason: list[tuple[str, int]] = connection.execute(
            f"SELECT reason, count(*) FROM {DEAD_LETTERS} GROUP BY reason ORDER BY reason"
        ).fetchall()
        vms: tuple[int] = connection.execute("SELECT count(*) FROM vms").fetchone()
        page_bytes, pages = pragma(connection, "page_size"), pragma(connection, "page_count")
        log = logs_of(path)[0]
        return Contents(
            format=pragma(connection, "user_version"),
            waiting={queue: Waiting(rows.get(queue, 0), _oldest_ms(connection, queue)) for queue in Queue},
            dead_letters=dict(by_reason),
            vms=vms[0],
            used_bytes=(pages - pragma(connection, "freelist_count")) * page_bytes,
            file_bytes=path.stat().st_size,
            log_bytes=log.stat().st_size if log.exists() else 0,
        )


@contextmanager
def snapshot(path: Path) -> Generator[sqlite3.Connection]:
    """Give a connection that sees one instant. The agent's log cannot shrink meanwhile, so be quick.

    Raises:
        SpoolError: there is no spool, or it cannot be read.
    """
    connection = connect_read_only(path)
    try:
        with translated(path):
            connection.execute("BEGIN")
            yield connection
    finally:
        connection.close()


def _oldest_ms(connection: sqlite3.Connection, queue: Queue) -> int | None:
    row: tuple[int] | None = connection.execute(
        f"SELECT timestamp_ms FROM {queue} ORDER BY position LIMIT 1"
    ).fetchone()
    return None if row is None else row[0]
