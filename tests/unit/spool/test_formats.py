"""Tests that a spool of the current format, written earlier, is opened with all of its contents."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from agent.core.reading import RecordKind
from agent.spool.dead_letters import dead_letters
from agent.spool.format import (
    FORMAT,
    RecordRow,
    Undecodable,
    checked,
    decode_checked_record,
    decode_memory,
    decode_record,
    encode_record,
)
from agent.spool.queues import Queue
from agent.spool.store import Bounds, Change, open_store
from agent.spool.tables import pragma
from agent.spool.verify import verify
from tests.unit.spool.making import NOW_MS, memory, record

DUMP = Path(__file__).parents[2] / f"data/spool/format-{FORMAT}.sql"


def test_a_spool_written_earlier_is_opened_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP.read_text())

    store = open_store(path, Bounds())
    found = {queue: store.read(queue, after=0, size_bytes_max=1 << 20) for queue in Queue}
    memories, problems = store.memories()
    store.commit(Change(now_ms=NOW_MS, records=[(4, record(5)), (1, record(6, RecordKind.HOST_MEMORY))]))
    store.close()

    assert found == {
        Queue.SAMPLES: [(2, record(1)), (3, record(2))],
        Queue.STATES: [(1, record(3, RecordKind.VM_STATE))],
        Queue.MEMORY: [],
        Queue.LOGS: [(1, record(6, RecordKind.LOG))],
    }
    assert (memories, problems) == ({"/run/vm/a.qmp": memory(sequence=2)}, [])
    assert [(each.record, each.reason) for each in dead_letters(path)] == [(record(4), "too_large")]
    with closing(sqlite3.connect(path)) as connection:
        assert pragma(connection, "user_version") == FORMAT
    assert not [each for each in verify(path).problems if "not a valid document" not in each]


def test_a_format_has_the_kinds_of_records_that_it_began_with() -> None:
    """An older version of the same format takes an unknown kind for damage, and sets the file aside."""
    kinds = {3: "sample vm_state agent_state vm_memory host_memory log"}

    assert {kind.value for kind in RecordKind} == set(kinds[FORMAT].split()), "raise FORMAT for a new kind"


@pytest.mark.parametrize("column", range(6))
def test_a_row_with_a_null_column_is_undecodable(column: int) -> None:
    row: list[object] = list(encode_record(record(1)))
    row[column] = None  # SQLite returns NULL from some damaged pages, though no column may be NULL

    with pytest.raises(Undecodable, match="a column is missing or has a wrong type"):
        decode_record(cast(RecordRow, tuple(row)))


def test_a_null_number_of_a_damaged_page_is_undecodable() -> None:
    assert checked([(1, 2), (3, 4)]) == ((1, 2), (3, 4))
    with pytest.raises(Undecodable, match="a number is missing"):
        checked([(1, 2), cast("tuple[int, int]", (3, None))])


@pytest.mark.parametrize("content", [None, b"\xff", b'{"x": ' + b"[" * 99_999])
def test_a_memory_of_a_damaged_page_is_undecodable(content: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decode_memory(cast(bytes, content))


def test_only_a_checked_record_has_its_headers_decoded() -> None:
    damaged = replace(record(1), headers=b"\xc1")

    assert decode_record(encode_record(damaged)) == damaged
    assert decode_checked_record(encode_record(record(1))) == record(1)
    with pytest.raises(Undecodable, match="record 'id-1': damaged headers"):
        decode_checked_record(encode_record(damaged))
