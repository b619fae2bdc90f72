"""Every format ever released is opened, with all that is in it, and is the present one afterwards."""

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
    decode_checked_record,
    decode_memory,
    decode_record,
    encode_record,
)
from agent.spool.store import Bounds, Change, Queue, open_store
from agent.spool.tables import pragma
from agent.spool.verify import verify
from tests.unit.spool.making import NOW_MS, memory, record

DUMPS = sorted((Path(__file__).parents[2] / "data/spool").glob("format-*.sql"))


def test_there_is_a_dump_of_each_format() -> None:
    assert [each.stem for each in DUMPS] == [f"format-{number}" for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.stem)
def test_a_spool_of_a_released_format_is_opened_with_all_that_is_in_it(dump: Path, tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(dump.read_text())

    store = open_store(path, Bounds())
    samples = store.read(Queue.SAMPLES, after=0, records_max=9, size_bytes_max=1 << 20)
    states = store.read(Queue.STATES, after=0, records_max=9, size_bytes_max=1 << 20)
    logs = store.read(Queue.LOGS, after=0, records_max=9, size_bytes_max=1 << 20)
    memories, problems = store.memories()
    store.commit(Change(now_ms=NOW_MS, records=[(3, record(5)), (1, record(6, RecordKind.HOST_MEMORY))]))
    store.close()

    assert samples == [(1, record(1)), (2, record(2))]
    assert states == [(1, record(3, RecordKind.VM_STATE))]
    assert logs == ([] if dump.stem == "format-1" else [(1, record(6, RecordKind.LOG))])  # since format 2
    assert (memories, problems) == ({"/run/vm/a.qmp": memory(sequence=2)}, [])
    assert [(each.record, each.reason) for each in dead_letters(path)] == [(record(4), "too_large")]
    with closing(sqlite3.connect(path)) as connection:
        assert pragma(connection, "user_version") == FORMAT
    assert not [each for each in verify(path).problems if "total" in each or "decode" in each]


@pytest.mark.parametrize("column", range(6))
def test_a_row_with_nothing_in_a_column_is_told_as_undecodable(column: int) -> None:
    row: list[object] = list(encode_record(record(1)))
    row[column] = None  # what SQLite gives of some damaged pages, though no column may be without

    with pytest.raises(Undecodable, match="a column is missing or has a wrong type"):
        decode_record(cast(RecordRow, tuple(row)))


def test_a_memory_that_a_damaged_page_gives_as_nothing_is_undecodable() -> None:
    with pytest.raises(Undecodable):
        decode_memory(cast(bytes, None))


def test_headers_are_only_looked_into_where_people_look() -> None:
    damaged = replace(record(1), headers=b"\xc1")

    assert decode_record(encode_record(damaged)) == damaged
    assert decode_checked_record(encode_record(record(1))) == record(1)
    with pytest.raises(Undecodable, match="record 'id-1': damaged headers"):
        decode_checked_record(encode_record(damaged))
