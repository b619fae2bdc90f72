"""Tests of peers that send descriptors, on a kernel that cannot refuse them (before Linux 6.16)."""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from agent.errors import LinkFault, QmpUnreachable
from agent.qmp import descriptors
from agent.qmp.descriptors import DescriptorsSentError, MonitorSocket, can_refuse, is_closing
from agent.qmp.endpoint import connect
from agent.qmp.link import open_link
from agent.qmp.openings import Openings
from tests.lab.lingering import lingering
from tests.unit.qmp.peer import GREETING, SETTINGS

LINGERS_S = 30
"""How long the kernel takes to close the descriptors of these tests, if nothing ends the wait."""

AT_ONCE_S = LINGERS_S / 3


def _cannot(_connection: socket.socket) -> bool:
    return False


@pytest.fixture(autouse=True)
def older_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_refuse", _cannot)


@contextmanager
def connected(folder: Path) -> Generator[tuple[MonitorSocket, socket.socket]]:
    """Connect to a monitor; yield the agent's side of the connection, and the peer's."""
    path = str(folder / "a.qmp")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        connection = connect(path).connection
        peer, _ = server.accept()
        with peer:
            assert isinstance(connection, MonitorSocket)
            yield connection, peer
            connection.close()


def send_lingering(peer: socket.socket, data: bytes, flags: int = 0) -> ExitStack:
    """Send data with the last copy of a descriptor, which takes long to close until the stack is closed."""
    stack = ExitStack()
    one = stack.enter_context(lingering(LINGERS_S))
    socket.send_fds(peer, [data], [one.fileno()], flags)
    # The copy in the message is the last one. Closing this one does not wait.
    one.close()
    return stack


def closing() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "closing monitors"]


def wait_closed() -> None:
    for each in closing():
        each.join(60)


def taken_s(started_s: float) -> float:
    return time.monotonic() - started_s


@pytest.mark.parametrize("flags", [0, socket.MSG_OOB], ids=["in order", "urgent"])
def test_bytes_with_descriptors_are_not_read_and_do_not_block(folder: Path, flags: int) -> None:
    with connected(folder) as (connection, peer):
        peer.sendall(b"before")
        with send_lingering(peer, b"x", flags):
            started_s = time.monotonic()
            with pytest.raises(DescriptorsSentError):
                connection.recv(100)
            connection.close()
            assert taken_s(started_s) < AT_ONCE_S
            assert is_closing(str(folder / "a.qmp"))
            with pytest.raises(QmpUnreachable, match="file descriptors") as caught:
                connect(str(folder / "a.qmp"))
            assert caught.value.fault is LinkFault.PROTOCOL
        wait_closed()
        assert not is_closing(str(folder / "a.qmp"))


def test_unread_descriptors_do_not_delay_the_closing_of_a_connection(folder: Path) -> None:
    with connected(folder) as (connection, peer), send_lingering(peer, b"x"):
        started_s = time.monotonic()
        connection.close()
        connection.close()
        assert taken_s(started_s) < AT_ONCE_S


def test_bytes_that_arrive_after_the_look_are_not_read_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(folder) as (connection, peer), ExitStack() as stack:
        peer.sendall(b"before")
        look = MonitorSocket._ahead  # pyrefly: ignore[protected-access]

        def late(each: MonitorSocket, size_bytes: int) -> tuple[int, bool]:
            found = look(each, size_bytes)
            monkeypatch.setattr(MonitorSocket, "_ahead", look)
            stack.enter_context(send_lingering(peer, b"after"))
            return found

        monkeypatch.setattr(MonitorSocket, "_ahead", late)

        assert connection.recv(100) == b"before"
        with pytest.raises(DescriptorsSentError):
            connection.recv(100)
        connection.close()


def test_sockets_being_closed_hold_a_bounded_number_of_threads(folder: Path) -> None:
    with ExitStack() as stack:
        for number in range(8):
            (folder / f"{number}").mkdir()
            connection, peer = stack.enter_context(connected(folder / f"{number}"))
            waiting = send_lingering(peer, b"x")
            connection.close()
            stack.enter_context(waiting)
        assert len(closing()) == descriptors._THREADS_MAX
    wait_closed()
    assert not any(is_closing(str(folder / f"{number}/a.qmp")) for number in range(8))


def test_a_closed_connection_is_read_to_its_end(folder: Path) -> None:
    with connected(folder) as (connection, peer):
        peer.sendall(b"last")
        peer.close()

        assert connection.recv(2) == b"la"
        assert connection.recv(100) == b"st"
        assert connection.recv(100) == b""


async def test_a_link_that_receives_descriptors_ends_with_that_reason(folder: Path) -> None:
    path = str(folder / "a.qmp")
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as stack:
        server.bind(path)
        server.listen()

        def serve() -> None:
            peer, _ = server.accept()
            stack.enter_context(peer)
            peer.sendall(GREETING)
            peer.recv(1_000)
            peer.sendall(b'{"return": {}}\r\n')
            peer.recv(1_000)
            stack.enter_context(send_lingering(peer, b'{"return": {"status": "running"}}\r\n'))

        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, serve)
            async with open_link(path, SETTINGS, Openings(1)) as link:
                started_s = anyio.current_time()
                with pytest.raises(QmpUnreachable, match="it sent file descriptors") as caught:
                    await link.read_run_state()
                assert caught.value.fault is LinkFault.PROTOCOL
            assert anyio.current_time() - started_s < AT_ONCE_S


def test_uvloop_is_used_only_where_descriptors_can_be_refused() -> None:
    can_refuse.cache_clear()
    try:
        assert not can_refuse()
    finally:
        can_refuse.cache_clear()
