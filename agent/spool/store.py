"""The spool's file: SQLite, one connection, one thread at a time. Blocks; agent/spool/disk.py has the thread.

Constraints (each has a test of the same name in tests/unit/spool/test_store.py):

- after a kill, a commit is in the file completely or not at all;
- records come out of a queue in the order they went in;
- a record stays until it is settled, and a store opened again returns it again;
- a refused record moves to the dead letters with the commit that settles it;
- when the file is full memory records are dropped first, then samples, dead letters, logs, states;
- what is being sent is never dropped;
- records older than the bound are dropped, dead letters are not;
- the totals match the rows;
- a file of a newer format, of another program, or damaged is recognized and left unchanged;
- a deleted file is noticed, and written again with everything that was in it;
- the remembered VMs are bounded, and the least recently written are forgotten first.

With `synchronous=FULL` in WAL mode a commit is on disk when it returns: a kill of the agent loses nothing of
it, nor does a power cut, as far as the disk really flushes when told to. What was not committed is missing as
a whole (sqlite.org/pragma.html#pragma_synchronous).
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from errno import EISDIR
from pathlib import Path
from secrets import token_hex

from agent.core.memory import Memory
from agent.core.reading import Record, RecordKind
from agent.errors import SpoolError, SpoolFault
from agent.spool.format import (
    Undecodable,
    decode_memory,
    decode_record,
    encode_memory,
    encode_record,
)
from agent.spool.record_queue import DeadLetter
from agent.spool.set_aside import name_aside
from agent.spool.state_directory import create_private_file
from agent.spool.tables import connect, logs_of, pragma, translated

VMS_REMEMBERED = 10_000
"""Far more than one host can run."""

_DROPPED_AT_ONCE = 500
_VACUUMED_AT_ONCE_PAGES = 512
_BACKLOG_ROWS = 1_000
_SPARE_PAGES = 2_048
"""Free pages that stay in the file for later records: 8 MiB."""


class Queue(StrEnum):
    """The queues, each delivered in order. The values are the names of the tables."""

    SAMPLES = "samples"
    STATES = "states"
    MEMORY = "memory"
    LOGS = "logs"  # changes of state, for OTLP

    @property
    def kinds(self) -> frozenset[RecordKind]:
        """The kinds of records in it."""
        return frozenset(kind for kind, queue in _QUEUES.items() if queue is self)

    @property
    def sink(self) -> str:
        """The name of the sink that it feeds."""
        return f"otlp.{self}" if self is Queue.LOGS else f"kafka.{self}"

    @staticmethod
    def of(record: Record) -> "Queue":
        """Return the queue a record belongs to."""
        return _QUEUES[record.kind]


_QUEUES: Mapping[RecordKind, Queue] = {
    RecordKind.SAMPLE: Queue.SAMPLES,
    RecordKind.VM_STATE: Queue.STATES,
    RecordKind.AGENT_STATE: Queue.STATES,
    RecordKind.VM_MEMORY: Queue.MEMORY,
    RecordKind.HOST_MEMORY: Queue.MEMORY,
    RecordKind.LOG: Queue.LOGS,
}


class Loss(StrEnum):
    """Why the spool dropped a record."""

    FULL = "full"  # the file has reached its bound
    EXPIRED = "expired"  # older than the bound


DEAD_LETTERS = "dead_letters"
DROPPED_FIRST: Sequence[str] = (Queue.MEMORY, Queue.SAMPLES, DEAD_LETTERS, Queue.LOGS, Queue.STATES)
"""The tables in the order in which they lose records for lack of room.

The next memory record replaces a lost one; a lost sample is a gap; a lost state misleads until its heartbeat.
"""

Dropped = Mapping[tuple[str, Loss], int]
"""How many records were dropped, by table and reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much the spool keeps."""

    size_bytes: int = 1 << 30
    age_ms: int = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one commit writes. Positions grow within a queue, from commit to commit."""

    now_ms: int
    records: Sequence[tuple[int, Record]] = ()
    memories: Sequence[Memory] = ()
    settled: Mapping[Queue, int] = field(default_factory=dict[Queue, int])  # up to here, inclusive
    refused: Sequence[DeadLetter] = ()
    sending: Mapping[Queue, int] = field(default_factory=dict[Queue, int])  # in flight up to here


