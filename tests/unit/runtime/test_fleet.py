"""Tests of the fleet on a real file system, with hostile peers and a scan that cannot read a directory."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from agent.core import fleet as decisions
from agent.core.address import Address, MonitorPath
from agent.core.choice import EVERY_VM, Choice, Rule
from agent.core.fleet import Room
from agent.core.memory import Memory
from agent.core.reading import Access, SocketMark, State, StateEvent
from agent.discovery.globs import MonitorGlob, Settings
from agent.discovery.scan import RefusedPath, RefusedReason, Scan, Seen
from agent.discovery.watch import watch
from agent.qmp.endpoint import mark_of
from agent.runtime.fleet import REFUSALS_LOGGED_MAX, Fleet
from tests.unit.qmp.peer import GREETING
from tests.unit.runtime.test_vm import Emitted, around, value_of


@dataclass
class Peer:
    """Answers as a QEMU does."""

    connections: int = 0
    closed: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with suppress(ConnectionError):  # the agent may close the link before it has read everything
            await self._answer(reader, writer)
        self.closed += 1
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        decoder, text = json.JSONDecoder(), ""
        while data := await reader.read(65536):
            text += data.decode()
            while text.strip():
                command, end = decoder.raw_decode(text := text.lstrip())
                text = text[end:]
                answer: dict[str, object] = {"return": value_of(command)}
                if "id" in command:
                    answer["id"] = command["id"]
                writer.write(json.dumps(answer).encode() + b"\r\n")

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def listening(path: Path) -> AsyncGenerator[Peer]:
    peer = Peer()
    server = await asyncio.start_unix_server(peer.serve, path)
    try:
        yield peer
    finally:
        peer.hang_up()
        server.close()


@asynccontextmanager
async def following(glob: str, choice: Choice = EVERY_VM) -> AsyncGenerator["Followed"]:
    emitted = Followed()
    first: list[Scan] = []
    settings = Settings(monitors=(MonitorGlob(glob),), rescan_s=0.2, gather_s=0.02)
    services = around(emitted)
    services = replace(services, polling=replace(services.polling, choice=choice))

    async def note(address: Address, mark: SocketMark) -> None:
        emitted.excluded.append((str(address), mark))

    fleet = Fleet("host", services, on_excluded=note)
    async with aclosing(watch(settings)) as scans, anyio.create_task_group() as group:
        group.start_soon(fleet.follow, scans, first.append)
        yield emitted
        group.cancel_scope.cancel()


@dataclass
class Followed(Emitted):
    """What is emitted, and which processes are excluded."""

    excluded: list[tuple[str, SocketMark]] = field(default_factory=list[tuple[str, SocketMark]])


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not holds():  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.005)


def states(emitted: Emitted) -> list[State]:
    return [event.state for event in emitted.states]


@pytest.fixture
def open_folder(folder: Path) -> Path:
    """Return a folder that other users may write to, and may place links in."""
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    return folder / "open"


async def test_the_agent_does_not_follow_a_link_that_replaces_a_socket(open_folder: Path) -> None:
    path, theirs = open_folder / "a.qmp", open_folder.parent / "theirs.sock"
    async with (
        listening(theirs) as victim,
        listening(path) as peer,
        following(f"{open_folder}/*.qmp") as emitted,
    ):
        await until(lambda: State.STALLED in states(emitted) or State.CONNECTING in states(emitted))
        await until(lambda: peer.connections == 1 and len(emitted.samples) > 0)
        (open_folder / "new").symlink_to(theirs)

        (open_folder / "new").rename(path)
        peer.hang_up()
        await until(lambda: states(emitted)[-1] is State.GONE)
        await anyio.sleep(0.5)  # a scan or two later

        assert victim.connections == 0


async def test_a_link_is_closed_once_its_path_must_not_be_used(open_folder: Path) -> None:
    path, theirs = open_folder / "a.qmp", open_folder.parent / "theirs.sock"
    async with (
        listening(theirs) as victim,
        listening(path) as peer,
        following(f"{open_folder}/*.qmp") as emitted,
    ):
        await until(lambda: len(emitted.samples) > 0)
        (open_folder / "new").symlink_to(theirs)

        (open_folder / "new").rename(path)
        await until(lambda: peer.closed == 1)

        assert states(emitted)[-1] is State.GONE
        assert victim.connections == 0


async def test_a_socket_that_keeps_swapping_with_a_link_never_leads_there(open_folder: Path) -> None:
    """The swaps happen between the scan and the connection, and during the scan."""
    path, theirs = open_folder / "a.qmp", open_folder.parent / "theirs.sock"
    async with (
        listening(theirs) as victim,
        listening(path) as peer,
        following(f"{open_folder}/*.qmp") as emitted,
    ):
        (open_folder / "link").symlink_to(theirs)
        until_s = anyio.current_time() + 2
        while anyio.current_time() < until_s:
            os.rename(path, open_folder / "kept")
            os.rename(open_folder / "link", path)
            await anyio.sleep(0.001)
            os.rename(path, open_folder / "link")
            os.rename(open_folder / "kept", path)
            peer.hang_up()
            await anyio.sleep(0.001)

        assert victim.connections == 0
        assert emitted.states


def scan_of(*seen: str, refused: tuple[RefusedPath, ...] = ()) -> Scan:
    marks = (Seen(MonitorPath(path), SocketMark(1, 1, 1), Access.HOLD, None, {}) for path in seen)
    return Scan(tuple(marks), refused)


async def test_a_vm_that_could_not_be_looked_for_is_not_gone(folder: Path) -> None:
    emitted = Emitted()
    path = folder / "a.qmp"
    async with listening(path):
        mark = os.stat(path)
        seen = Seen(
            MonitorPath(str(path)),
            SocketMark(mark.st_dev, mark.st_ino, mark.st_mtime_ns),
            Access.SHARE,  # no link that outlives the path
            None,
            {},
        )
        fleet = Fleet("host", around(emitted))
        first: list[Scan] = []

        async def scans() -> AsyncGenerator[Scan]:
            yield Scan((seen,), ())
            await until(lambda: len(emitted.samples) > 0)
            unreadable = RefusedPath(
                str(folder), RefusedReason.UNREADABLE, "cannot be read: Too many open files"
            )
            yield Scan((), (unreadable,))
            await anyio.sleep(0.3)
            assert State.GONE not in states(emitted)
            yield Scan((), ())
            await until(lambda: states(emitted)[-1] is State.GONE)
            group.cancel_scope.cancel()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(fleet.follow, scans(), first.append)


async def test_a_vm_that_goes_while_its_task_pauses_after_a_failure_is_gone_and_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decisions, "PAUSE_AFTER_FAILURE_NS", 200_000_000)

    class BrokenOnce(Emitted):
        failed = False

        def state(self, event: StateEvent, memory: Memory) -> None:
            if not self.failed:
                self.failed = True
                raise ZeroDivisionError
            super().state(event, memory)

    emitted = BrokenOnce()
    fleet = Fleet("host", around(emitted))
    first: list[Scan] = []

    async def scans() -> AsyncGenerator[Scan]:
        yield scan_of("/nowhere/a.qmp")
        await until(lambda: emitted.failed)
        yield scan_of()
        await until(lambda: fleet.watching == 0)
        group.cancel_scope.cancel()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(fleet.follow, scans(), first.append)

    assert states(emitted)[-1] is State.GONE


async def test_an_excluded_monitor_gets_a_connection_only_if_its_path_does_not_decide(folder: Path) -> None:
    by_path, by_uuid, other = (folder / f"{name}.qmp" for name in ("path", "uuid", "other"))
    choice = Choice(exclude=(Rule(path="*/path.qmp"), Rule(path="*/uuid.qmp", uuid="5f0c*")))
    async with (
        listening(by_path) as of_path,
        listening(other) as of_other,
        following(f"{folder}/*.qmp", choice) as emitted,
    ):
        async with listening(by_uuid) as of_uuid:
            await until(lambda: len(emitted.excluded) == 2 and len(emitted.samples) > 0)
            await until(lambda: of_uuid.closed == 1)
            (folder / "more.qmp").touch()  # a scan, and a rescan after it
            await anyio.sleep(0.5)
            assert (of_path.connections, of_uuid.connections, of_other.connections) == (0, 1, 1)
        by_uuid.unlink(missing_ok=True)
        async with listening(by_uuid) as of_uuid:  # another process
            await until(lambda: len(emitted.excluded) == 3)
            await until(lambda: of_uuid.closed == 1)

        assert of_uuid.connections == 1
        assert {path for path, _ in emitted.excluded} == {str(by_path), str(by_uuid)}
        assert {str(each.address) for each in emitted.states} == {str(other)}


async def test_refused_paths_have_a_bounded_number_of_log_lines(folder: Path) -> None:
    for number in range(REFUSALS_LOGGED_MAX + 3):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / f"{number}\n.sock"))

    with capture_logs() as logs:
        async with following(f"{folder}/*.sock"):
            await until(lambda: any(line["event"] == "discovery" for line in logs))

    lines = [line for line in logs if "refused" in line["event"]]
    assert [line["event"] for line in lines] == ["monitor refused"] * REFUSALS_LOGGED_MAX + [
        "monitors refused"
    ]
    assert lines[-1]["others"] == 3


async def test_the_vms_of_one_owner_make_room_for_those_of_another(folder: Path) -> None:
    emitted = Emitted()
    fleet = Fleet("host", around(emitted), room=Room(monitors=4))
    greedy, late = (folder / f"{name}.qmp" for name in ("greedy", "late"))
    async with listening(greedy) as theirs, listening(late) as ours:

        async def scans() -> AsyncGenerator[Scan]:
            crowd = [
                Seen(
                    MonitorPath(f"{folder}/{'/' * n}greedy.qmp"),
                    mark(greedy),
                    Access.HOLD,
                    None,
                    {},
                    owner=1000,
                )
                for n in range(8)
            ]
            yield Scan(tuple(crowd), ())
            await until(lambda: theirs.connections >= 4)
            newcomer = Seen(MonitorPath(str(late)), mark(late), Access.HOLD, None, {}, owner=1001)
            yield Scan((*crowd, newcomer), ())
            await until(lambda: ours.connections > 0)
            group.cancel_scope.cancel()

        with capture_logs() as logs:
            async with anyio.create_task_group() as group:
                group.start_soon(fleet.follow, scans(), list[Scan]().append)

    details = [str(line.get("detail")) for line in logs if line["event"] == "monitor refused"]
    assert "the agent has reached its limit of 4 monitors;" in details[0]
    assert "this VM; its owner, user 1000, has the most VMs; narrow" in details[1]


def mark(path: Path) -> SocketMark:
    return mark_of(path.stat())
