"""Write a spool in a process that is killed: `python -m tests.lab.spool_writer FILE SEED COMMITS LEVEL`.

The seed alone determines each commit, so a test that reads the file afterwards knows the expected content.
The process writes a byte to standard output after each commit that has returned.
"""

import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, cast

import pytest

from agent.core.epochs import History
from agent.core.memory import Memory
from agent.core.reading import Record, RecordKind, VmId
from agent.spool import store as spool_store
from agent.spool.inspect import records_of
from agent.spool.queues import DEAD_LETTERS, Queue
from agent.spool.store import Bounds, Change, Store, open_store
from agent.spool.tables import connect_read_only
from tests.unit.spool.letters import refused, sample, state
from tests.unit.spool.making import NOW_MS

VMS = ("vm-1", "vm-2", "vm-3")

Content: TypeAlias = tuple[
    tuple[tuple[tuple[int, str], ...], ...], tuple[str, ...], tuple[tuple[str, int], ...]
]
"""The records of each queue with their positions, dead letters, and the watermark of each VM."""


@dataclass
class Course:
    """The expected content of a spool, commit by commit."""

    chance: random.Random
    commits: int = 0
    last: dict[Queue, int] = field(default_factory=lambda: dict.fromkeys(Queue, 0))
    rows: dict[Queue, list[tuple[int, Record]]] = field(default_factory=lambda: {each: [] for each in Queue})
    letters: list[str] = field(default_factory=list[str])
    sequences: dict[str, int] = field(default_factory=dict[str, int])

    def next(self) -> Change:
        """Return the change of the next commit, and add it to the content."""
        self.commits += 1
        records = [each for _ in range(self.chance.randrange(4)) for each in self._record()]
        settled: dict[Queue, int] = {}
        letters: list[Record] = []
        for queue in Queue:
            rows = self.rows[queue]
            gone = self.chance.randrange(min(len(rows), 6) + 1)
            if len(rows) > 60:
                gone = len(rows)  # a backlog settled at once leaves free pages
            if gone:
                settled[queue] = rows[gone - 1][0]
                letters += [each for _, each in rows[:gone] if self.chance.random() < 0.1]
                del rows[:gone]
        self.letters += [each.id for each in letters]
        placed = [self._placed(each) for each in records]
        memories = [_memory(vm, sequence) for vm, sequence in sorted(self.sequences.items())]
        refusals = [refused(each) for each in letters]
        return Change(now_ms=NOW_MS, records=placed, memories=memories, settled=settled, refused=refusals)

    def content(self) -> Content:
        """Return what the file must hold now."""
        queues = tuple(tuple((at, each.id) for at, each in self.rows[queue]) for queue in Queue)
        return queues, tuple(self.letters), tuple(sorted(self.sequences.items()))

    def _record(self) -> Sequence[Record]:
        if self.chance.random() < 0.2:
            return [state(), replace(state(), kind=RecordKind.LOG)]
        vm = self.chance.choice(VMS)
        self.sequences[vm] = self.sequences.get(vm, 0) + 1
        return [sample(self.sequences[vm], vm=vm, epoch=f"epoch-{vm}")]

    def _placed(self, record: Record) -> tuple[int, Record]:
        queue = Queue.of(record)
        self.last[queue] += 1
        self.rows[queue].append((self.last[queue], record))
        return self.last[queue], record


def _memory(vm: str, sequence: int) -> Memory:
    return Memory(f"/run/{vm}", None, VmId(vm), History(f"epoch-{vm}", sequence=sequence), None)


def content(path: Path) -> Content:
    """Return what the spool at `path` holds."""
    connection = connect_read_only(path)
    queues = tuple(
        tuple((at, cast(Record, record).id) for at, record in records_of(connection, queue))
        for queue in Queue
    )
    letters = tuple(id for (id,) in connection.execute(f"SELECT id FROM {DEAD_LETTERS} ORDER BY position"))
    connection.close()
    store = open_store(path, Bounds())
    memories, problems = store.memories()
    store.close()
    assert problems == []
    watermarks = tuple(sorted((str(each.vm_id), each.history.sequence) for each in memories.values()))
    return queues, letters, watermarks


def opened(path: Path, level: str = "FULL") -> Store:
    """Open a spool that checkpoints more often than that of an agent."""
    store = open_store(path, Bounds())
    connection = store._connection  # pyrefly: ignore[protected-access]
    connection.execute("PRAGMA wal_autocheckpoint = 40")
    if level != "FULL":  # the level FULL tests the setting of `connect`
        connection.execute(f"PRAGMA synchronous = {level}")
    return store


def write(path: Path, course: Course, commits: int, acknowledgments: int, level: str = "FULL") -> None:
    """Commit and report each commit; close and reopen the file from time to time.

    Free pages are returned to the file system more often than by an agent.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_store, "_SPARE_PAGES", 8)
        store = opened(path, level)
        for _ in range(commits):
            store.commit(course.next())
            os.write(acknowledgments, b".")
            if course.commits % 23 == 0:
                store.close()
                store = opened(path, level)
        store.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Course(random.Random(sys.argv[2])), int(sys.argv[3]), 1, sys.argv[4])
