"""Tests of the link with a real QEMU, without a guest. Source of the expected values: QEMU 7.2 and 10.0."""

import asyncio
import gc
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.core.events import Given, MonitorEvent, MonitorEventKind
from agent.core.reading import Reading
from agent.errors import LinkFault, QmpUnreachable
from agent.qmp.link import Link as OpenLink
from agent.qmp.link import Settings, open_link
from agent.qmp.openings import Openings
from tests.lab.leftovers import assert_none_left, open_descriptors
from tests.lab.process import freeze, thaw
from tests.unit.qmp.peer import read_stats

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")

SETTINGS = Settings(greeting_timeout_s=60.0)
IMPATIENT = Settings(greeting_timeout_s=0.2)
Q35 = ("-machine", "q35,accel=tcg", "-m", "64")
BARE = ("-machine", "none")
UUID = "5f0c1e4e-28a6-4f0e-9a5f-0123456789ab"


def start(path: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start a QEMU with a monitor at `path`, which may be long: QEMU binds the name within its directory."""
    argv = [str(QEMU), *(options or BARE), "-nodefaults", "-display", "none", "-S"]
    monitor = ["-qmp", f"unix:{path.name},server=on,wait=off"]
    process = subprocess.Popen([*argv, *monitor], cwd=path.parent)
    deadline = time.monotonic() + 120
    while not is_listening(path):
        assert process.poll() is None, "QEMU has ended"
        assert time.monotonic() < deadline, "QEMU has not created its monitor"
        time.sleep(0.005)
    return process


def is_listening(path: Path) -> bool:
    """Return whether the monitor sends its greeting, which also shows that QEMU's main loop runs."""
    client = connect(path)
    if client is None:
        return False
    with client:
        client.settimeout(60)
        return client.recv(1) == b"{"


def connect(path: Path) -> socket.socket | None:
    client = socket.socket(socket.AF_UNIX)
    try:
        directory = os.open(path.parent, os.O_PATH)
        try:
            client.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
    except OSError:
        client.close()
        return None
    return client


@asynccontextmanager
async def qemu(path: Path, *options: str) -> AsyncGenerator["subprocess.Popen[bytes]", None]:
    process = await anyio.to_thread.run_sync(lambda: start(path, *options))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def openings() -> Openings:
    return Openings(32)


@asynccontextmanager
async def linked(path: Path, settings: Settings = SETTINGS) -> AsyncGenerator[OpenLink, None]:
    async with open_link(str(path), settings, openings()) as link:
        yield link


async def fault_of_opening(path: Path, settings: Settings = IMPATIENT) -> LinkFault:
    with pytest.raises(QmpUnreachable) as caught:
        async with linked(path, settings):
            raise AssertionError("opened")
    return caught.value.fault


def command(client: socket.socket, name: str) -> dict[str, Any]:
    """Send one command to another monitor, as another client would, and return the answer."""
    client.sendall(json.dumps({"execute": name, "id": 1}).encode() + b"\n")
    unread = b""
    while True:
        line, newline, unread = unread.partition(b"\n")
        if not newline:
            unread = line + client.recv(65536)
            continue
        message = json.loads(line)
        if message.get("id") == 1:
            return message


# --- a QEMU that answers ---


async def test_a_bare_machine_introduces_itself(folder: Path) -> None:
    async with qemu(folder / "q.sock"), linked(folder / "q.sock") as link:
        introduction = await link.introduce()
        assert await link.read_actual() is None

    assert introduction.uuid is None
    assert introduction.name is None
    assert introduction.run_state == "prelaunch"
    assert introduction.balloon_path is None
    assert introduction.interval_s is None
    assert introduction.actual_bytes is None


@pytest.mark.parametrize(
    ("options", "balloon_path"),
    [
        ((*Q35, "-device", "virtio-balloon,id=ballast"), "/machine/peripheral/ballast"),
        ((*Q35, "-device", "virtio-balloon-pci"), "/machine/peripheral-anon/device[0]"),
        (
            (
                *Q35,
                "-device",
                "pci-testdev,id=balloon0",
                "-device",
                "pci-testdev",
                "-device",
                "virtio-balloon-pci",
            ),
            "/machine/peripheral-anon/device[1]",
        ),
        ((*Q35, "-device", "virtio-balloon-pci-transitional,id=b"), "/machine/peripheral/b"),
        ((*Q35, "-device", "virtio-balloon-pci-non-transitional,id=b"), "/machine/peripheral/b"),
        (("-machine", "microvm,accel=tcg", "-device", "virtio-balloon-device,id=b"), "/machine/peripheral/b"),
        (
            ("-machine", "microvm,accel=tcg", "-device", "virtio-balloon-device"),
            "/machine/peripheral-anon/device[0]",
        ),
    ],
    ids=["alias", "anonymous", "beside others", "transitional", "non-transitional", "mmio", "mmio anonymous"],
)
async def test_each_balloon_is_found_read_and_set(
    folder: Path, options: tuple[str, ...], balloon_path: str
) -> None:
    async with qemu(folder / "q.sock", *options), linked(folder / "q.sock") as link:
        introduction = await link.introduce()
        await link.write_interval(balloon_path, 7)
        check = await link.check(balloon_path)
        reading = await read_stats(link, balloon_path)

    assert introduction.balloon_path == balloon_path
    assert introduction.interval_s == 0
    assert introduction.given.deflate_on_oom is False
    assert introduction.given.base_bytes
    assert introduction.actual_bytes
    assert check.balloon_path == balloon_path
    assert check.interval_s == 7
    assert isinstance(reading, Reading)
    assert reading.last_update_s == 0
    assert "free_memory" in reading.unset


async def test_uuid_name_and_the_balloons_flag_are_read(folder: Path) -> None:
    options = (*BARE, "-uuid", UUID.upper(), "-name", "web-3")
    ballast = (*Q35, "-device", "virtio-balloon-pci,deflate-on-oom=on")
    async with qemu(folder / "q.sock", *options), linked(folder / "q.sock") as link:
        introduction = await link.introduce()
    async with qemu(folder / "q.sock", *ballast), linked(folder / "q.sock") as link:
        with_balloon = await link.introduce()

    assert introduction.uuid == UUID
    assert introduction.name == "web-3"
    assert with_balloon.given == Given(64 << 20, 0, deflate_on_oom=True)
    assert with_balloon.actual_bytes == 64 * 1024 * 1024


async def test_a_wrong_balloon_path_is_corrected(folder: Path) -> None:
    async with (
        qemu(folder / "q.sock", *Q35, "-device", "virtio-balloon-pci"),
        linked(folder / "q.sock") as link,
    ):
        gone = await link.check("/machine/peripheral/gone")
        not_one = await link.check("/machine/peripheral")

    assert gone.balloon_path == not_one.balloon_path == "/machine/peripheral-anon/device[0]"
    assert gone.interval_s == not_one.interval_s == 0


async def test_events_are_received_from_the_start(folder: Path) -> None:
    second = ("-qmp", f"unix:{folder}/2.sock,server=on,wait=off")
    async with qemu(folder / "q.sock", *BARE, *second), linked(folder / "q.sock") as link:
        other = connect(folder / "2.sock")
        assert other is not None
        with other:
            command(other, "qmp_capabilities")
            command(other, "cont")
            command(other, "stop")

        with anyio.fail_after(60):
            events = [await link.next_event() for _ in range(2)]
        assert await link.read_run_state() == "paused"

    assert events == [MonitorEvent(MonitorEventKind.RESUME), MonitorEvent(MonitorEventKind.STOP)]


# --- a QEMU that does not answer ---


async def test_a_held_monitor_is_silent_and_the_link_leaves_its_queue(folder: Path) -> None:
    path = folder / "q.sock"
    async with qemu(path):
        async with linked(path):
            before = open_descriptors()
            assert await fault_of_opening(path) is LinkFault.SILENT
            await assert_none_left(open_descriptors, before)

        # The holder has disconnected. The next client is served: no connection of ours is queued before it.
        async with linked(path) as link:
            assert await link.read_run_state() == "prelaunch"


async def test_a_full_queue_of_connections_is_reported_as_busy_at_once(folder: Path) -> None:
    path = folder / "q.sock"
    async with qemu(path), linked(path):
        assert await fault_of_opening(path) is LinkFault.SILENT
        assert await fault_of_opening(path) is LinkFault.SILENT

        with anyio.fail_after(60):
            assert await fault_of_opening(path, Settings(greeting_timeout_s=300)) is LinkFault.BUSY


async def test_a_stopped_qemu_is_silent(folder: Path) -> None:
    path = folder / "q.sock"
    async with qemu(path) as process:
        freeze(process.pid)
        assert await fault_of_opening(path) is LinkFault.SILENT
        thaw(process.pid)

        async with linked(path) as link:
            assert await link.read_run_state() == "prelaunch"


async def test_a_human_monitor_is_not_qmp(folder: Path) -> None:
    async with qemu(folder / "q.sock", *BARE, "-monitor", f"unix:{folder}/hmp.sock,server=on,wait=off"):
        assert await fault_of_opening(folder / "hmp.sock", SETTINGS) is LinkFault.NOT_QMP


async def test_a_killed_qemu_refuses_and_then_is_missing(folder: Path) -> None:
    path = folder / "q.sock"
    async with qemu(path):
        pass

    assert await fault_of_opening(path, SETTINGS) is LinkFault.REFUSED
    path.unlink()
    assert await fault_of_opening(path, SETTINGS) is LinkFault.MISSING


# --- an open link ---


async def test_a_stopped_qemu_answers_when_it_goes_on(folder: Path) -> None:
    path = folder / "q.sock"
    async with qemu(path) as process, linked(path) as link:
        freeze(process.pid)
        with anyio.move_on_after(0.2) as scope:
            await link.read_run_state()
        thaw(process.pid)

        with anyio.fail_after(60):
            assert await link.read_run_state() == "prelaunch"
        assert scope.cancelled_caught


async def test_a_kill_during_a_call_is_a_hang_up_for_every_waiting_call(folder: Path) -> None:
    path = folder / "q.sock"
    faults: list[LinkFault] = []
    async with qemu(path) as process, linked(path) as link:

        async def note_fault(question: Any) -> None:
            with pytest.raises(QmpUnreachable) as caught:
                await question()
            faults.append(caught.value.fault)

        freeze(process.pid)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(note_fault, link.read_run_state)
                group.start_soon(note_fault, link.next_event)
                await anyio.wait_all_tasks_blocked()
                process.kill()
            await note_fault(link.read_run_state)

    assert faults == [LinkFault.HUNG_UP] * 3


async def test_another_qemu_on_the_same_path_has_another_mark(folder: Path) -> None:
    path = folder / "q.sock"
    marks: list[object] = []
    for _ in range(2):
        async with qemu(path):
            for _ in range(2):
                async with linked(path) as link:
                    path.chmod(0o700)
                    marks.append(link.mark)

    assert marks[0] == marks[1]
    assert marks[2] == marks[3]
    assert marks[0] != marks[2]


async def test_a_path_over_108_bytes_works(folder: Path) -> None:
    path = folder / ("d" * 100) / ("e" * 100) / "q.sock"
    path.parent.mkdir(parents=True)

    async with qemu(path), linked(path) as link:
        assert await link.read_run_state() == "prelaunch"


# --- what is left behind ---


async def visit(path: Path) -> None:
    async with linked(path) as link:
        await link.introduce()


async def test_200_reconnects_leave_nothing_behind(folder: Path) -> None:
    path = folder / "q.sock"

    async with qemu(path):
        for _ in range(20):  # creates everything that is created once and kept
            await visit(path)
        gc.collect()
        descriptors, tasks, objects = open_descriptors(), asyncio.all_tasks(), len(gc.get_objects())
        for _ in range(200):
            await visit(path)

        await assert_none_left(open_descriptors, descriptors)
        await assert_none_left(asyncio.all_tasks, tasks)
        assert len(gc.get_objects()) - objects < 200  # below one object a visit


async def test_cancelled_and_failed_openings_leave_nothing_behind(folder: Path) -> None:
    path = folder / "q.sock"

    async with qemu(path):
        await visit(path)
        descriptors, tasks = open_descriptors(), asyncio.all_tasks()
        for attempt in range(60):
            with anyio.move_on_after(attempt * 0.0002):  # from before the connect to after the greeting
                await visit(path)

        await assert_none_left(open_descriptors, descriptors)
        await assert_none_left(asyncio.all_tasks, tasks)
        await visit(path)  # and QEMU serves the next one
