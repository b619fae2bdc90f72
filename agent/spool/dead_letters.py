"""Dead letters: list the records that the sink refused for good, requeue or drop them.

Constraints (each has a test of the same name in tests/unit/spool/test_dead_letters.py):

- they are listed newest first, even while an agent uses the spool;
- requeued ones go to the end of their queues, in the order they were refused, marked as redelivered;
- a requeued one is not dropped immediately because of its age;
- either all named ones are requeued or dropped, or none;
- nothing is changed while an agent uses the state directory, and none can start meanwhile.
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
from agent.spool.format import RecordRow, Undecodable, decode_checked_record
from agent.spool.queue_table import QueueTable, span_of
from agent.spool.queues import DEAD_LETTERS, Queue
from agent.spool.tables import connect, connect_read_only, translated

_PAGE_ROWS = 20
_COLUMNS = "kind, id, key, timestamp_ms, headers, value"


class NotDone(Exception):
    """The dead letters cannot be requeued or dropped; nothing was changed. The message says why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter in the spool."""

    number: int  # unique within the file, never reused
    refused_at_ms: int
    reason: str
    detail: str
    id: str
    key: str
    record: Record | None  # None: unreadable; `problem` says why
    problem: str = ""


def dead_letters(path: Path) -> Iterator[Letter]:
    """Yield the dead letters, newest first. A slow reader does not hold back the agent's log.

    Raises:
        SpoolError: there is no spool, or it cannot be read.
    """
    below = 1 << 62
    with closing(connect_read_only(path)) as connection:
        while page := _page(connection, path, below):
            yield from page
            below = page[-1].number


def requeue(path: Path, numbers: Collection[int] | None, *, now_ms: int, age_ms: int) -> Mapping[Queue, int]:
    """Move dead letters back to the end of their queues, and return how many went to each.

    Args:
        path: the spool.
        numbers: which ones; `None`: all.
        now_ms: the wall clock; becomes the timestamp of records older than `age_ms`, which would be dropped
            immediately otherwise. The times in their values stay.
        age_ms: how old a record in the spool may be.

    Raises:
        NotDone: there is no dead letter of a number, or one is unreadable.
        SpoolError, StateFileError: the spool is unusable, or an agent uses it. Nothing was changed.
    """
    counts: Counter[Queue] = Counter()
    with _changing(path) as connection:
        tables = {queue: QueueTable.of(connection, queue, span_of(age_ms)) for queue in Queue}
        for number in _present(connection, numbers):
            record = _revived(connection, number)
            if record.timestamp_ms < now_ms - age_ms:
                record = replace(record, timestamp_ms=now_ms)
            queue = Queue.of(record)
            position = tables[queue].last_position(connection) + 1
            tables[queue].append(connection, [(position, record)])
            tables[queue].save(connection)
            _delete(connection, number)
            counts[queue] += 1
    return counts


def drop(path: Path, numbers: Collection[int] | None) -> int:
    """Delete dead letters, and return how many.

    Args:
        path: the spool.
        numbers: which ones; `None`: all.

    Raises:
        NotDone: there is no dead letter of a number.
        SpoolError, StateFileError: the spool is unusable, or an agent uses it. Nothing was changed.
    """
    with _changing(path) as connection:
        present = _present(connection, numbers)
        for number in present:
            _delete(connection, number)
    return len(present)


@contextmanager
def _changing(path: Path) -> Generator[sqlite3.Connection]:
    """Give a connection for one transaction, during which no agent can start."""
    real = path.resolve()  # through a link it may be an agent's file
    if not real.is_file():  # `connect` would create it
        detail = "no spool at this path; use --state-directory or --file"
        raise SpoolError(str(path), SpoolFault.UNUSABLE, detail)
    with kept_out(real.parent), closing(connect(real)) as connection, translated(real):
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")  # without it, closing rolls back


def _present(connection: sqlite3.Connection, numbers: Collection[int] | None) -> Sequence[int]:
    """Return the numbers asked for, in order; all if `None`."""
    rows: list[tuple[int]] = connection.execute(
        f"SELECT position FROM {DEAD_LETTERS} ORDER BY position"
    ).fetchall()
    there = [number for (number,) in rows]
    if numbers is None:
        return there
    missing = sorted(set(numbers).difference(there))
    if missing:
        numbers_missing = ", ".join(map(str, missing))
        raise NotDone(f"no dead letter has the number {numbers_missing}; see dead-letters list")
    return sorted(set(numbers))


def _revived(connection: sqlite3.Connection, number: int) -> Record:
    row: RecordRow = connection.execute(
        f"SELECT {_COLUMNS} FROM {DEAD_LETTERS} WHERE position = ?", (number,)
    ).fetchone()
    try:
        return redelivered(decode_checked_record(row))
    except (Undecodable, ValueError) as error:
        raise NotDone(f"dead letter {number} cannot be read: {error}; drop it or leave it") from error


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
