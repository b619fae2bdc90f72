"""The constraints of agent/spool/dead_letters.py, one test each."""

import sqlite3
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from agent.contract.encode import Mode
from agent.contract.redelivered import is_redelivered, redelivered
from agent.core.reading import RecordKind
from agent.errors import SpoolError, StateFileError
from agent.spool.dead_letters import NotDone, dead_letters, drop, requeue
from agent.spool.inspect import contents
from agent.spool.ledger import open_ledger
from agent.spool.queues import Queue
from agent.spool.store import Bounds, Change, open_store
from agent.spool.verify import verify
from tests.unit.spool.letters import fill, refused, sample, state, waiting
from tests.unit.spool.making import NOW_MS

AGE = {"now_ms": NOW_MS, "age_ms": 1_000_000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite"


def numbers(path: Path) -> list[int]:
    return [letter.number for letter in dead_letters(path)]


def corrupt(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def test_dead_letters_are_listed_newest_first_even_while_an_agent_uses_the_spool(path: Path) -> None:
    store = open_store(path, Bounds())
    letters = [refused(sample(n), detail=f"because {n}", at_ms=NOW_MS + n) for n in range(1, 51)]
    store.commit(Change(now_ms=NOW_MS, refused=letters))

    listed = list(dead_letters(path))

    assert [letter.number for letter in listed] == list(range(50, 0, -1))
    assert [letter.record for letter in listed] == [letter.record for letter in reversed(letters)]
    assert (listed[0].reason, listed[0].detail, listed[0].refused_at_ms) == (
        "too_large",
        "because 50",
        NOW_MS + 50,
    )
    store.close()


def test_a_reader_that_pauses_does_not_block_a_checkpoint(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, refused=[refused(sample(n)) for n in range(50)]))

    reader = dead_letters(path)
    assert len(list(islice(reader, 3))) == 3
    store.commit(Change(now_ms=NOW_MS, records=[(1, sample(1))]))

    busy, frames, moved = sqlite3_checkpoint(path)
    assert (busy, frames) == (0, moved)
    assert len(list(reader)) == 47
    store.close()


def sqlite3_checkpoint(path: Path) -> tuple[int, int, int]:
    """Return whether a reader blocked it, the frames in the log, and those moved into the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    finally:
        connection.close()


def test_requeued_records_are_appended_to_their_queues_in_the_order_of_refusal_and_marked_as_redelivered(
    path: Path,
) -> None:
    first, second = sample(2, mode=Mode.STRUCTURED), sample(3)
    fill(path, [sample(7), sample(8)], [refused(first), refused(state()), refused(second)])

    counts = requeue(path, [3, 2, 1], **AGE)

    assert counts == {Queue.SAMPLES: 2, Queue.STATES: 1}
    marked = [redelivered(each) for each in (first, second, state())]
    assert waiting(path) == [sample(7), sample(8), *marked]
    assert numbers(path) == []
    assert verify(path).problems == []


def test_only_the_named_dead_letters_are_requeued(path: Path) -> None:
    fill(path, [], [refused(sample(n)) for n in (1, 2, 3)])

    assert requeue(path, [2, 2], **AGE) == {Queue.SAMPLES: 1}

    assert numbers(path) == [3, 1]
    assert waiting(path) == [redelivered(sample(2))]


def test_a_requeued_record_is_not_dropped_immediately_because_of_its_age(path: Path) -> None:
    old, young = sample(1, at_ms=NOW_MS - 1_000_001), sample(2, at_ms=NOW_MS - 1_000_000)
    fill(path, [], [refused(old), refused(young)])

    requeue(path, None, **AGE)

    assert waiting(path) == [replace(redelivered(old), timestamp_ms=NOW_MS), redelivered(young)]
    store = open_store(path, Bounds(age_ms=1_000_000))
    assert store.commit(Change(now_ms=NOW_MS)).dropped == {}
    store.close()


def test_a_record_that_is_refused_again_has_another_number(path: Path) -> None:
    fill(path, [], [refused(sample(1)), refused(sample(2))])
    requeue(path, None, **AGE)

    store = open_store(path, Bounds())
    again = [refused(record) for _, record in store.read(Queue.SAMPLES, after=0, size_bytes_max=9999)]
    store.commit(Change(now_ms=NOW_MS, settled={Queue.SAMPLES: 2}, refused=again))
    store.close()

    assert numbers(path) == [4, 3]
    assert all(letter.record and is_redelivered(letter.record) for letter in dead_letters(path))


def test_dropped_dead_letters_are_gone_and_the_totals_match(path: Path) -> None:
    fill(path, [sample(9)], [refused(sample(n)) for n in (1, 2, 3)])

    assert drop(path, [1, 3]) == 2
    assert numbers(path) == [2]
    assert verify(path).problems == []

    assert drop(path, None) == 1
    assert contents(path).dead_letters == {}
    assert waiting(path) == [sample(9)]


def test_either_all_named_dead_letters_are_requeued_or_dropped_or_none(path: Path) -> None:
    fill(path, [], [refused(sample(1)), refused(sample(2))])
    corrupt(path, "UPDATE dead_letters SET headers = x'ff' WHERE position = 2")

    with pytest.raises(NotDone, match="no dead letter has the number 7, 9"):
        requeue(path, [1, 9, 7], **AGE)
    with pytest.raises(NotDone, match="no dead letter has the number 7"):
        drop(path, [1, 7])
    with pytest.raises(NotDone, match="dead letter 2 cannot be read"):
        requeue(path, None, **AGE)

    assert numbers(path) == [2, 1]
    assert waiting(path) == []


@pytest.mark.parametrize(
    ("damage", "problem"), [("kind = 'x'", "unknown kind 'x'"), ("headers = x'c1'", "damaged headers")]
)
def test_an_unreadable_letter_is_listed_and_can_be_dropped(path: Path, damage: str, problem: str) -> None:
    fill(path, [], [refused(sample(1)), refused(sample(2))])
    corrupt(path, f"UPDATE dead_letters SET {damage} WHERE position = 1")

    listed = list(dead_letters(path))

    assert [letter.record and letter.record.kind for letter in listed] == [RecordKind.SAMPLE, None]
    assert problem in listed[1].problem
    assert drop(path, [1]) == 1


async def test_nothing_is_changed_while_an_agent_uses_the_state_directory_and_none_can_start_meanwhile(
    path: Path, tmp_path: Path
) -> None:
    fill(path, [], [refused(sample(1))])
    link = tmp_path / "elsewhere"
    link.mkdir()
    (link / "s").symlink_to(path)

    async with open_ledger(str(path.parent), NOW_MS):
        for name in (path, link / "s"):
            with pytest.raises(StateFileError, match="stop it first"):
                requeue(name, None, **AGE)
            with pytest.raises(StateFileError, match="stop it first"):
                drop(name, None)

    assert numbers(path) == [1]


def test_a_missing_spool_is_not_created(path: Path) -> None:
    with pytest.raises(SpoolError, match="no spool at this path"):
        drop(path, None)

    assert list(path.parent.iterdir()) == []
