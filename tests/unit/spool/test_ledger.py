import fcntl
import os
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from agent.core.address import MonitorPath
from agent.core.ownership import IntervalChange
from agent.core.reading import SocketMark
from agent.errors import StateFileError
from agent.spool.ledger import open_ledger
from agent.spool.ledger_format import FILE_NAME, decode_owed, encode_owed

NOW_MS = 1_795_404_146_123
NAMED = "owed.json.20261123T032226Z.bad"


def change(n: int = 1) -> IntervalChange:
    return IntervalChange(
        MonitorPath(f"/run/vm/{n}.qmp"),
        SocketMark(8, n, 17 * n),
        "/machine/peripheral/balloon0",
        0,
        10,
        NOW_MS + n,
    )


def is_empty(directory: Path) -> bool:
    return not any(directory.iterdir())


async def entries_of(directory: Path) -> tuple[IntervalChange, ...]:
    with capture_logs() as logs:
        async with open_ledger(str(directory), NOW_MS) as ledger:
            assert logs == []  # no file was set aside
            return ledger.entries()


async def test_an_entry_is_on_disk_before_the_caller_continues_and_the_next_start_finds_it(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "made" / "by-us"
    async with open_ledger(str(directory), NOW_MS) as ledger:
        await ledger.record(change(2))
        await ledger.record(change(1))
        on_disk = decode_owed((directory / FILE_NAME).read_bytes())

    assert set(on_disk) == {change(1), change(2)}
    assert await entries_of(directory) == (change(1), change(2))


async def test_a_new_entry_replaces_the_one_of_the_same_process(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.record(change())
        await ledger.record(replace(change(), interval_set_s=20))

        assert ledger.find(change().address, change().mark) == replace(change(), interval_set_s=20)
        assert ledger.find(change().address, replace(change().mark, mtime_ns=1)) is None
    assert await entries_of(tmp_path) == (replace(change(), interval_set_s=20),)


async def test_two_processes_on_one_path_have_an_entry_each(tmp_path: Path) -> None:
    restarted = replace(change(), mark=SocketMark(8, 1, 99), set_at_ms=NOW_MS + 5)
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.record(restarted)
        await ledger.record(change())
        await ledger.remove(change().address, change().mark)

    assert await entries_of(tmp_path) == (restarted,)


async def test_a_removed_entry_is_not_found_again(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.record(change(1))
        await ledger.record(change(2))
        await ledger.remove(change(1).address, change(1).mark)
        await ledger.remove(change(3).address, change(3).mark)

    assert await entries_of(tmp_path) == (change(2),)


async def test_many_entries_at_once_are_all_written(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger, anyio.create_task_group() as group:
        for n in range(1, 40):
            group.start_soon(ledger.record, change(n))

    assert set(await entries_of(tmp_path)) == {change(n) for n in range(1, 40)}


async def test_changes_that_arrive_during_a_write_are_written_together_by_the_next_one(
    tmp_path: Path,
) -> None:
    seen: set[tuple[int, int]] = set()

    async def watch() -> None:
        while True:
            with suppress(FileNotFoundError):
                status = (tmp_path / FILE_NAME).stat()
                seen.add((status.st_ino, status.st_mtime_ns))
            await anyio.lowlevel.checkpoint()

    async with open_ledger(str(tmp_path), NOW_MS) as ledger, anyio.create_task_group() as watching:
        watching.start_soon(watch)
        async with anyio.create_task_group() as group:
            for n in range(1, 400):
                group.start_soon(ledger.record, change(n))
        watching.cancel_scope.cancel()

    assert len(await entries_of(tmp_path)) == 399
    assert 1 <= len(seen) <= 4


async def test_only_one_agent_at_a_time_has_a_ledger_open(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS):
        with pytest.raises(StateFileError, match="another agent uses this state directory"):
            async with open_ledger(str(tmp_path), NOW_MS):
                pass
    await entries_of(tmp_path)


async def test_a_failed_start_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StateFileError, match=r"owed\.json: cannot be read: Is a directory"):
        await entries_of(tmp_path)

    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "not JSON"),
        (encode_owed([change()])[:-20], "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "not a ledger: Expected `object`, got `null`"),
        (b"[]", "not a ledger: Expected `object`, got `array`"),
        (b"{}", "format None is not supported; this version reads format 1"),
        (b'{"format": 0, "owed": []}', "format 0 is not supported; this version reads format 1"),
        (b'{"format": [2], "owed": 1}', "format [2] is not supported; this version reads format 1"),
        (b'{"format": 1}', "not a ledger: Object missing required field `owed`"),
        (b'{"format": 1, "owed": {}}', "not a ledger: Expected `array`, got `object` - at `$.owed`"),
        (b'{"format": 1, "owed": [3]}', "not a ledger: Expected `object`, got `int` - at `$.owed[0]`"),
        (
            b'{"format": 1, "owed": [{"path": "/x"}]}',
            "not a ledger: Object missing required field `mark` - at `$.owed[0]`",
        ),
        (
            encode_owed([change()]).replace(b": 17\n", b": true\n"),
            "not a ledger: Expected `int`, got `bool` - at `$.owed[0].mark.mtime_ns`",
        ),
        (
            encode_owed([change()]).replace(b": 10,", b": 1.5,"),
            "not a ledger: Expected `int`, got `float` - at `$.owed[0].interval_set_s`",
        ),
        (
            encode_owed([change()]).replace(b'"/run/vm/1.qmp"', b"1"),
            "not a ledger: Expected `str`, got `int` - at `$.owed[0].path`",
        ),
    ],
)
async def test_a_file_that_cannot_be_read_as_a_ledger_is_set_aside_under_a_dated_name_and_reported(
    tmp_path: Path, content: bytes, detail: str
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with capture_logs() as logs:
        async with open_ledger(str(tmp_path), NOW_MS) as ledger:
            assert ledger.entries() == ()
            await ledger.record(change())

    assert [(line["log_level"], line["path"], line["problem"]) for line in logs] == [
        ("error", str(tmp_path / NAMED), detail)
    ]
    assert (tmp_path / NAMED).read_bytes() == content
    assert await entries_of(tmp_path) == (change(),)


async def test_a_file_of_a_newer_version_is_left_unchanged_and_prevents_the_start(tmp_path: Path) -> None:
    content = b'{"format": 2, "owed": [{"monitor": "/run/vm/1.qmp"}]}'
    (tmp_path / FILE_NAME).write_bytes(content)

    with pytest.raises(StateFileError, match=r"owed\.json: format 2 is newer; .*install that version again"):
        await entries_of(tmp_path)

    assert os.listdir(tmp_path) == [FILE_NAME]
    assert (tmp_path / FILE_NAME).read_bytes() == content


async def test_a_file_set_aside_earlier_is_not_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"second", b"third"):
        (tmp_path / FILE_NAME).write_bytes(content)
        async with open_ledger(str(tmp_path), NOW_MS):
            pass

    names = ["owed.json.20261123T032226Z.bad", *(f"owed.json.20261123T032226Z.{n}.bad" for n in (2, 3))]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"first", b"second", b"third"]


