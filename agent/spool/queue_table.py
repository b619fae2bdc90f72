"""The table of one queue: blocks of records, settled up to a position.

A block is deleted as a whole, once its last record is settled. In between, the table `totals` has the
position up to which records are settled, and how many are left. The newest block takes further records until
it is full, so that a backlog of small commits is as dense as one of large ones.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agent.core.reading import Record
from agent.spool.block import Block, BlockRow, Rows, block_bytes, blocks_of, decode_block
from agent.spool.format import checked
from agent.spool.queues import Queue


@dataclass(slots=True)
class QueueTable:
    """The blocks of one queue. Each method is given the connection of the open file."""

    queue: Queue
    span_ms: int  # how far the times of a block's records may be apart
    records: int = 0  # left
    settled: int = 0  # up to here, inclusive
    _tail: Block | None = field(default=None)  # the newest block in the file, if this process wrote it

    @staticmethod
    def of(connection: sqlite3.Connection, queue: Queue, span_ms: int) -> "QueueTable":
        """Return the table as it is in the file."""
        rows = checked(connection.execute("SELECT total, settled FROM totals WHERE name = ?", (queue,)))
        return QueueTable(queue, span_ms, *(rows[0] if rows else (0, 0)))

    def copy(self) -> "QueueTable":
        """Return a copy for after a rollback. Its newest block takes no further records."""
        return QueueTable(self.queue, self.span_ms, self.records, self.settled)

    def save(self, connection: sqlite3.Connection) -> None:
        """Write how much is left and up to where it is settled."""
        connection.execute(
            "UPDATE totals SET total = ?, settled = ? WHERE name = ?",
            (self.records, self.settled, self.queue),
        )

    def last_position(self, connection: sqlite3.Connection) -> int:
        """Return the highest position used so far; 0: none."""
        rows = checked(connection.execute(f"SELECT coalesce(max(last), 0), 0 FROM {self.queue}"))
        return max(rows[0][0], self.settled)

    def read(self, connection: sqlite3.Connection, *, after: int, size_bytes_max: int) -> Rows:
        """Return the oldest records after a position: of as many blocks as fit, and of one at least.

        Raises:
            Undecodable: a block is damaged.
        """
        after = max(after, self.settled)
        found: list[tuple[int, Record]] = []
        size_bytes = 0
        blocks = blocks_after(connection, self.queue, after)
        for block in blocks:
            size_bytes += block_bytes(block)
            if found and size_bytes > size_bytes_max:
                break
            rows = decode_block(block)
            found += rows if block[0] > after else rows[after + 1 - block[0] :]
        return found

    def settle(self, connection: sqlite3.Connection, position: int) -> None:
        """Delete the blocks whose records are all settled, and remember how far the next one is."""
        if position <= self.settled:
            return
        blocks = checked(
            connection.execute(f"SELECT first, last FROM {self.queue} WHERE first <= ?", (position,))
        )
        self.records -= sum(min(last, position) - max(first - 1, self.settled) for first, last in blocks)
        self.settled = position
        self._delete(connection, "first <= ? AND last <= ?", position, position)

    def append(self, connection: sqlite3.Connection, rows: Rows) -> None:
        """Write records behind all others."""
        blocks = blocks_of(rows, self.span_ms, self._tail)
        if not blocks:
            return
        if blocks[0] is self._tail:
            connection.execute(f"DELETE FROM {self.queue} WHERE first = ?", (blocks[0].first,))
        connection.executemany(
            f"INSERT INTO {self.queue} VALUES (?, ?, ?, ?)", [block.row() for block in blocks]
        )
        self._tail = blocks[-1]
        self.records += len(rows)

    def drop_expired(self, connection: sqlite3.Connection, *, after: int, before_ms: int) -> int:
        """Delete the oldest blocks after a position whose newest record is too old; return their records."""
        if not self.records:
            return 0
        # Up to the first one young enough; those after it are not read.
        return self._drop(
            connection,
            f"first > ? AND first < coalesce((SELECT first FROM {self.queue} "
            "WHERE first > ? AND newest_ms >= ? ORDER BY first LIMIT 1), 9e18)",
            after,
            after,
            before_ms,
        )

    def drop_oldest(self, connection: sqlite3.Connection, *, after: int, blocks: int) -> int:
        """Delete the oldest blocks after a position, and return how many records they had."""
        return self._drop(
            connection,
            f"first IN (SELECT first FROM {self.queue} WHERE first > ? ORDER BY first LIMIT ?)",
            after,
            blocks,
        )

    def _drop(self, connection: sqlite3.Connection, where: str, *arguments: int) -> int:
        gone = self._delete(connection, where, *arguments)
        records = sum(last - max(first - 1, self.settled) for first, last in gone)
        self.records -= records
        return records

    def _delete(
        self, connection: sqlite3.Connection, where: str, *arguments: int
    ) -> Sequence[tuple[int, int]]:
        gone = checked(
            connection.execute(f"DELETE FROM {self.queue} WHERE {where} RETURNING first, last", arguments)
        )
        if self._tail is not None and any(first == self._tail.first for first, _ in gone):
            self._tail = None
        return gone


def span_of(age_ms: int) -> int:
    """Return how far the times of a block's records may be apart, with a bound for their age.

    A block expires with its newest record, so its oldest one may be older than the bound by so much.
    """
    return min(10 * 60 * 1000, age_ms // 10)


def blocks_after(connection: sqlite3.Connection, queue: Queue, position: int) -> Iterator[BlockRow]:
    """Return the blocks with records after a position, in order, the oldest first."""
    return connection.execute(
        f"SELECT first, last, newest_ms, content FROM {queue} WHERE last > ? AND "
        f"first >= (SELECT coalesce(max(first), 0) FROM {queue} WHERE first <= ? + 1) ORDER BY first",
        (position, position),
    )
