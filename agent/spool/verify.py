"""Check a spool: the file, its rows, its totals, and the order of each VM's samples.

The check sees one instant, so the spool of a running agent can be verified as well as a copy.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.contract.redelivered import is_redelivered
from agent.core.reading import Record, RecordKind
from agent.core.wording import counted
from agent.errors import SpoolError
from agent.spool.format import (
    FORMAT,
    RecordRow,
    Undecodable,
    check_headers,
    checked,
    decode_checked_record,
    decode_memory,
)
from agent.spool.inspect import records_of, settled_in, snapshot
from agent.spool.queues import DEAD_LETTERS, Queue
from agent.spool.tables import translated

_NAMED_MAX = 100
"""Problems of one kind to list; the rest are counted. A file with damaged pages may have any number."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was checked, and the problems."""

    seen: Sequence[str]
    problems: Sequence[str]  # empty: the spool is intact


def verify(path: Path) -> Verdict:
    """Check everything in the spool at `path`. Unreadable content is a problem like any other."""
    seen: list[str] = []
    problems: list[str] = []
    try:
        with snapshot(path) as connection:
            seen.append(f"format {FORMAT}, read with SQLite {sqlite3.sqlite_version}")
            for look in (_file, _records, _memories):
                try:
                    with translated(path):
                        look(connection, seen, problems)
                except SpoolError as error:  # the next check may read intact pages
                    problems.append(error.detail)
    except SpoolError as error:
        problems.append(error.detail)
    return Verdict(seen, problems)


def _file(connection: sqlite3.Connection, seen: list[str], problems: list[str]) -> None:
    found: list[tuple[str]] = connection.execute(f"PRAGMA integrity_check({_NAMED_MAX})").fetchall()
    if found == [("ok",)]:
        seen.append("pages and indexes are intact")
    problems.extend(line for (line,) in found if line != "ok")


def _records(connection: sqlite3.Connection, seen: list[str], problems: list[str]) -> None:
    totals = dict(connection.execute("SELECT name, total FROM totals"))
    remembered = dict(_watermarks(connection))
    for table in (*Queue, DEAD_LETTERS):
        order = _Order(remembered)
        broken = list(_blocks(connection, table)) if isinstance(table, Queue) else []
        rows = 0
        reading = records_of(connection, table) if isinstance(table, Queue) else _letters(connection)
        for position, record in reading:
            rows += 1
            broken += [f"{table} {position}: {problem}" for problem in _wrong(record, table, order)]
        if totals.get(table) != rows:
            broken.append(
                f"{table}: the total is {totals.get(table)}, but the table has {counted(rows, 'record')}"
            )
        vms = f" of {counted(order.vms, 'VM')}" if table is Queue.SAMPLES else ""
        seen.append(f"{table}: {counted(rows, 'record')}{vms}")
        problems += broken[:_NAMED_MAX]
        if len(broken) > _NAMED_MAX:
            problems.append(f"{table}: {counted(len(broken) - _NAMED_MAX, 'more problem')}")


def _memories(connection: sqlite3.Connection, seen: list[str], problems: list[str]) -> None:
    rows = 0
    for path, content in connection.execute("SELECT path, memory FROM vms"):
        rows += 1
        try:
            decode_memory(content)
        except Undecodable as error:
            problems.append(f"memory of {path}: {error}")
    seen.append(f"vms: {rows} remembered")


def _watermarks(connection: sqlite3.Connection) -> Iterator[tuple[str, int]]:
    """Yield the epoch and the last sequence number of each remembered VM."""
    for (content,) in connection.execute("SELECT memory FROM vms"):
        try:
            history = decode_memory(content).history
        except Undecodable:
            continue  # `_memories` reports it
        if history.epoch is not None:
            yield history.epoch, history.sequence


def _blocks(connection: sqlite3.Connection, queue: Queue) -> Iterator[str]:
    """Yield what is wrong with the positions of the blocks."""
    settled = settled_in(connection, queue)
    before = 0
    for first, last in checked(connection.execute(f"SELECT first, last FROM {queue} ORDER BY first")):
        if last <= settled:
            yield f"{queue} {first}: the block has no queued records, but it was not deleted"
        elif first <= before:
            yield f"{queue} {first}: the block overlaps the previous block, whose last record is {before}"
        before = last


def _letters(connection: sqlite3.Connection) -> Iterator[tuple[int, Record | Undecodable]]:
    rows: Iterator[tuple[int, *RecordRow]] = connection.execute(
        f"SELECT position, kind, id, key, timestamp_ms, headers, value FROM {DEAD_LETTERS} ORDER BY position"
    )
    for position, kind, identifier, key, timestamp_ms, headers, value in rows:
        try:
            yield position, decode_checked_record((kind, identifier, key, timestamp_ms, headers, value))
        except Undecodable as error:
            yield position, error


def _wrong(record: Record | Undecodable, table: str, order: "_Order") -> Iterator[str]:
    if isinstance(record, Undecodable):
        yield str(record)
        return
    if table != DEAD_LETTERS and Queue.of(record) != table:
        yield f"kind {record.kind} belongs to another queue"
    try:
        check_headers(record)
        value: Any = json.loads(record.value)
        if table == Queue.SAMPLES and record.kind is RecordKind.SAMPLE and not is_redelivered(record):
            yield from order.follow(value.get("data", value), record)
    except Undecodable as error:
        yield str(error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"record {record.id!r}: value is not a valid document: {error}"


class _Order:
    """Follows the samples of each VM from the oldest on.

    The first sample of a VM is not checked: those before it have been delivered.
    """

    def __init__(self, remembered: dict[str, int]) -> None:
        self._remembered = remembered
        self._last: dict[str, tuple[str, int]] = {}  # VM -> epoch and sequence

    @property
    def vms(self) -> int:
        return len(self._last)

    def follow(self, sample: Any, record: Record) -> Iterator[str]:
        vm, epoch, sequence = str(sample["vm"]["id"]), str(sample["epoch"]), int(sample["sequence"])
        before = self._last.get(vm)
        self._last[vm] = (epoch, sequence)
        if record.id != f"{vm}/{epoch}/{sample['last_update']}":
            yield f"id {record.id!r} does not match its sample"
        if sequence > self._remembered.get(epoch, sequence):
            known = self._remembered[epoch]
            yield f"VM {vm}: sequence {sequence} is above {known}, the highest one remembered of this epoch"
        if before is None:
            return
        last = f"follows sequence {before[1]} of epoch {before[0]}"
        if epoch == before[0] and sequence != before[1] + 1:
            yield f"VM {vm}: sequence {sequence} {last}: {_gap(sequence - before[1] - 1)}"
        elif epoch != before[0]:
            previous = sample.get("previous")
            if sequence != 1 or (
                previous is not None and (previous["epoch"], previous["sequence"]) != before
            ):
                yield f"VM {vm}: sequence {sequence} of epoch {epoch} {last}: samples missing"


def _gap(missing: int) -> str:
    return f"{counted(missing, 'sample')} missing" if missing > 0 else "out of order"
