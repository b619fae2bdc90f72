"""Discovery watches a real file system while real QEMUs start and stop."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agent.discovery.globs import MonitorGlob, Settings
from agent.discovery.scan import RefusedReason, Scan
from agent.discovery.watch import pause_s, watch
from tests.lab.monitor import Monitor

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")

PROMPT_S = 30.0  # on a busy machine; 0.1 s is usual, and a rescan without an event takes a minute
CANCELLED_S = 30.0  # 0.05 s is usual; a watching thread that is not woken takes a minute


def make_socket(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


class Watched:
    """The scans of a running watch, and waits for a wanted one."""

    def __init__(self) -> None:
        self.scans: list[Scan] = []
        self._changed = anyio.Event()

    def add(self, scan: Scan) -> None:
        self.scans.append(scan)
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self, wanted: Callable[[Scan], bool]) -> Scan:
        with anyio.fail_after(PROMPT_S):
            while not (self.scans and wanted(self.scans[-1])):
                await self._changed.wait()
        return self.scans[-1]

    async def wait_paths(self, *paths: Path) -> Scan:
        return await self.wait(
            lambda scan: [str(seen.address) for seen in scan.seen] == [str(path) for path in paths]
        )


@asynccontextmanager
async def watching(*globs: str, rescan_s: float = 60.0) -> AsyncGenerator[Watched, None]:
    watched = Watched()
    monitors = tuple(MonitorGlob(glob) for glob in globs)
    settings = Settings(monitors=monitors, rescan_s=rescan_s, gather_s=0.02)

    async def follow() -> None:
        async with aclosing(watch(settings)) as scans:
            async for scan in scans:
                watched.add(scan)

    cancelled_at_s = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await watched.wait(lambda _: True)
        yield watched
        cancelled_at_s = anyio.current_time()
        group.cancel_scope.cancel()
    assert anyio.current_time() - cancelled_at_s < CANCELLED_S


@contextmanager
def qemu(path: Path) -> Generator["subprocess.Popen[bytes]", None, None]:
    argv = [str(QEMU), "-machine", "none", "-nodefaults", "-display", "none", "-S"]
    process = subprocess.Popen([*argv, "-qmp", f"unix:{path},server=on,wait=off"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_the_first_scan_comes_at_once_even_of_a_missing_directory(folder: Path) -> None:
    make_socket(folder / "a.sock")

    async with watching(f"{folder}/*.sock") as watched:
        assert [str(seen.address) for seen in watched.scans[0].seen] == [f"{folder}/a.sock"]
    async with watching(f"{folder}/none/*.sock") as watched:
        assert watched.scans[0] == Scan((), ())


@needs_qemu
async def test_a_qemu_is_seen_when_it_starts_and_has_another_mark_after_a_restart(folder: Path) -> None:
    path = folder / "q.sock"

    async with watching(f"{folder}/*.sock") as watched:
        with qemu(path):
            first = (await watched.wait_paths(path)).seen[0]
        with qemu(path) as process:
            again = (await watched.wait(lambda scan: scan.seen != (first,) and scan.seen != ())).seen[0]
            await anyio.to_thread.run_sync(
                lambda: Monitor(path).close()
            )  # its main loop runs, so it will end cleanly
            process.send_signal(signal.SIGTERM)  # a clean exit removes the socket
            await watched.wait_paths()

    assert again.address == first.address
    assert again.mark != first.mark


def test_a_scan_that_takes_long_is_followed_by_a_longer_pause() -> None:
    settings = Settings(monitors=(), rescan_s=10, gather_s=0.5)

    assert [pause_s(settings, took_s) for took_s in (0.01, 1.0, 60.0)] == [0.5, 4.0, 10]


async def test_directories_that_come_later_are_watched(folder: Path) -> None:
    vms = folder / "run" / "vms"

    async with watching(f"{vms}/*/q.sock") as watched:
        make_socket(vms / "a" / "q.sock")
        await watched.wait_paths(vms / "a" / "q.sock")
        (vms / "a" / "q.sock").unlink()
        await watched.wait_paths()
        make_socket(vms / "b" / "q.sock")
        make_socket(vms / "a" / "q.sock")
        await watched.wait_paths(vms / "a" / "q.sock", vms / "b" / "q.sock")


async def test_a_directory_removed_and_made_again_is_still_watched(folder: Path) -> None:
    path = folder / "vms" / "q.sock"
    make_socket(path)

    async with watching(f"{folder}/vms/*.sock") as watched:
        for _ in range(3):
            await watched.wait_paths(path)
            shutil.rmtree(folder / "vms")
            await watched.wait_paths()
            make_socket(path)
        await watched.wait_paths(path)
        (folder / "vms").rename(folder / "old")
        await watched.wait_paths()


async def test_a_directory_that_cannot_be_watched_leaves_the_others_watched(folder: Path) -> None:
    (folder / "a").symlink_to("a")  # a link that leads to itself
    (folder / "b").mkdir()

    async with watching(f"{folder}/a/*.sock", f"{folder}/b/*.sock") as watched:
        await watched.wait(lambda scan: RefusedReason.UNWATCHED in {each.reason for each in scan.refused})
        make_socket(folder / "b" / "q.sock")
        await watched.wait_paths(folder / "b" / "q.sock")


async def test_one_socket_named_without_wildcard_is_watched(folder: Path) -> None:
    async with watching(f"{folder}/q.sock") as watched:
        make_socket(folder / "q.sock")
        await watched.wait_paths(folder / "q.sock")
        (folder / "q.sock").unlink()
        await watched.wait_paths()


async def test_a_change_without_an_event_of_the_kernel_is_seen_at_the_rescan(folder: Path) -> None:
    # Behind a link, the directory's own parent is not on the path, so its replacement causes no event.
    (folder / "hidden" / "real").mkdir(parents=True)
    (folder / "vms").symlink_to("hidden/real")

    async with watching(f"{folder}/vms/sub/*.sock", rescan_s=0.2) as watched:
        (folder / "hidden" / "real").rename(folder / "hidden" / "old")
        make_socket(folder / "hidden" / "real" / "sub" / "q.sock")
        await watched.wait_paths(folder / "vms" / "sub" / "q.sock")


async def test_an_unchanged_scan_is_not_yielded(folder: Path) -> None:
    make_socket(folder / "a.sock")
    settings = Settings(monitors=(MonitorGlob(f"{folder}/*.sock"),), rescan_s=0.02, gather_s=0.02)

    async with aclosing(watch(settings)) as scans:
        await anext(scans)
        (folder / "file.sock").touch()
        with anyio.move_on_after(0.5) as many_rescans:
            await anext(scans)

    assert many_rescans.cancelled_caught


async def test_refusals_are_yielded_as_they_come(folder: Path) -> None:
    async with watching(f"{folder}/**/*.sock") as watched:
        make_socket(folder / "domain-1-web" / "monitor.sock")
        scan = await watched.wait(lambda scan: scan.refused != ())

    assert [refused.reason for refused in scan.refused] == [RefusedReason.LIBVIRT]


async def test_more_directories_than_can_be_watched_are_reported_and_seen_at_rescans(folder: Path) -> None:
    for number in range(2100):
        (folder / f"{number:04}").mkdir()

    async with watching(f"{folder}/*/q.sock", rescan_s=0.2) as watched:
        scan = await watched.wait(lambda scan: scan.refused != ())
        make_socket(folder / "2099" / "q.sock")
        await watched.wait_paths(folder / "2099" / "q.sock")

    assert [refused.reason for refused in scan.refused] == [RefusedReason.UNWATCHED]


def wait_until_given_back(files: int, threads: int) -> None:
    # A separate thread closes the kernel's watches, soon after.
    deadline_s = time.monotonic() + PROMPT_S
    while len(os.listdir("/proc/self/fd")) > files or len(os.listdir("/proc/self/task")) > threads:
        assert time.monotonic() < deadline_s, "descriptors or threads are left"
        time.sleep(0.01)


async def test_a_cancelled_watch_ends_promptly_and_leaves_nothing(folder: Path) -> None:
    await anyio.to_thread.run_sync(wait_until_given_back, 1000, 1000)  # anyio keeps a worker from here on
    files = len(os.listdir("/proc/self/fd"))
    threads = len(os.listdir("/proc/self/task"))

    for number in range(10):
        async with watching(f"{folder}/{number}.sock") as watched:
            make_socket(folder / f"{number}.sock")
            await watched.wait_paths(folder / f"{number}.sock")
            await anyio.wait_all_tasks_blocked()

    await anyio.to_thread.run_sync(wait_until_given_back, files, threads + 1)


async def test_a_name_that_is_not_utf8_does_not_end_discovery(folder: Path) -> None:
    async with watching(f"{folder}/*/*.sock") as watched:
        (folder / os.fsdecode(b"\xff")).mkdir()
        (folder / os.fsdecode(b"\xff") / "hidden.sock").touch()
        (folder / "vm").mkdir()
        await anyio.sleep(0.1)
        (folder / "vm" / os.fsdecode(b"\xfe")).touch()
        make_socket(folder / "vm" / "q.sock")
        await watched.wait_paths(folder / "vm" / "q.sock")


async def test_a_host_without_threads_ends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(f"{folder}/*.sock", rescan_s=0.2) as watched:
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse_to_start)
            await anyio.sleep(0.5)
        make_socket(folder / "q.sock")
        await watched.wait_paths(folder / "q.sock")


def refuse_to_start(_: object) -> None:
    raise RuntimeError("can't start new thread")
