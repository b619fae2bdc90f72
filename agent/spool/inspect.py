"""The contents of a spool, for people. Reads a file in use by an agent, or a copy, and changes neither."""

import sqlite3
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.core.memory import Memory
from agent.core.reading import Record
from agent.spool.block import decode_block
from agent.spool.format import Undecodable, checked, decode_memory
from agent.spool.queue_table import blocks_after
from agent.spool.queues import DEAD_LETTERS, Queue
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


def records_of(connection: sqlite3.Connection, queue: Queue) -> Iterator[tuple[int, Record | Undecodable]]:
    """Yield the records of a queue with their positions; for a damaged block, its first position and why."""
    settled = settled_in(connection, queue)
    for row in blocks_after(connection, queue, settled):
        try:
            for position, record in decode_block(row):
                if position > settled:
                    yield position, record
        except Undecodable as error:
            yield row[0], error


def settled_in(connection: sqlite3.Connection, queue: Queue) -> int:
    """Return the position up to which the records of a queue are settled."""
    rows = checked(connection.execute("SELECT settled, 0 FROM totals WHERE name = ?", (queue,)))
    return rows[0][0] if rows else 0


def read_memories(connection: sqlite3.Connection) -> tuple[dict[str, Memory], list[str]]:
    """Return VMs' memories by path, least recently written first, and the problems of unreadable ones."""
    found: dict[str, Memory] = {}
    problems: list[str] = []
    rows: Iterator[tuple[str, bytes]] = connection.execute("SELECT path, memory FROM vms ORDER BY touched_ms")
    for path, content in rows:
        try:
            found[path] = decode_memory(content)
        except Undecodable as error:
            problems.append(f"{path}: {error}")
    return found, problems


def _oldest_ms(connection: sqlite3.Connection, queue: Queue) -> int | None:
    for _, record in records_of(connection, queue):
        return None if isinstance(record, Undecodable) else record.timestamp_ms
    return None
