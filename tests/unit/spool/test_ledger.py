import fcntl
import json
import os
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
from agent.spool.ledger_format import FILE_NAME, NotOurFormat, decode_owed, encode_owed

NOW_MS = 1_795_404_146_123
NAMED = "owed.json.20261123T032226Z.bad"


def debt(n: int = 1) -> IntervalChange:
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
            assert logs == []  # nothing was set aside
            return ledger.entries()


async def test_what_is_remembered_is_on_the_disk_before_the_caller_goes_on_and_found_by_the_next_start(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "made" / "by-us"
    async with open_ledger(str(directory), NOW_MS) as ledger:
        await ledger.remember(debt(2))
        await ledger.remember(debt(1))
        on_disk = decode_owed((directory / FILE_NAME).read_bytes())

    assert set(on_disk) == {debt(1), debt(2)}
    assert await entries_of(directory) == (debt(1), debt(2))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
async def test_what_root_writes_belongs_to_the_service_s_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1235)
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.remember(debt())

    found = (tmp_path / FILE_NAME).stat()
    assert (found.st_uid, found.st_gid) == (1234, 1235)


async def test_a_process_is_owed_what_was_remembered_last(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.remember(debt())
        await ledger.remember(replace(debt(), interval_set_s=20))

        assert ledger.owed(debt().address, debt().mark) == replace(debt(), interval_set_s=20)
        assert ledger.owed(debt().address, replace(debt().mark, mtime_ns=1)) is None
    assert await entries_of(tmp_path) == (replace(debt(), interval_set_s=20),)


async def test_two_processes_that_had_one_path_are_owed_each_their_own(tmp_path: Path) -> None:
    restarted = replace(debt(), mark=SocketMark(8, 1, 99), set_at_ms=NOW_MS + 5)
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.remember(restarted)
        await ledger.remember(debt())
        await ledger.forget(debt().address, debt().mark)

    assert await entries_of(tmp_path) == (restarted,)


async def test_what_is_forgotten_is_not_found_again(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.remember(debt(1))
        await ledger.remember(debt(2))
        await ledger.forget(debt(1).address, debt(1).mark)
        await ledger.forget(debt(3).address, debt(3).mark)

    assert await entries_of(tmp_path) == (debt(2),)


async def test_many_at_once_are_all_remembered(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger, anyio.create_task_group() as group:
        for n in range(1, 40):
            group.start_soon(ledger.remember, debt(n))

    assert set(await entries_of(tmp_path)) == {debt(n) for n in range(1, 40)}


async def test_what_is_changed_while_a_write_is_under_way_goes_into_the_next_one_all_together(
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
                group.start_soon(ledger.remember, debt(n))
        watching.cancel_scope.cancel()

    assert len(await entries_of(tmp_path)) == 399
    assert 1 <= len(seen) <= 4


async def test_two_agents_cannot_have_one_ledger_at_a_time(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS):
        with pytest.raises(StateFileError, match="another agent uses this state directory"):
            async with open_ledger(str(tmp_path), NOW_MS):
                pass
    await entries_of(tmp_path)


async def test_no_lock_is_left_by_a_start_that_failed(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StateFileError, match=r"owed\.json: cannot be read: Is a directory"):
        await entries_of(tmp_path)

    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "is not JSON"),
        (encode_owed([debt()])[:-20], "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a ledger"),
        (b"{}", "has the format None, and this version reads 1"),
        (b'{"format": 2, "owed": []}', "has the format 2, and this version reads 1"),
        (b'{"format": 1}', "has no list of what is owed"),
        (b'{"format": 1, "owed": [3]}', "has an entry that is none"),
        (b'{"format": 1, "owed": [{"path": "/x"}]}', "has an entry without a mark"),
        (b'{"format": 1, "owed": [{"mark": {}}]}', "has an entry whose path is not text"),
        (
            encode_owed([debt()]).replace(b": 17\n", b": true\n"),
            "has an entry whose mtime_ns is not a whole number",
        ),
        (
            encode_owed([debt()]).replace(b": 10,", b": 1.5,"),
            "has an entry whose interval_set_s is not a whole number",
        ),
    ],
)
async def test_a_file_that_cannot_be_understood_is_set_aside_under_a_dated_name_and_reported(
    tmp_path: Path, content: bytes, detail: str
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with capture_logs() as logs:
        async with open_ledger(str(tmp_path), NOW_MS) as ledger:
            assert ledger.entries() == ()
            await ledger.remember(debt())

    assert [(line["log_level"], line["path"], line["detail"]) for line in logs] == [
        ("error", str(tmp_path / NAMED), detail)
    ]
    assert (tmp_path / NAMED).read_bytes() == content
    assert await entries_of(tmp_path) == (debt(),)


async def test_what_was_set_aside_before_is_not_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"second", b"third"):
        (tmp_path / FILE_NAME).write_bytes(content)
        async with open_ledger(str(tmp_path), NOW_MS):
            pass

    assert [(tmp_path / f"{NAMED}{end}").read_bytes() for end in ("", ".1", ".2")] == [
        b"first",
        b"second",
        b"third",
    ]


async def test_a_write_that_fails_leaves_the_file_as_it_was_and_is_reported_to_all_whose_change_was_in_it(
    tmp_path: Path,
) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        await ledger.remember(debt(1))
        (tmp_path / f".{FILE_NAME}.new").mkdir()  # the one thing root cannot write over
        with pytest.raises(StateFileError, match=r"owed\.json: cannot be written: Is a directory"):
            await ledger.remember(debt(2))
        with pytest.raises(StateFileError, match="cannot be written"):
            await ledger.forget(debt(1).address, debt(1).mark)
        told: list[int] = []

        async def try_to_remember(n: int) -> None:
            with pytest.raises(StateFileError, match="cannot be written"):
                await ledger.remember(debt(n))
            told.append(n)

        async with anyio.create_task_group() as group:
            for n in range(3, 9):
                group.start_soon(try_to_remember, n)

        assert sorted(told) == list(range(3, 9))
        assert ledger.entries() == (debt(1),)
        (tmp_path / f".{FILE_NAME}.new").rmdir()
    assert await entries_of(tmp_path) == (debt(1),)


async def test_a_cancelled_caller_leaves_the_write_whole(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS) as ledger:
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.remember, debt())
            while is_empty(tmp_path):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()  # while the thread waits for the disk

        assert ledger.entries() == (debt(),)
        assert decode_owed((tmp_path / FILE_NAME).read_bytes()) == (debt(),)


@pytest.mark.parametrize("where", ["/proc/barograph", "/dev/null/barograph", "/dev/null"])
async def test_a_directory_that_cannot_be_had_is_told(where: str) -> None:
    with pytest.raises(StateFileError, match="the state directory cannot be had"):
        async with open_ledger(where, NOW_MS):
            pass


async def test_a_directory_that_cannot_be_written_to_is_told() -> None:
    with pytest.raises(StateFileError, match="/proc/self: the state directory cannot be used"):
        async with open_ledger("/proc/self", NOW_MS):
            pass


def test_the_format_is_versioned_and_keeps_paths_that_are_not_text() -> None:
    odd = replace(debt(), address=MonitorPath("/run/\udcff.qmp"))
    content = encode_owed([odd])

    assert json.loads(content)["format"] == 1
    assert decode_owed(content) == (odd,)
    with pytest.raises(NotOurFormat):
        decode_owed(b"null")