async def test_a_failed_write_leaves_the_file_unchanged_and_fails_every_caller_whose_change_was_in_it(
    tmp_path: Path,
) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.record(change(1))
        file, kept = tmp_path / FILE_NAME, tmp_path / "kept"
        file.rename(kept)
        file.mkdir()  # not even root can write over a directory
        with pytest.raises(StateFileError, match=r"owed\.json: cannot be written: Is a directory"):
            await ledger.record(change(2))
        with pytest.raises(StateFileError, match="cannot be written"):
            await ledger.remove(change(1).address, change(1).mark)
        failed: list[int] = []

        async def try_to_record(n: int) -> None:
            with pytest.raises(StateFileError, match="cannot be written"):
                await ledger.record(change(n))
            failed.append(n)

        async with anyio.create_task_group() as group:
            for n in range(3, 9):
                group.start_soon(try_to_record, n)

        assert sorted(failed) == list(range(3, 9))
        assert ledger.entries() == (change(1),)
        file.rmdir()
        kept.rename(file)
    assert await entries_of(tmp_path) == (change(1),)


async def test_canceling_a_caller_does_not_interrupt_the_write_and_does_not_wait_for_it(
    tmp_path: Path,
) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.record, change())
            while is_empty(tmp_path):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()  # while the thread waits for the disk

        await ledger.settle()
        assert ledger.entries() == (change(),)
        assert decode_owed((tmp_path / FILE_NAME).read_bytes()) == (change(),)


@pytest.mark.parametrize("where", ["/proc/barograph", "/dev/null/barograph", "/dev/null"])
async def test_an_unusable_directory_is_reported(where: str) -> None:
    with pytest.raises(StateFileError, match="cannot use the state directory"):
        async with open_ledger(where, NOW_MS):
            pass


async def test_a_directory_that_cannot_be_written_to_is_reported() -> None:
    with pytest.raises(StateFileError, match="/proc/self: cannot use the state directory"):
        async with open_ledger("/proc/self", NOW_MS):
            pass


class Disk:
    """A file system of 64 KiB with writes that can be made to fail."""

    def __init__(self, place: Path, trouble: str) -> None:
        self._place = place
        self._trouble = trouble
        self._run("mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs")

    def _run(self, *words: str) -> None:
        subprocess.run([*words, str(self._place)], check=True)

    def fail(self) -> None:
        if self._trouble == "read-only":
            self._run("mount", "-o", "remount,ro")
            return
        with suppress(OSError), (self._place / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def work(self) -> None:
        if self._trouble == "read-only":
            self._run("mount", "-o", "remount,rw")
        else:
            (self._place / "ballast").unlink()

    def end(self) -> None:
        self._run("umount", "--lazy")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own: needs root")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
async def test_a_full_or_read_only_disk_does_not_prevent_the_start(tmp_path: Path, trouble: str) -> None:
    disk = Disk(tmp_path, trouble)
    try:
        async with open_ledger(str(tmp_path), NOW_MS) as ledger:
            await ledger.record(change(1))
        disk.fail()
        with capture_logs() as logs:
            async with open_ledger(str(tmp_path), NOW_MS) as ledger:
                assert ledger.entries() == (change(1),)
                with pytest.raises(StateFileError, match="cannot be written"):
                    await ledger.record(change(2))
                disk.work()
                await ledger.record(change(2))
                assert ledger.entries() == (change(1), change(2))
        disk.fail()
        with pytest.raises(StateFileError, match="cannot use the state directory"):
            await open_ledger(str(tmp_path), NOW_MS, to_restore=True).__aenter__()
    finally:
        disk.end()
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "state directory cannot be written")
    ]


async def test_a_file_larger_than_the_bound_fails_the_start(tmp_path: Path) -> None:
    with (tmp_path / FILE_NAME).open("wb") as file:
        file.truncate((64 << 20) + 1)

    with pytest.raises(StateFileError, match="larger"):
        async with open_ledger(str(tmp_path), NOW_MS):
            pass
