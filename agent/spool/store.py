"""The spool's file: SQLite, one connection, one thread at a time. Blocks; agent/spool/disk.py has the thread.

Constraints (each has a test of the same name in tests/unit/spool/test_store.py):

- after a kill, a commit is in the file completely or not at all;
- records come out of a queue in the order they went in;
- a record stays until it is settled, and a store opened again returns it again;
- small commits share a block;
- a refused record moves to the dead letters with the commit that settles it;
- when the file is full memory records are dropped first, then samples, dead letters, logs, states;
- what is being sent is never dropped;
- a block is dropped once its newest record is older than the bound, dead letters are not;
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from errno import EISDIR
from pathlib import Path
from secrets import token_hex

from agent.core.memory import Memory
from agent.core.reading import Record
from agent.spool.block import BLOCK_BYTES, Rows
from agent.spool.files import file_id, unlink_with_logs
from agent.spool.format import checked, encode_memory, encode_record
from agent.spool.inspect import read_memories
from agent.spool.queue_table import QueueTable, span_of
from agent.spool.queues import DEAD_LETTERS, DROPPED_FIRST, Queue
from agent.spool.record_queue import DeadLetter
from agent.spool.state_directory import create_private_file
from agent.spool.tables import connect, pragma, translated

VMS_REMEMBERED = 10_000
"""Far more than one host can run."""

_VMS_AT_ONCE = 100
"""So many more are kept until the oldest are deleted, since finding them takes a pass over all."""

_VACUUMED_AT_ONCE_PAGES = 512
_BACKLOG_RECORDS = 1_000
_SPARE_PAGES = 2_048
"""Free pages that stay in the file for later records: 8 MiB."""


class Loss(StrEnum):
    """Why the spool dropped a record."""

    FULL = "full"  # the file has reached its bound
    EXPIRED = "expired"  # older than the bound


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
    records: Rows = ()
    memories: Sequence[Memory] = ()
    settled: Mapping[Queue, int] = field(default_factory=dict[Queue, int])  # up to here, inclusive
    refused: Sequence[DeadLetter] = ()
    sending: Mapping[Queue, int] = field(default_factory=dict[Queue, int])  # in flight up to here


@dataclass(frozen=True, slots=True)
class Totals:
    """What is in the file after a commit."""

    rows: Mapping[str, int]  # by table: each queue's, and the dead letters
    used_bytes: int  # of the pages in use; the write-ahead log is not included
    dropped: Dropped = field(default_factory=dict[tuple[str, Loss], int])  # by this commit
    rescued: bool = False  # the file had been deleted and was written again


class Store:
    """One open spool. Made by `open_store`; used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path, bounds: Bounds) -> None:
        self.path = path
        self._connection = connection
        self._bounds = bounds
        self._file_id = file_id(path)
        self._letters = _letters(connection)
        span_ms = span_of(bounds.age_ms)
        self._tables = {queue: QueueTable.of(connection, queue, span_ms) for queue in Queue}

    def close(self) -> None:
        """Write the log into the file and close it."""
        with translated(self.path):
            self._connection.close()

    def totals(self) -> Totals:
        """Return the totals of the file."""
        with translated(self.path):
            return Totals(self._rows(), self._used_bytes())

    def memories(self) -> tuple[dict[str, Memory], list[str]]:
        """Return the memories by path, least recently written first, and the problems of unreadable ones."""
        with translated(self.path):
            return read_memories(self._connection)

    def forget_memories(self) -> None:
        """Forget every VM."""
        with translated(self.path):
            self._connection.execute("DELETE FROM vms")

    def last_position(self, queue: Queue) -> int:
        """Return the highest position used so far in a queue; 0: none."""
        with translated(self.path):
            return self._tables[queue].last_position(self._connection)

    def read(self, queue: Queue, *, after: int, size_bytes_max: int) -> Rows:
        """Return the oldest records after the position `after`: blocks as far as they fit, at least one.

        Raises:
            SpoolError: they cannot be read.
        """
        with translated(self.path):
            return self._tables[queue].read(self._connection, after=after, size_bytes_max=size_bytes_max)

    # --- writing ---

    def commit(self, change: Change) -> Totals:
        """Write all of `change` to disk.

        Raises:
            SpoolError: nothing of it was written.
        """
        tables, letters = {queue: each.copy() for queue, each in self._tables.items()}, self._letters
        with translated(self.path):
            rescued = self._rescue()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                dropped = self._apply(change)
                self._connection.execute("COMMIT")
            except BaseException:
                self._tables, self._letters = tables, letters
                if self._connection.in_transaction:  # some errors end it by themselves
                    self._connection.execute("ROLLBACK")
                raise
            self._shrink()
            return Totals(self._rows(), self._used_bytes(), dropped, rescued)

    def _apply(self, change: Change) -> Dropped:
        for queue, position in change.settled.items():
            self._tables[queue].settle(self._connection, position)
        self._keep_letters(change.refused)
        rows: dict[Queue, list[tuple[int, Record]]] = {queue: [] for queue in Queue}
        for position, record in change.records:
            rows[Queue.of(record)].append((position, record))
        for queue, table in self._tables.items():
            table.append(self._connection, rows[queue])
        self._remember(change)
        dropped = Counter[tuple[str, Loss]]()
        self._drop_expired(change, dropped)
        self._drop_oldest(change, dropped)
        for table in self._tables.values():
            table.save(self._connection)
        self._connection.execute("UPDATE totals SET total = ? WHERE name = ?", (self._letters, DEAD_LETTERS))
        return {what: count for what, count in dropped.items() if count}

    def _keep_letters(self, refused: Sequence[DeadLetter]) -> None:
        rows = [
            (*encode_record(each.record), each.reason, each.detail, each.refused_at_ms) for each in refused
        ]
        self._connection.executemany(
            f"INSERT INTO {DEAD_LETTERS} VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
        )
        self._letters += len(rows)

    def _remember(self, change: Change) -> None:
        if not change.memories:
            return
        self._connection.executemany(
            "INSERT INTO vms VALUES (?, ?, ?) ON CONFLICT (path) DO UPDATE "
            "SET touched_ms = excluded.touched_ms, memory = excluded.memory",
            [(each.path, change.now_ms, encode_memory(each)) for each in change.memories],
        )
        ((vms,),) = self._connection.execute("SELECT count(*) FROM vms")
        if vms > VMS_REMEMBERED + _VMS_AT_ONCE:
            self._connection.execute(
                "DELETE FROM vms WHERE path IN"
                " (SELECT path FROM vms ORDER BY touched_ms DESC LIMIT -1 OFFSET ?)",
                (VMS_REMEMBERED,),
            )

    def _drop_expired(self, change: Change, dropped: Counter[tuple[str, Loss]]) -> None:
        for queue, table in self._tables.items():
            dropped[queue, Loss.EXPIRED] += table.drop_expired(
                self._connection,
                after=change.sending.get(queue, 0),
                before_ms=change.now_ms - self._bounds.age_ms,
            )

    def _drop_oldest(self, change: Change, dropped: Counter[tuple[str, Loss]]) -> None:
        for name in DROPPED_FIRST if self._used_bytes() > self._bounds.size_bytes else ():
            while (excess_bytes := self._used_bytes() - self._bounds.size_bytes) > 0:
                rows = max(1, excess_bytes // BLOCK_BYTES)  # few take as much, so rarely more than needed
                if isinstance(name, Queue):
                    gone = self._tables[name].drop_oldest(
                        self._connection, after=change.sending.get(name, 0), blocks=rows
                    )
                else:
                    gone = self._drop_letters(rows)
                if not gone:
                    break
                dropped[name, Loss.FULL] += gone

    def _drop_letters(self, count: int) -> int:
        gone = self._connection.execute(
            f"DELETE FROM {DEAD_LETTERS} WHERE position IN "
            f"(SELECT position FROM {DEAD_LETTERS} ORDER BY position LIMIT ?)",
            (count,),
        ).rowcount
        self._letters -= gone
        return gone

    def _rows(self) -> Mapping[str, int]:
        return {**{queue: each.records for queue, each in self._tables.items()}, DEAD_LETTERS: self._letters}

    def _used_bytes(self) -> int:
        pages = pragma(self._connection, "page_count") - pragma(self._connection, "freelist_count")
        return pages * pragma(self._connection, "page_size")

    def _shrink(self) -> None:
        """Return the pages of a delivered backlog to the file system, some with each commit."""
        if sum(self._rows().values()) > _BACKLOG_RECORDS:
            return
        if pragma(self._connection, "freelist_count") > _SPARE_PAGES:
            # The pragma frees a page at each step, and only `executescript` steps it to its end.
            self._connection.executescript(f"PRAGMA incremental_vacuum({_VACUUMED_AT_ONCE_PAGES})")

    # --- a deleted file ---

    def _rescue(self) -> bool:
        """Write everything again if the file at the path is no longer the open one; return whether so."""
        if file_id(self.path) == self._file_id:
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
        unlink_with_logs(self.path)
        os.replace(fresh, self.path)
        self._connection = connect(self.path)
        self._file_id = file_id(self.path)
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


def _letters(connection: sqlite3.Connection) -> int:
    rows = checked(connection.execute("SELECT total, 0 FROM totals WHERE name = ?", (DEAD_LETTERS,)))
    return rows[0][0] if rows else 0
