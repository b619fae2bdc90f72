"""What is wrong with a spool is found, whatever it is, and a whole one is called whole."""

import sqlite3
from collections.abc import Sequence
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
def test_a_whole_spool_has_no_problems(path: Path, records: Sequence[Record]) -> None:
    fill(path, records, [refused(sample(3)), refused(state())])

    found = verify(path)

    samples = [each for each in records if each.kind == "sample"]
    assert found.problems == []
    assert found.seen[1:] == [
        "pages and indexes are whole",
        f"samples: {len(samples)} records of {len({each.key for each in samples})} VMs",
        f"states: {len(records) - len(samples)} records",
        "dead_letters: 2 records",
        "vms: 0 remembered",
    ]


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        (
            [sample(1), sample(3)],
            "samples 2: VM vm-1 goes on with 3 after sequence 1 of epoch epoch-1: 1 missing",
        ),
        (
            [sample(2), sample(1)],
            "samples 2: VM vm-1 goes on with 1 after sequence 2 of epoch epoch-1: not in order",
        ),
        (
            [sample(2), sample(2)],
            "samples 2: VM vm-1 goes on with 2 after sequence 2 of epoch epoch-1: not in order",
        ),
        (
            [sample(2), sample(2, epoch="e2")],
            "samples 2: VM vm-1 goes on with 2 of epoch e2 after sequence 2 of epoch epoch-1: a loss",
        ),
        (
            [sample(1), sample(1, epoch="e2", previous=NEXT)],
            "samples 2: VM vm-1 goes on with 1 of epoch e2 after sequence 1 of epoch epoch-1: a loss",
        ),
    ],
    ids=["a gap", "backwards", "twice", "an epoch's first is missing", "an epoch's last is missing"],
)
def test_samples_out_of_order_are_found(path: Path, records: Sequence[Record], problem: str) -> None:
    fill(path, records)

    assert verify(path).problems == [problem]


def test_a_sample_newer_than_what_its_vm_is_remembered_by_is_found(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(
        Change(now_ms=NOW_MS, records=list(enumerate([sample(4), sample(5)], 1)), memories=[remembered(4)])
    )
    assert verify(path).problems == ["samples 2: VM vm-1 is remembered at 4 of its epoch, before this sample"]

    store.commit(Change(now_ms=NOW_MS, memories=[remembered(5)]))
    assert verify(path).problems == []
    store.close()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE totals SET total = 7 WHERE name = 'samples'", "samples: the total says 7, and there are 2"),
        ("UPDATE totals SET total = 0 WHERE name = 'dead_letters'", "dead_letters: the total says 0, and"),
        ("DELETE FROM totals WHERE name = 'states'", "states: the total says None, and there are 1 records"),
        ("UPDATE samples SET headers = x'00' WHERE position = 2", "samples 2: record "),
        ("UPDATE states SET kind = 'nonsense'", "states 3: record "),
        ("UPDATE states SET kind = 'sample'", "states 3: is of another queue: sample"),
        ("UPDATE samples SET value = x'ff' WHERE position = 2", "samples 2: record "),
        ("UPDATE samples SET value = x'5b5d' WHERE position = 2", "samples 2: record "),
        ("UPDATE samples SET value = x'7b7d' WHERE position = 2", "samples 2: record "),
        ("UPDATE dead_letters SET value = x'78'", "dead_letters 1: record "),
        (
            "UPDATE samples SET id = 'vm-1/epoch-1/1' WHERE position = 2",
            "samples 2: the id 'vm-1/epoch-1/1' is",
        ),
        ("UPDATE vms SET memory = x'00'", "memory of /run/vm/a.qmp: "),
    ],
)
def test_a_row_that_is_wrong_is_found(path: Path, statement: str, problem: str) -> None:
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


def test_broken_pages_are_found_and_what_is_whole_is_still_looked_at(path: Path) -> None:
    fill(path, [sample(n) for n in range(1, 200)], [refused(sample(300))])
    with path.open("r+b") as file:
        file.seek(12 * 4096)
        file.write(b"\xa5" * 4096)

    found = verify(path)

    assert found.problems
    assert "vms: 0 remembered" in found.seen
    assert "pages and indexes are whole" not in found.seen


def test_a_broken_index_is_found_though_every_row_can_be_read(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, memories=[memory()]))
    store.close()
    connection = sqlite3.connect(path)
    root: tuple[int] = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'vms_touched'"
    ).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root[0] - 1) * 4096)
        file.write(bytes([10]) + bytes(4095))  # an index page with nothing in it

    found = verify(path)

    assert "row 1 missing from index vms_touched" in found.problems
    assert "vms: 1 remembered" in found.seen


def test_what_is_no_spool_is_a_problem(path: Path) -> None:
    assert verify(path).problems == ["there is no spool here"]

    path.write_bytes(b"something else entirely " * 100)
    assert verify(path).problems == ["file is not a database (SQLITE_NOTADB)"]
    assert verify(path).seen == []


def test_more_problems_than_anybody_reads_are_counted(path: Path) -> None:
    fill(path, [sample(2 * n) for n in range(1, 202)])

    problems = verify(path).problems

    assert len(problems) == 101
    assert problems[-1] == "samples: 100 more problems"


def test_a_running_agents_spool_is_verified_at_one_instant(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, records=[(1, sample(1))]))

    assert verify(path).problems == []

    store.commit(Change(now_ms=NOW_MS, records=[(2, sample(2))]))
    store.close()
