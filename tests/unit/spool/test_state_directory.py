"""Tests of files in a directory of another user, who may place links there. Root must not follow them."""

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from agent.errors import SpoolError, SpoolFault, StateFileError
from agent.spool.disk import FILE_NAME as SPOOL
from agent.spool.files import mark_current
from agent.spool.ledger import open_ledger
from agent.spool.ledger_format import FILE_NAME, encode_owed
from agent.spool.state_directory import (
    act_as_owner,
    check_root_may_use,
    create_file,
    make_file_private,
    make_private,
    read_file,
    remove_unfinished,
    replace_file,
)
from agent.spool.store import Bounds, open_store
from tests.unit.spool.making import NOW_MS
from tests.unit.spool.test_ledger import change

OTHER = 1234
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Return a directory that another user owns."""
    directory = tmp_path / "theirs"
    directory.mkdir(mode=0o750)
    os.chown(directory, OTHER, OTHER)
    return directory


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file that only root may read."""
    file = tmp_path / "secret"
    file.write_text("root's")
    file.chmod(0o600)
    return file


def untouched(secret: Path) -> bool:
    status = secret.stat()
    return (secret.read_text(), status.st_uid, stat.S_IMODE(status.st_mode)) == ("root's", 0, 0o600)


def open_in(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)