@dataclass(frozen=True, slots=True)
class Totals:
    """What is in the file after a commit."""

    rows: Mapping[str, int]  # by table: each queue's, and the dead letters
    used_bytes: int  # of the pages in use; the write-ahead log comes on top
    dropped: Dropped = field(default_factory=dict[tuple[str, Loss], int])  # by this commit
    rescued: bool = False  # the file had been deleted and was written again


class Store:
    """One open spool. Made by `open_store`; used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path, bounds: Bounds) -> None:
        self.path = path
        self._connection = connection
        self._bounds = bounds
        self._file_id = _file_id(path)
        self._rows = Counter(dict(connection.execute("SELECT name, total FROM totals")))

    def close(self) -> None:
        """Write the log into the file and close it."""
        with translated(self.path):
            self._connection.close()

    def totals(self) -> Totals:
        """Return the totals of the file."""
        with translated(self.path):
            return Totals(dict(self._rows), self._used_bytes())

    def memories(self) -> tuple[dict[str, Memory], list[str]]:
        """Return the memories by path, least recently written first, and the problems of unreadable ones."""
        found: dict[str, Memory] = {}
        problems: list[str] = []
        with translated(self.path):
            rows: Iterator[tuple[str, bytes]] = self._connection.execute(
                "SELECT path, memory FROM vms ORDER BY touched_ms"
            )
            for path, content in rows:
                try:
                    found[path] = decode_memory(content)
                except Undecodable as error:
                    problems.append(f"{path}: {error}")
        return found, problems

    def forget_memories(self) -> None:
        """Forget every VM."""
        with translated(self.path):
            self._connection.execute("DELETE FROM vms")

    def last_position(self, queue: Queue) -> int:
        """Return the position of the newest record of a queue; 0 if it is empty."""
        with translated(self.path):
            row: tuple[int | None] = self._connection.execute(f"SELECT max(position) FROM {queue}").fetchone()
            return row[0] or 0

    def read(
        self, queue: Queue, *, after: int, records_max: int, size_bytes_max: int
    ) -> list[tuple[int, Record]]:
        """Return the oldest records after the position `after`, at least one if there is any.

        Raises:
            SpoolError: they cannot be read.
        """
        batch: list[tuple[int, Record]] = []
        size_bytes = 0
        with translated(self.path):
            rows = self._connection.execute(
                f"SELECT * FROM {queue} WHERE position > ? ORDER BY position LIMIT ?", (after, records_max)
            )
            try:
                for row in rows:
                    record = decode_record(row[1:])
                    size_bytes += record.size_bytes
                    if batch and size_bytes > size_bytes_max:
                        break
                    batch.append((row[0], record))
            except Undecodable as error:
                raise SpoolError(str(self.path), SpoolFault.DAMAGED, str(error)) from error
            rows.close()
        return batch

    # --- writing ---

    def commit(self, change: Change) -> Totals:
        """Write all of `change` to disk.

        Raises:
            SpoolError: nothing of it was written.
        """
        rows_before = self._rows.copy()
        with translated(self.path):
            rescued = self._rescue()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                dropped = self._apply(change)
                self._connection.execute("COMMIT")
            except BaseException:
                self._rows = rows_before
                if self._connection.in_transaction:  # some errors end it by themselves
                    self._connection.execute("ROLLBACK")
                raise
            self._shrink()
            return Totals(dict(self._rows), self._used_bytes(), dropped, rescued)

    def _apply(self, change: Change) -> Dropped:
        for queue, position in change.settled.items():
            self._delete(queue, "position <= ?", position)
        self._insert(DEAD_LETTERS, [_dead_letter_row(each) for each in change.refused])
        for queue in Queue:
            mine = [(at, *encode_record(each)) for at, each in change.records if Queue.of(each) is queue]
            self._insert(queue, mine)
        self._remember(change)
        dropped = Counter[tuple[str, Loss]]()
        self._drop_expired(change, dropped)
        self._drop_oldest(change, dropped)
        self._connection.executemany(
            "UPDATE totals SET total = ? WHERE name = ?",
            [(total, name) for name, total in self._rows.items()],
        )
        return {what: count for what, count in dropped.items() if count}

    def _remember(self, change: Change) -> None:
        if not change.memories:
            return
        self._connection.executemany(
            "INSERT INTO vms VALUES (?, ?, ?) ON CONFLICT (path) DO UPDATE "
            "SET touched_ms = excluded.touched_ms, memory = excluded.memory",
            [(each.path, change.now_ms, encode_memory(each)) for each in change.memories],
        )
        self._connection.execute(
            "DELETE FROM vms WHERE path IN (SELECT path FROM vms ORDER BY touched_ms DESC LIMIT -1 OFFSET ?)",
            (VMS_REMEMBERED,),
        )

    def _drop_expired(self, change: Change, dropped: Counter[tuple[str, Loss]]) -> None:
        for queue in Queue:
            # From the oldest to the first one young enough; those after it are not read.
            dropped[queue, Loss.EXPIRED] += self._delete(
                queue,
                f"position > ? AND position < coalesce((SELECT position FROM {queue} "
                "WHERE position > ? AND timestamp_ms >= ? ORDER BY position LIMIT 1), 9e18)",
                *(change.sending.get(queue, 0), change.sending.get(queue, 0)),
                change.now_ms - self._bounds.age_ms,
            )

    def _drop_oldest(self, change: Change, dropped: Counter[tuple[str, Loss]]) -> None:
        for table in DROPPED_FIRST:
            sending = change.sending.get(table, 0) if isinstance(table, Queue) else 0
            while self._used_bytes() > self._bounds.size_bytes:
                gone = self._delete(
                    table,
                    f"position IN (SELECT position FROM {table} WHERE position > ? "
                    f"ORDER BY position LIMIT {_DROPPED_AT_ONCE})",
                    sending,
                )
                if not gone:
                    break
                dropped[table, Loss.FULL] += gone

    def _insert(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            places = ", ".join("?" * len(rows[0]))
            self._connection.executemany(f"INSERT INTO {table} VALUES ({places})", rows)
            self._rows[table] += len(rows)

    def _delete(self, table: str, where: str, *arguments: int) -> int:
        gone = self._connection.execute(f"DELETE FROM {table} WHERE {where}", arguments).rowcount
        self._rows[table] -= gone
        return gone

    def _used_bytes(self) -> int:
        pages = pragma(self._connection, "page_count") - pragma(self._connection, "freelist_count")
        return pages * pragma(self._connection, "page_size")

    def _shrink(self) -> None:
        """Return the pages of a delivered backlog to the file system, some with each commit."""
        if self._rows.total() > _BACKLOG_ROWS:
            return
        if pragma(self._connection, "freelist_count") > _SPARE_PAGES:
            # The pragma frees a page at each step, and only `executescript` steps it to its end.
            self._connection.executescript(f"PRAGMA incremental_vacuum({_VACUUMED_AT_ONCE_PAGES})")

    # --- a deleted file ---

    def _rescue(self) -> bool:
        """Write everything again if the file at the path is no longer the open one; return whether so."""
        if _file_id(self.path) == self._file_id:
            return False
        if self.path.is_dir():  # anything else can be replaced
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        fresh = self.path.with_name(f".{self.path.name}.{token_hex(8)}.new")
        create_private_file(fresh)
        target = sqlite3.connect(fresh)
        try:
            self._connection.backup(target)
        finally:
            target.close()
        # Closing removes the log by name: it must still be ours, and the new file must find none.
        self._connection.close()
        _unlink_with_logs(self.path)
        os.replace(fresh, self.path)
        self._connection = connect(self.path)
        self._file_id = _file_id(self.path)
        return True


def open_store(path: Path, bounds: Bounds) -> Store:
    """Open the spool at `path`; create it if it is missing.

    Raises:
        SpoolError: the file cannot be used; one of another program, of a newer agent or damaged is unchanged.
    """
    connection = connect(path)
    try:
        with translated(path):
            for unfinished in path.parent.glob(f".{path.name}.*new*"):  # by a process that was killed
                unfinished.unlink(missing_ok=True)
            return Store(connection, path, bounds)
    except BaseException:
        connection.close()
        raise


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


def _dead_letter_row(letter: DeadLetter) -> tuple[object, ...]:
    return (None, *encode_record(letter.record), letter.reason, letter.detail, letter.refused_at_ms)


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.vouched")


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _unlink_with_logs(path: Path) -> None:
    for each in (path, *logs_of(path)):
        each.unlink(missing_ok=True)
