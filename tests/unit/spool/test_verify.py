"""Tests that each problem of a spool is found, and that an intact spool has none."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.contract.encode import Mode
from agent.contract.redelivered import redelivered
from agent.core.epochs import History
from agent.core.memory import Memory
from agent.core.reading import EpochEnd, Record, VmId
from agent.spool.store import Bounds, Change, open_store
from agent.spool.verify import verify
from tests.unit.spool.letters import fill, refused, sample, state
from tests.unit.spool.making import NOW_MS, memory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite"


def remembered(sequence: int, epoch: str = "epoch-1") -> Memory:
    return Memory("/run/a", None, VmId("vm-1"), History(epoch, sequence=sequence), None)


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


NEXT = EpochEnd("epoch-1", 2)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [sample(5), sample(6), sample(7)],
        [sample(1), sample(9, vm="vm-2"), sample(2), sample(10, vm="vm-2", mode=Mode.STRUCTURED), state()],
        [sample(2), sample(1, epoch="epoch-2", previous=NEXT), sample(2, epoch="epoch-2")],
        [sample(2), sample(1, epoch="epoch-2")],
        [
            sample(5),
            sample(6),
            redelivered(sample(3)),
            redelivered(sample(4, mode=Mode.STRUCTURED)),
            sample(7),
        ],
    ],
    ids=["empty", "one VM", "two VMs", "a new epoch", "one that knows of none before", "redelivered"],
)
def test_an_intact_spool_has_no_problems(path: Path, records: Sequence[Record]) -> None:
    fill(path, records, [refused(sample(3)), refused(state())])

    found = verify(path)

    samples = [each for each in records if each.kind == "sample"]
    assert found.problems == []
    assert found.seen[1:] == [
        "pages and indexes are intact",
        f"samples: {counted(len(samples), 'record')} of {counted(len({each.key for each in samples}), 'VM')}",
        f"states: {counted(len(records) - len(samples), 'record')}",
        "memory: 0 records",
        "logs: 0 records",
        "dead_letters: 2 records",
        "vms: 0 remembered",
    ]


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        (
            [sample(1), sample(3)],
            "samples 2: VM vm-1: sequence 3 follows sequence 1 of epoch epoch-1: 1 sample missing",
        ),
        (
            [sample(2), sample(1)],
            "samples 2: VM vm-1: sequence 1 follows sequence 2 of epoch epoch-1: out of order",
        ),
        (
            [sample(2), sample(2)],
            "samples 2: VM vm-1: sequence 2 follows sequence 2 of epoch epoch-1: out of order",
        ),
        (
            [sample(2), sample(2, epoch="e2")],
            "samples 2: VM vm-1: sequence 2 of epoch e2 follows sequence 2 of epoch epoch-1: samples missing",
        ),
        (
            [sample(1), sample(1, epoch="e2", previous=NEXT)],
            "samples 2: VM vm-1: sequence 1 of epoch e2 follows sequence 1 of epoch epoch-1: samples missing",
        ),
    ],
    ids=["a gap", "backwards", "twice", "an epoch's first is missing", "an epoch's last is missing"],
)
def test_samples_out_of_order_are_found(path: Path, records: Sequence[Record], problem: str) -> None:
    fill(path, records)

    assert verify(path).problems == [problem]


def test_a_sample_newer_than_the_memory_of_its_vm_is_found(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(
        Change(now_ms=NOW_MS, records=list(enumerate([sample(4), sample(5)], 1)), memories=[remembered(4)])
    )
    assert verify(path).problems == [
        "samples 2: VM vm-1: sequence 5 is above 4, the highest one remembered of this epoch"
    ]

    store.commit(Change(now_ms=NOW_MS, memories=[remembered(5)]))
    assert verify(path).problems == []
    store.close()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE totals SET total = 7 WHERE name = 'samples'",
            "samples: the total is 7, but the table has 2",
        ),
        ("UPDATE totals SET total = 0 WHERE name = 'dead_letters'", "dead_letters: the total is 0, but"),
        ("DELETE FROM totals WHERE name = 'states'", "states: the total is None, but the table has 1 record"),
        (
            "UPDATE totals SET settled = 1 WHERE name = 'samples'",
            "samples: the total is 2, but the table has 1",
        ),
        (
            "UPDATE totals SET settled = 9, total = 0 WHERE name = 'states'",
            "states 3: the block has no queued records, but it was not deleted",
        ),
        ("UPDATE dead_letters SET kind = 'nonsense'", "dead_letters 1: record "),
        ("UPDATE dead_letters SET value = x'78'", "dead_letters 1: record "),
        ("UPDATE vms SET memory = x'00'", "memory of /run/vm/a.qmp: "),
    ],
)
def test_a_wrong_row_is_found(path: Path, statement: str, problem: str) -> None:
    store = open_store(path, Bounds())
    records = list(enumerate([sample(1), sample(2), state()], 1))
    store.commit(
        Change(now_ms=NOW_MS, records=records, memories=[memory(sequence=2)], refused=[refused(sample(3))])
    )
    store.close()
    change(path, statement)

    problems = verify(path).problems

    assert len(problems) == 1
    assert problems[0].startswith(problem)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (replace(sample(2), headers=b"\0"), "samples 2: record "),
        (replace(sample(2), value=b"\xff"), "samples 2: record "),
        (replace(sample(2), value=b"[]"), "samples 2: record "),
        (replace(sample(2), value=b"{}"), "samples 2: record "),
        (replace(sample(2), id="vm-1/epoch-1/1"), "samples 2: id 'vm-1/epoch-1/1' does"),
    ],
)
def test_a_wrong_record_is_found(path: Path, wrong: Record, problem: str) -> None:
    fill(path, [sample(1), wrong, state()])

    problems = verify(path).problems

    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_a_record_in_the_wrong_queue_is_found(path: Path) -> None:
    fill(path, [state()])
    change(path, "INSERT INTO samples SELECT * FROM states")

    assert "samples 1: kind vm_state belongs to another queue" in verify(path).problems


def test_a_damaged_block_and_one_that_overlaps_another_are_found(path: Path) -> None:
    fill(path, [sample(1), sample(2)])
    change(path, "INSERT INTO samples SELECT 2, 3, newest_ms, content FROM samples")
    change(path, "INSERT INTO samples SELECT 4, 5, newest_ms, zeroblob(99) FROM samples LIMIT 1")

    problems = verify(path).problems

    assert "samples 2: the block overlaps the previous block, whose last record is 2" in problems
    assert "samples 4: block 4: wrong checksum" in problems


def test_damaged_pages_are_found_and_intact_ones_still_checked(path: Path) -> None:
    fill(path, [sample(n) for n in range(1, 2000)], [refused(sample(3000))])
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4096 // 2 * 4096)
        file.write(b"\xa5" * 4096)

    found = verify(path)

    assert found.problems
    assert "vms: 0 remembered" in found.seen
    assert "pages and indexes are intact" not in found.seen


def test_a_broken_index_is_found_though_every_row_can_be_read(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, memories=[memory()]))
    store.close()
    connection = sqlite3.connect(path)
    root: tuple[int] = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_vms_1'"
    ).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root[0] - 1) * 4096)
        file.write(bytes([10]) + bytes(4095))  # an index page with nothing in it

    found = verify(path)

    assert "row 1 missing from index sqlite_autoindex_vms_1" in found.problems
    assert "vms: 1 remembered" in found.seen


def test_a_missing_or_foreign_file_is_a_problem(path: Path) -> None:
    assert verify(path).problems == ["no spool at this path; use --state-directory or --file"]

    path.write_bytes(b"something else entirely " * 100)
    assert verify(path).problems == ["file is not a database (SQLITE_NOTADB)"]
    assert verify(path).seen == []


def test_problems_beyond_the_first_hundred_are_counted(path: Path) -> None:
    fill(path, [sample(2 * n) for n in range(1, 202)])

    problems = verify(path).problems

    assert len(problems) == 101
    assert problems[-1] == "samples: 100 more problems"


def test_the_spool_of_a_running_agent_is_verified_at_one_instant(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, records=[(1, sample(1))]))

    assert verify(path).problems == []

    store.commit(Change(now_ms=NOW_MS, records=[(2, sample(2))]))
    store.close()
