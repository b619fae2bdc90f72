"""One look at the kernel's list of queues serves every open link."""

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from agent.core.events import LinkEvent, OthersUnseen, OthersWait
from agent.core.reading import SocketMark
from agent.qmp import backlog
from agent.qmp.endpoint import mark_of
from agent.qmp.lookout import UNSEEN_LOOKS, Lookout

HERE, NOT_HERE = SocketMark(1, 2, 3), SocketMark(1, 4, 3)
FILE = backlog.file_of(HERE.device, HERE.inode)


class Kernel:
    """A kernel that answers the looks with these lists or errors in order, and then repeats the last one."""

    def __init__(self, *shown: dict[backlog.File, int] | Exception) -> None:
        self.shown = list(shown)
        self.looks = 0

    def __call__(self) -> dict[backlog.File, int]:
        self.looks += 1
        shown = self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]
        if isinstance(shown, Exception):
            raise shown
        return dict(shown)


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not holds():  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.01)


async def told(kernel: Kernel, mark: SocketMark, looks: int) -> list[LinkEvent]:
    events: list[LinkEvent] = []
    lookout = Lookout(kernel, every_s=0.02)
    async with anyio.create_task_group() as group:
        group.start_soon(lookout.run)
        with lookout.watching(mark, events.append):
            await until(lambda: kernel.looks > looks)
        group.cancel_scope.cancel()
    return events


async def test_a_waiting_client_is_reported_at_each_look() -> None:
    assert await told(Kernel({FILE: 0}, {FILE: 1}, {FILE: 2}, {FILE: 0}), HERE, 4) == [
        OthersWait(),
        OthersWait(),
    ]


async def test_a_listener_that_is_not_shown_is_reported_once_after_several_looks() -> None:
    assert await told(Kernel({}, {FILE: 0}, {}, {}, {FILE: 0}), HERE, 5) == []
    assert await told(Kernel({FILE: 1}), NOT_HERE, UNSEEN_LOOKS + 2) == [OthersUnseen()]


async def test_a_list_that_was_not_read_again_does_not_count_as_another_look() -> None:
    kernel = Kernel({})
    events: list[LinkEvent] = []
    times = iter([0.0, 0.0, 5.0])  # reading the list took five seconds
    lookout = Lookout(backlog.SharedLooks(kernel, lambda: next(times, 6.0)), every_s=0.01)
    async with anyio.create_task_group() as group:
        group.start_soon(lookout.run)
        with lookout.watching(NOT_HERE, events.append):
            await until(lambda: kernel.looks == 1)
            await anyio.sleep(0.01 * 5 * UNSEEN_LOOKS)
        group.cancel_scope.cancel()

    assert kernel.looks == 1
    assert events == []


async def test_a_host_without_free_resources_reports_nothing_about_clients() -> None:
    files = (OSError(24, "Too many open files"),) * UNSEEN_LOOKS
    trouble = (*files, MemoryError(), RuntimeError("can't start new thread"))
    assert await told(Kernel(*trouble, TimeoutError(), {FILE: 0}), HERE, UNSEEN_LOOKS + 4) == []


async def test_a_kernel_without_the_list_shows_no_clients() -> None:
    assert await told(Kernel(OSError(93, "Protocol not supported")), HERE, UNSEEN_LOOKS + 1) == [
        OthersUnseen()
    ]


async def test_without_links_there_are_no_looks() -> None:
    kernel = Kernel({FILE: 1})
    events: list[LinkEvent] = []
    lookout, looks = Lookout(kernel, every_s=0.02), 0
    async with anyio.create_task_group() as group:
        group.start_soon(lookout.run)
        with lookout.watching(HERE, events.append):
            await until(lambda: kernel.looks > 0)
        looks = kernel.looks
        await anyio.sleep(0.1)  # time for five looks
        group.cancel_scope.cancel()

    assert kernel.looks <= looks + 1


async def test_one_look_finds_the_only_socket_with_a_waiting_client(folder: Path) -> None:
    with ExitStack() as stack:
        for number in range(400):  # more than one answer of the kernel contains
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(folder / f"{number}.sock"))
            server.listen(1)
        nameless = stack.enter_context(socket.socket(socket.AF_UNIX))
        nameless.bind("\0barograph-lookout")  # has no file: an entry of another length
        nameless.listen(1)
        marks = [mark_of(os.stat(folder / f"{number}.sock")) for number in range(400)]
        if backlog.file_of(marks[0].device, marks[0].inode) not in backlog.queues():
            pytest.skip("this kernel does not show waiting clients (no unix_diag)")
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(folder / "321.sock"))

        queues = backlog.queues()

    files = [backlog.file_of(mark.device, mark.inode) for mark in marks]
    assert [number for number, file in enumerate(files) if queues[file]] == [321]
