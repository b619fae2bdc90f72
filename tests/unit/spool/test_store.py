"""The constraints of agent/spool/store.py, one test each."""

import os
import signal
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from agent.core.reading import Record, RecordKind
from agent.errors import SpoolError, SpoolFault
from agent.spool.block import BLOCK_BYTES, BLOCK_RECORDS_MAX
from agent.spool.files import set_aside
from agent.spool.inspect import records_of
from agent.spool.queues import DEAD_LETTERS, Queue
from agent.spool.record_queue import DeadLetter
from agent.spool.store import VMS_REMEMBERED, Bounds, Change, Loss, Store, Totals, open_store
from tests.unit.spool.making import NOW_MS, memory, record

ALL = {"after": 0, "size_bytes_max": 1 << 30}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite"


def at(first: int, records: Sequence[Record]) -> Sequence[tuple[int, Record]]:
    return list(enumerate(records, first))


def filled(path: Path, count: int, bounds: Bounds | None = None) -> Store:
    store = open_store(path, bounds or Bounds())
    store.commit(Change(now_ms=NOW_MS, records=at(1, [record(n) for n in range(1, count + 1)])))
    return store


def ids(rows: Sequence[tuple[int, Record]]) -> list[str]:
    return [each.id for _, each in rows]


def waiting(totals: Totals) -> tuple[int, ...]:
    return tuple(totals.rows[table] for table in (Queue.SAMPLES, Queue.STATES, DEAD_LETTERS))


def test_after_a_kill_a_commit_is_in_the_file_completely_or_not_at_all(path: Path) -> None:
    filled(path, 1).close()
    child = os.fork()
    if child == 0:
        store = open_store(path, Bounds())
        store.commit(Change(now_ms=NOW_MS, records=at(2, [record(2)]), memories=[memory(sequence=2)]))
        store._connection.execute("BEGIN IMMEDIATE")  # pyrefly: ignore[protected-access]
        store._apply(Change(now_ms=NOW_MS, records=at(3, [record(3)]), memories=[memory(sequence=3)]))  # pyrefly: ignore[protected-access]
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    store = open_store(path, Bounds())

    assert ids(store.read(Queue.SAMPLES, **ALL)) == ["id-1", "id-2"]
    assert store.memories()[0]["/run/vm/a.qmp"].history.sequence == 2
    store.close()


def test_records_come_out_of_a_queue_in_the_order_they_went_in(path: Path) -> None:
    store = open_store(path, Bounds())
    kinds = tuple(RecordKind)
    records = [record(n, kinds[n % 5]) for n in range(10)]
    for n in range(0, 10, 5):
        store.commit(Change(now_ms=NOW_MS, records=at(n + 1, records[n : n + 5])))

    assert ids(store.read(Queue.SAMPLES, **ALL)) == ["id-0", "id-5"]
    assert ids(store.read(Queue.STATES, **ALL)) == ["id-1", "id-2", "id-6", "id-7"]
    assert ids(store.read(Queue.MEMORY, **ALL)) == ["id-3", "id-4", "id-8", "id-9"]
    assert [each for _, each in store.read(Queue.SAMPLES, **ALL)] == records[::5]
    store.close()


