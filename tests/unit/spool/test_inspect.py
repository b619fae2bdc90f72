"""Tests that inspecting the file of a running agent, or a copy of it, does not change it."""

import hashlib
import os
import shutil
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent.errors import SpoolError, SpoolFault
from agent.spool.format import FORMAT
from agent.spool.inspect import Waiting, contents
from agent.spool.queues import Queue
from agent.spool.store import Bounds, Change, open_store
from tests.unit.spool.letters import fill, refused, sample, state
from tests.unit.spool.making import NOW_MS, memory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite"


def test_the_contents_of_a_spool_are_summarized(path: Path) -> None:
    store = open_store(path, Bounds())
    records = [sample(1, at_ms=NOW_MS - 5_000), sample(2), state()]
    letters = [refused(sample(3)), refused(sample(4)), refused(state(), "invalid")]
    store.commit(
        Change(now_ms=NOW_MS, records=list(enumerate(records, 1)), memories=[memory()], refused=letters)
    )
    used_bytes = store.totals().used_bytes
    store.close()

    found = contents(path)

    assert found.format == FORMAT
    assert found.waiting[Queue.SAMPLES] == Waiting(2, NOW_MS - 5_000)
    assert found.waiting[Queue.STATES] == Waiting(1, state().timestamp_ms)
    assert found.dead_letters == {"invalid": 1, "too_large": 2}
    assert found.vms == 1
    assert found.used_bytes == used_bytes
    assert found.file_bytes == path.stat().st_size


def test_free_pages_are_not_counted_as_used(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, records=[(n, sample(n)) for n in range(1, 500)]))
    store.commit(Change(now_ms=NOW_MS, settled={Queue.SAMPLES: 499}))
    used_bytes = store.totals().used_bytes
    store.close()

    found = contents(path)

    assert found.used_bytes == used_bytes < found.file_bytes


def test_an_empty_spool_has_no_records(path: Path) -> None:
    fill(path)

    assert set(contents(path).waiting.values()) == {Waiting(0, None)}


def test_the_file_of_a_running_agent_is_read_with_its_log_and_left_unchanged(path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, records=[(1, sample(1))]))
    log = path.with_name("spool.sqlite-wal")
    before = [hashlib.sha256(each.read_bytes()).digest() for each in (path, log)]

    found = contents(path)

    assert found.waiting[Queue.SAMPLES].records == 1
    assert found.log_bytes == log.stat().st_size > 0
    assert [hashlib.sha256(each.read_bytes()).digest() for each in (path, log)] == before
    store.commit(Change(now_ms=NOW_MS, records=[(2, sample(2))]))
    assert contents(path).waiting[Queue.SAMPLES].records == 2
    store.close()


def test_a_copy_of_a_killed_agents_file_and_log_is_read(path: Path, tmp_path: Path) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, records=[(1, sample(1))]))
    copy = tmp_path / "copy" / "c.sqlite"
    copy.parent.mkdir()
    for ending in ("", "-wal"):
        shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    store.close()

    assert contents(copy).waiting[Queue.SAMPLES].records == 1


def test_a_file_in_a_read_only_directory_is_read() -> None:
    with TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        path = Path(folder) / "spool.sqlite"
        fill(path, [sample(1)])
        path.chmod(0o444)
        path.parent.chmod(0o555)
        child = os.fork()
        if child == 0:
            found = 9
            try:
                if os.geteuid() == 0:  # root may write everywhere
                    os.seteuid(65_534)
                found = contents(path).waiting[Queue.SAMPLES].records
            finally:
                os._exit(found)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert [each.name for each in path.parent.iterdir()] == ["spool.sqlite"]
        path.parent.chmod(0o755)


def test_a_missing_spool_is_not_created(path: Path) -> None:
    with pytest.raises(SpoolError) as raised:
        contents(path)

    assert str(raised.value) == f"{path}: no spool at this path; use --state-directory or --file"
    assert not path.exists()


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def newer(path: Path) -> None:
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def older(path: Path) -> None:
    newer(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 1")
    connection.close()


def empty(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("VACUUM")
    connection.close()


def not_a_database(path: Path) -> None:
    path.write_bytes(b"something else entirely " * 100)


@pytest.mark.parametrize(
    ("make", "fault", "detail"),
    [
        (foreign, SpoolFault.FOREIGN, "a database of another program"),
        (newer, SpoolFault.NEWER, f"format 99 is newer; this version reads format {FORMAT}"),
        (older, SpoolFault.OLDER, f"format 1 is older; this version reads format {FORMAT}"),
        (empty, SpoolFault.UNUSABLE, "an empty database, not a spool"),
        (not_a_database, SpoolFault.DAMAGED, "file is not a database (SQLITE_NOTADB)"),
    ],
)
def test_an_unusable_file_is_reported_and_left_unchanged(
    path: Path, make: object, fault: SpoolFault, detail: str
) -> None:
    assert callable(make)
    make(path)
    before = path.read_bytes()

    with pytest.raises(SpoolError) as raised:
        contents(path)

    assert (raised.value.fault, raised.value.detail) == (fault, detail)
    assert path.read_bytes() == before