def make_reachable(directory: Path) -> None:
    """Let other users enter the folders of the test, which otherwise only root may enter."""
    for parent in directory.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the agent as root."""
    return subprocess.run(
        [sys.executable, "-m", "agent", *words], check=False, capture_output=True, text=True, timeout=180
    )


@as_root
@pytest.mark.parametrize("name", [f".{FILE_NAME}.new", FILE_NAME, f"{FILE_NAME}.20261123T032226Z.bad"])
async def test_the_files_of_the_state_directory_are_opened_without_following_links(
    theirs: Path, secret: Path, name: str
) -> None:
    (theirs / FILE_NAME).write_bytes(b"not a ledger" if name.endswith("bad") else encode_owed([change(1)]))
    (theirs / name).unlink(missing_ok=True)
    (theirs / name).symlink_to(secret)
    refuses = pytest.raises(StateFileError, match="cannot be read: Too many levels of symbolic links")
    with refuses if name == FILE_NAME else nullcontext():
        async with open_ledger(str(theirs), 1_795_404_146_123, to_restore=True) as ledger:
            await ledger.record(change(2))

    assert untouched(secret)


def test_a_new_file_has_a_random_name_until_it_is_complete_and_only_its_owner_can_read_it(
    tmp_path: Path,
) -> None:
    before = os.umask(0)
    directory = open_in(tmp_path)
    try:
        names = set[str]()
        for _ in range(3):
            (tmp_path / "file").mkdir()  # nothing can be renamed to it
            with pytest.raises(IsADirectoryError):
                replace_file(directory, "file", b"content")
            (tmp_path / "file").rmdir()
            os.close(create_file(directory, f".file.{len(names)}.new"))
            names |= {each.name for each in tmp_path.iterdir()}
        replace_file(directory, "file", b"content")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
        assert names == {".file.0.new", ".file.1.new", ".file.2.new"}  # none is left from a failed write
        remove_unfinished(directory, "file")
        assert [each.name for each in tmp_path.iterdir()] == ["file"]
        assert read_file(directory, "file", 7) == b"content"
        with pytest.raises(OSError, match="larger than 6 bytes"):
            read_file(directory, "file", 6)
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OSError, match="Not a regular file"):
            read_file(directory, "fifo", 6)
    finally:
        os.close(directory)
        os.umask(before)


@as_root
async def test_a_file_that_root_writes_belongs_to_the_owner_of_the_directory(theirs: Path) -> None:
    async with open_ledger(str(theirs), NOW_MS, to_restore=True) as ledger:
        await ledger.record(change())

    status = (theirs / FILE_NAME).stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (OTHER, OTHER, 0o600)


@pytest.mark.slow
@as_root
async def test_root_refuses_a_directory_that_another_user_controls_or_becomes_that_user(
    theirs: Path, secret: Path, tmp_path: Path
) -> None:
    make_reachable(theirs)
    for name in (SPOOL, f"{SPOOL}-wal", f"{SPOOL}-shm", f"{SPOOL}.vouched"):
        (theirs / name).symlink_to(secret)

    with pytest.raises(StateFileError, match="controlled by another user, 1234; run the agent as that user"):
        async with open_ledger(str(theirs), NOW_MS):
            pass
    for words in (("status",), ("verify",), ("dead-letters", "list"), ("dead-letters", "drop", "--all")):
        done = command("spool", *words, "--state-directory", str(theirs))
        assert done.returncode, done.stdout
        assert (
            "unable to open database file" in done.stdout + done.stderr or "Permission denied" in done.stderr
        )
    assert untouched(secret)


def test_making_a_file_private_keeps_the_locks_of_sqlite(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / SPOOL)) as connection:
        connection.execute("CREATE TABLE a (b)")
        (tmp_path / SPOOL).chmod(0o644)
        connection.execute("BEGIN EXCLUSIVE")
        make_file_private(tmp_path / SPOOL)
        look = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        another = subprocess.run(
            [sys.executable, "-c", look, tmp_path / SPOOL], check=False, capture_output=True, text=True
        )

    assert "BlockingIOError" in another.stderr
    assert stat.S_IMODE((tmp_path / SPOOL).stat().st_mode) == 0o600


@pytest.mark.slow
@as_root
def test_a_spool_of_another_user_is_changed_as_that_user(theirs: Path) -> None:
    make_reachable(theirs)
    open_store(theirs / SPOOL, Bounds()).close()
    os.chown(theirs / SPOOL, OTHER, OTHER)

    done = command("spool", "dead-letters", "drop", "--all", "--file", str(theirs / SPOOL))

    assert (done.returncode, done.stdout, done.stderr) == (0, "dropped 0 records\n", "")
    assert {each.stat().st_uid for each in theirs.iterdir()} == {OTHER}


@as_root
@pytest.mark.parametrize("where", ["itself", "above"])
def test_a_directory_that_a_group_may_write_to_is_refused_to_root(tmp_path: Path, where: str) -> None:
    directory = tmp_path / "above" / "itself"
    directory.mkdir(parents=True)
    shared = directory if where == "itself" else directory.parent
    shared.chmod(0o770)

    for refuse in (check_root_may_use, act_as_owner):
        with pytest.raises(StateFileError, match=f"{shared}: other users may write to it"):
            refuse(directory)
    shared.chmod(0o755)
    check_root_may_use(directory)
    act_as_owner(directory)


@as_root
def test_a_directory_behind_another_users_link_is_refused_to_root(tmp_path: Path) -> None:
    directory, link = tmp_path / "directory", tmp_path / "link"
    directory.mkdir()
    link.symlink_to(directory)
    check_root_may_use(link)  # root's own
    os.chown(link, OTHER, OTHER, follow_symlinks=False)

    for written in (link, link / "below"):
        with pytest.raises(StateFileError, match="controlled by another user, 1234"):
            check_root_may_use(written)


@as_root
def test_sqlite_is_given_no_link_that_another_user_has_made(tmp_path: Path, secret: Path) -> None:
    for name in (SPOOL, f"{SPOOL}-wal", f"{SPOOL}-shm"):
        link = tmp_path / name
        link.symlink_to(secret)
        os.chown(link, OTHER, OTHER, follow_symlinks=False)
        with pytest.raises(SpoolError, match="a link that another user has made") as refused:
            open_store(tmp_path / SPOOL, Bounds())
        assert refused.value.fault is SpoolFault.UNUSABLE
        link.unlink()
    (tmp_path / f"{SPOOL}.vouched").symlink_to(secret)
    with pytest.raises(SpoolError, match="symbolic link"):
        mark_current(tmp_path / SPOOL)
    assert untouched(secret)


async def test_files_of_an_earlier_version_and_the_agents_own_directory_become_private(
    tmp_path: Path,
) -> None:
    own, mixed = tmp_path / "own", tmp_path / "mixed"
    for directory in (own, mixed):
        directory.mkdir()
        directory.chmod(0o755)
        with closing(sqlite3.connect(directory / SPOOL)):
            pass
        (directory / SPOOL).chmod(0o644)
    (mixed / "another").touch()

    for directory in (own, mixed):
        async with open_ledger(str(directory), NOW_MS):
            open_store(directory / SPOOL, Bounds()).close()
        assert stat.S_IMODE((directory / SPOOL).stat().st_mode) == 0o600

    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert stat.S_IMODE(mixed.stat().st_mode) == 0o755  # it may be /var/lib


def test_a_directory_of_another_user_keeps_its_permissions(theirs: Path) -> None:
    descriptor = open_in(theirs)
    make_private(descriptor)
    os.close(descriptor)

    assert stat.S_IMODE(theirs.stat().st_mode) == 0o750