def test_a_read_returns_the_blocks_that_fit_and_at_least_one(path: Path) -> None:
    store = open_store(path, Bounds())
    samples = [record(n, size_bytes=BLOCK_BYTES // 2) for n in range(1, 9)]  # two to a block
    store.commit(Change(now_ms=NOW_MS, records=at(1, samples)))

    assert ids(store.read(Queue.SAMPLES, after=0, size_bytes_max=1)) == ["id-1", "id-2"]
    assert ids(store.read(Queue.SAMPLES, after=1, size_bytes_max=1)) == ["id-2"]
    assert ids(store.read(Queue.SAMPLES, after=2, size_bytes_max=3 * BLOCK_BYTES)) == [
        f"id-{n}" for n in range(3, 7)
    ]
    assert ids(store.read(Queue.SAMPLES, after=7, size_bytes_max=1)) == ["id-8"]
    assert store.read(Queue.SAMPLES, after=8, size_bytes_max=1) == []
    store.close()


def test_small_commits_share_a_block(path: Path) -> None:
    store = open_store(path, Bounds())
    for n in range(1, 301):
        store.commit(Change(now_ms=NOW_MS, records=at(n, [record(n)]), settled={Queue.SAMPLES: n // 100}))
    found = blocks(path)
    assert [first for first, _ in found] == [1, *(last + 1 for _, last in found[:-1])]
    assert found[-1][1] == 300
    assert {
        BLOCK_RECORDS_MAX // 4 <= last - first + 1 <= BLOCK_RECORDS_MAX for first, last in found[:-1]
    } == {True}

    with pytest.raises(SpoolError):  # two blocks that begin at the same position
        store.commit(Change(now_ms=NOW_MS, records=[(900, record(1)), (900, record(2))]))
    store.commit(Change(now_ms=NOW_MS, records=at(301, [record(301)])))
    assert blocks(path)[len(found) :] == [(301, 301)]  # not appended to the one that was rolled back
    assert ids(store.read(Queue.SAMPLES, **ALL)) == [f"id-{n}" for n in range(4, 302)]
    store.close()


def blocks(path: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT first, last FROM samples ORDER BY first").fetchall()


def test_positions_continue_though_the_queue_is_empty(path: Path) -> None:
    filled(path, 3).close()
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, settled={Queue.SAMPLES: 3}))
    store.close()

    store = open_store(path, Bounds())

    assert store.last_position(Queue.SAMPLES) == 3
    store.close()


def test_a_record_stays_until_it_is_settled_and_a_store_opened_again_returns_it_again(path: Path) -> None:
    filled(path, 3).close()
    store = open_store(path, Bounds())
    assert ids(store.read(Queue.SAMPLES, **ALL)) == ["id-1", "id-2", "id-3"]

    store.commit(Change(now_ms=NOW_MS, settled={Queue.SAMPLES: 2}))
    store.close()

    store = open_store(path, Bounds())
    assert ids(store.read(Queue.SAMPLES, **ALL)) == ["id-3"]
    assert store.last_position(Queue.SAMPLES) == 3
    store.close()


def test_a_refused_record_moves_to_the_dead_letters_with_the_commit_that_settles_it(path: Path) -> None:
    store = filled(path, 2)
    letter = DeadLetter(record(1), "too_large", "larger than the topic takes", NOW_MS)

    totals = store.commit(Change(now_ms=NOW_MS, settled={Queue.SAMPLES: 1}, refused=[letter]))

    assert waiting(totals) == (1, 0, 1)
    store.close()


def test_a_full_file_drops_memory_samples_dead_letters_logs_then_states(path: Path) -> None:
    store = open_store(path, Bounds(size_bytes=1 << 20))
    memory_records = [record(n, RecordKind.HOST_MEMORY, size_bytes=1000) for n in range(2000)]
    filled = store.commit(Change(now_ms=NOW_MS, records=at(1, [*memory_records, record(1)])))
    assert filled.rows[Queue.SAMPLES] == 1
    assert filled.dropped == {(Queue.MEMORY, Loss.FULL): 2000 - filled.rows[Queue.MEMORY]}
    store.commit(Change(now_ms=NOW_MS, settled={Queue.MEMORY: 2000, Queue.SAMPLES: 2001}))
    states = [record(n, RecordKind.VM_STATE, size_bytes=1000) for n in range(100)]
    letters = [DeadLetter(record(n, size_bytes=1000), "invalid", "", NOW_MS) for n in range(100)]
    logs = [record(n, RecordKind.LOG, size_bytes=1000) for n in range(10)]
    store.commit(Change(now_ms=NOW_MS, records=[*at(1, states), *at(1, logs)], refused=letters))
    samples = [record(n, size_bytes=1000) for n in range(3000)]

    first = store.commit(Change(now_ms=NOW_MS, records=at(2002, samples)))

    assert first.used_bytes <= 1 << 20
    assert waiting(first)[1:] == (100, 100)
    assert first.rows[Queue.LOGS] == 10
    assert first.dropped == {(Queue.SAMPLES, Loss.FULL): 3000 - waiting(first)[0]}
    assert store.read(Queue.SAMPLES, **ALL)[-1][1].id == "id-2999"

    more = [record(n, RecordKind.VM_STATE, size_bytes=1000) for n in range(2000)]
    second = store.commit(Change(now_ms=NOW_MS, records=at(101, more)))

    assert waiting(second)[0] == waiting(second)[2] == 0
    assert second.dropped[DEAD_LETTERS, Loss.FULL] == 100
    assert second.dropped[Queue.LOGS, Loss.FULL] == 10
    assert second.dropped[Queue.STATES, Loss.FULL] == 2100 - waiting(second)[1] > 0
    store.close()


def test_what_is_being_sent_is_never_dropped(path: Path) -> None:
    store = open_store(path, Bounds(size_bytes=1 << 20, age_ms=1000))
    samples = [record(n, size_bytes=1000) for n in range(1, 3001)]

    change = Change(now_ms=NOW_MS + 2000, records=at(1, samples), sending={Queue.SAMPLES: 10})
    dropped = store.commit(change).dropped

    left = ids(store.read(Queue.SAMPLES, **ALL))
    assert left[:10] == [f"id-{n}" for n in range(1, 11)]
    assert len(left) == 3000 - sum(dropped.values()) < BLOCK_RECORDS_MAX
    store.close()


def test_only_the_rest_of_a_block_settled_in_part_is_counted_as_dropped(path: Path) -> None:
    store = open_store(path, Bounds(age_ms=1000))
    store.commit(Change(now_ms=NOW_MS, records=at(1, [record(n) for n in range(1, 11)])))

    totals = store.commit(Change(now_ms=NOW_MS + 2000, settled={Queue.SAMPLES: 7}))

    assert totals.dropped == {(Queue.SAMPLES, Loss.EXPIRED): 3}
    assert waiting(totals) == (0, 0, 0)
    store.close()


def test_a_block_expires_with_its_newest_record_and_dead_letters_stay(path: Path) -> None:
    store = open_store(path, Bounds(age_ms=1000))
    letter = DeadLetter(record(1, at_ms=NOW_MS - 5000), "invalid", "", NOW_MS - 5000)
    ages_ms = [1500, 1450, 1050, 1000, 0]  # blocks of up to 100 ms
    samples = [record(n, at_ms=NOW_MS - age_ms) for n, age_ms in enumerate(ages_ms)]
    states = [record(n, RecordKind.VM_STATE, at_ms=NOW_MS - 2000) for n in range(3)]

    totals = store.commit(Change(now_ms=NOW_MS, records=[*at(1, samples), *at(1, states)], refused=[letter]))

    assert ids(store.read(Queue.SAMPLES, **ALL)) == ["id-2", "id-3", "id-4"]
    assert totals.dropped == {(Queue.SAMPLES, Loss.EXPIRED): 2, (Queue.STATES, Loss.EXPIRED): 3}
    assert waiting(totals) == (3, 0, 1)
    store.close()


def test_the_totals_match_the_rows(path: Path) -> None:
    store = filled(path, 7)
    letters = [DeadLetter(record(1), "invalid", "", NOW_MS)]
    store.commit(Change(now_ms=NOW_MS, settled={Queue.SAMPLES: 3}, refused=letters))
    with pytest.raises(SpoolError):  # the second has the position of the first: nothing is kept
        store.commit(Change(now_ms=NOW_MS, records=[(9, record(8)), (9, record(9))]))
    store.close()

    with closing(sqlite3.connect(path)) as connection:
        counted = {str(queue): len(list(records_of(connection, queue))) for queue in Queue}
        counted[DEAD_LETTERS] = connection.execute(f"SELECT count(*) FROM {DEAD_LETTERS}").fetchone()[0]
    store = open_store(path, Bounds())

    expected = {"samples": 4, "states": 0, "memory": 0, "logs": 0, "dead_letters": 1}
    assert dict(store.totals().rows) == counted == expected
    store.close()


def _newer(path: Path) -> None:
    open_store(path, Bounds()).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def _older(path: Path) -> None:
    open_store(path, Bounds()).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()


def _text(path: Path) -> None:
    path.write_text("dear diary\n" * 1000)


def _broken_page(path: Path) -> None:
    filled(path, 500).close()
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 200)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (_newer, SpoolFault.NEWER),
        (_older, SpoolFault.OLDER),
        (_foreign, SpoolFault.FOREIGN),
        (_text, SpoolFault.DAMAGED),
        (_broken_page, SpoolFault.DAMAGED),
    ],
)
def test_a_file_of_a_newer_format_of_another_program_or_damaged_is_recognized_and_left_unchanged(
    path: Path, damage: Callable[[Path], object], fault: SpoolFault
) -> None:
    damage(path)
    content = path.read_bytes()

    with pytest.raises(SpoolError) as told:
        open_store(path, Bounds())

    assert told.value.fault is fault
    assert path.read_bytes() == content
    aside = set_aside(path, NOW_MS)
    assert Path(aside).read_bytes() == content
    open_store(path, Bounds()).close()


def test_a_second_file_set_aside_within_the_second_keeps_the_first(path: Path) -> None:
    path.write_text("one")
    first = set_aside(path, NOW_MS)
    path.write_text("two")
    second = set_aside(path, NOW_MS)

    assert (Path(first).read_text(), Path(second).read_text()) == ("one", "two")


def test_nothing_is_set_aside_for_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(SpoolError) as told:
        open_store(tmp_path / "missing" / "spool.sqlite", Bounds())

    assert told.value.fault is SpoolFault.UNUSABLE


@pytest.mark.parametrize("logs_too", [True, False], ids=["all of it", "the file alone"])
def test_a_deleted_file_is_noticed_and_written_again_with_everything_that_was_in_it(
    path: Path, logs_too: bool
) -> None:
    store = filled(path, 3)
    for each in list(path.parent.iterdir()):
        if logs_too or each == path:
            each.unlink()

    totals = store.commit(Change(now_ms=NOW_MS, records=at(4, [record(4)]), memories=[memory()]))
    store.close()

    assert totals.rescued
    assert waiting(totals) == (4, 0, 0)
    store = open_store(path, Bounds())
    assert ids(store.read(Queue.SAMPLES, **ALL)) == ["id-1", "id-2", "id-3", "id-4"]
    assert list(store.memories()[0]) == ["/run/vm/a.qmp"]
    store.close()


@pytest.mark.slow
def test_the_remembered_vms_are_bounded_and_the_least_recently_written_are_forgotten_first(
    path: Path,
) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=1, memories=[memory("/old"), memory("/kept")]))
    store.commit(Change(now_ms=2, memories=[memory("/kept")]))
    store.commit(Change(now_ms=3, memories=[memory(f"/run/{n}") for n in range(VMS_REMEMBERED - 2)]))
    assert len(store.memories()[0]) == VMS_REMEMBERED
    newer = [memory(f"/newer/{n}") for n in range(101)]
    store.commit(Change(now_ms=4, memories=[*newer, memory("/kept")]))

    found, problems = store.memories()
    assert (len(found), problems) == (VMS_REMEMBERED, [])
    assert "/old" not in found
    assert {"/kept", *(each.path for each in newer)} <= found.keys()
    store.close()


def test_an_unreadable_memory_affects_only_its_vm(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=1, memories=[memory("/a"), memory("/b")]))
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE vms SET memory = x'7b7d' WHERE path = '/a'")
    connection.close()

    store = open_store(path, Bounds())
    found, problems = store.memories()

    assert found == {"/b": memory("/b")}
    assert len(problems) == 1
    assert problems[0].startswith("/a: ")
    store.close()


def test_the_pages_of_a_delivered_backlog_are_returned(path: Path) -> None:
    store = open_store(path, Bounds())
    samples = [record(n, size_bytes=4000) for n in range(1, 6001)]
    store.commit(Change(now_ms=NOW_MS, records=at(1, samples)))
    store.commit(Change(now_ms=NOW_MS, settled={Queue.SAMPLES: 6000}))
    for _ in range(20):
        store.commit(Change(now_ms=NOW_MS))
    store.close()

    assert path.stat().st_size < 10 << 20 < 6000 * 4000
