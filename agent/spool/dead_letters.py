"""Records that their sink refused for good, for people: what they are, and sending or dropping them by hand.

Constraints (each has a test of the same name in tests/unit/spool/test_dead_letters.py):

- they are listed the newest first, also while an agent uses the spool;
- requeued ones go to the end of their queues, in the order they were refused, marked as redelivered;
- a requeued one is not dropped at once for its age;
- either all that are named are requeued or dropped, or none;
- nothing is changed while an agent has the state directory, nor can one start meanwhile.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent.contract.redelivered import redelivered
from agent.core.reading import Record
from agent.errors import SpoolError, SpoolFault
from agent.spool.directory_lock import kept_out
from agent.spool.format import RecordRow, Undecodable, decode_checked_record, encode_record
from agent.spool.store import DEAD_LETTERS, Queue
from agent.spool.tables import connect, connect_read_only, translated

_PAGE_ROWS = 20
_COLUMNS = "kind, id, key, timestamp_ms, headers, value"


class NotDone(Exception):
    """It cannot be done with these dead letters, and nothing was changed. The message says why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter as it lies there."""

    number: int  # never used twice in one file
    refused_at_ms: int
    reason: str
    detail: str
    id: str
    key: str
    record: Record | None  # None: it cannot be read any more, and `problem` says why
    problem: str = ""


def dead_letters(path: Path) -> Iterator[Letter]:
    """Yield them, the newest first. Holds nothing back between two of them, however slowly they are read.

    Raises:
        SpoolError: there is no spool, or it cannot be read.
    """
    below = 1 << 62
    with closing(connect_read_only(path)) as connection:
        while page := _page(connection, path, below):
            yield from page
            below = page[-1].number


def requeue(path: Path, numbers: Collection[int] | None, *, now_ms: int, age_ms: int) -> Mapping[Queue, int]:
    """Put dead letters back into their queues, and return how many went where.

    Args:
        path: the spool.
        numbers: which ones; `None`: all.
        now_ms: the wall clock; given as their time to those older than `age_ms`, which would be dropped at
            once. Their values keep the times they have.
        age_ms: how old a record of the spool may be.

    Raises:
        NotDone: a number is not there, or one of them cannot be read.
        SpoolError, StateFileError: the spool cannot be had, or an agent has it. Nothing was changed.
    """
    counts: Counter[Queue] = Counter()
    with _changing(path) as connection:
        for number in _present(connection, numbers):
            record = _revived(connection, number)
            if record.timestamp_ms < now_ms - age_ms:
                record = replace(record, timestamp_ms=now_ms)
            queue = Queue.of(record)
            connection.execute(
                f"INSERT INTO {queue} ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", encode_record(record)
            )
            _delete(connection, number)
            connection.execute("UPDATE totals SET total = total + 1 WHERE name = ?", (queue,))
            counts[queue] += 1
    return counts


def drop(path: Path, numbers: Collection[int] | None) -> int:
    """Delete dead letters, and return how many.

    Args:
        path: the spool.
        numbers: which ones; `None`: all.

    Raises:
        NotDone: a number is not there.
        SpoolError, StateFileError: the spool cannot be had, or an agent has it. Nothing was changed.
    """
    with _changing(path) as connection:
        present = _present(connection, numbers)
        for number in present:
            _delete(connection, number)
    return len(present)


@contextmanager
def _changing(path: Path) -> Generator[sqlite3.Connection]:
    """One transaction, while no agent can start."""
    real = path.resolve()  # a link to an agent's file is the agent's file
    if not real.is_file():  # else it would be made
        raise SpoolError(str(path), SpoolFault.UNUSABLE, "there is no spool here")
    with kept_out(real.parent), closing(connect(real)) as connection, translated(real):
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")  # closing without it takes everything back


def _present(connection: sqlite3.Connection, numbers: Collection[int] | None) -> Sequence[int]:
    """Return the numbers asked for, in order."""
    rows: list[tuple[int]] = connection.execute(
        f"SELECT position FROM {DEAD_LETTERS} ORDER BY position"
    ).fetchall()
    there = [number for (number,) in rows]
    if numbers is None:
        return there
    missing = sorted(set(numbers).difference(there))
    if missing:
        raise NotDone(f"no dead letter {', '.join(map(str, missing))}")
    return sorted(set(numbers))


def _revived(connection: sqlite3.Connection, number: int) -> Record:
    row: RecordRow = connection.execute(
        f"SELECT {_COLUMNS} FROM {DEAD_LETTERS} WHERE position = ?", (number,)
    ).fetchone()
    try:
        return redelivered(decode_checked_record(row))
    except (Undecodable, ValueError) as error:
        raise NotDone(f"dead letter {number} cannot be read: {error}: drop it, or leave it") from error


def _delete(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(f"DELETE FROM {DEAD_LETTERS} WHERE position = ?", (number,))
    connection.execute("UPDATE totals SET total = total - 1 WHERE name = ?", (DEAD_LETTERS,))


def _page(connection: sqlite3.Connection, path: Path, below: int) -> Sequence[Letter]:
    with translated(path):
        rows: list[tuple[int, int, str, str, str, str, str, int, bytes, bytes]] = connection.execute(
            f"SELECT position, refused_at_ms, reason, detail, {_COLUMNS} FROM {DEAD_LETTERS} "
            "WHERE position < ? ORDER BY position DESC LIMIT ?",
            (below, _PAGE_ROWS),
        ).fetchall()
    return [_letter(row[:4], row[4:]) for row in rows]


def _letter(refusal: tuple[int, int, str, str], row: RecordRow) -> Letter:
    _, id, key, *_ = row
    try:
        return Letter(*refusal, id, key, decode_checked_record(row))
    except Undecodable as error:
        return Letter(*refusal, id, key, None, str(error))
