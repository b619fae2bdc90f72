"""A connection of gRPC that receives more than answers is shut down, and no other one is."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agent.sinks.grpc_connections import LOOK_EVERY_S, GrpcConnections

MIB = 1 << 20


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def connected(connections: GrpcConnections) -> Generator[tuple[socket.socket, socket.socket]]:
    """Yield a connection as gRPC makes it with the options, and its peer."""
    timeout_ms = dict(connections.options())["grpc.keepalive_timeout_ms"]
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as mine,
        listening.accept()[0] as peer,
    ):
        mine.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        yield mine, peer


def receive(mine: socket.socket, peer: socket.socket, size: int) -> None:
    while size:
        part = min(size, 65_536)
        peer.sendall(bytes(part))
        size -= len(mine.recv(part, socket.MSG_WAITALL))


def is_shut_down(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_connection_that_receives_without_end_is_shut_down_and_its_backend_left_alone() -> None:
    clock = Clock()
    flooded, other = GrpcConnections(clock), GrpcConnections(clock)
    with connected(flooded) as (mine, peer), connected(other) as (_, other_peer):
        clock.now_s += 10
        assert flooded.pause_left_s() == 0
        receive(mine, peer, 7 * MIB)
        clock.now_s += 10

        assert flooded.pause_left_s() == 300
        assert is_shut_down(peer)
        assert other.pause_left_s() == 0
        assert not is_shut_down(other_peer)
        clock.now_s += 299
        assert flooded.pause_left_s() == 1
        clock.now_s += 1
        assert flooded.pause_left_s() == 0


def test_answers_are_not_too_much_however_many_there_have_been() -> None:
    clock = Clock()
    connections = GrpcConnections(clock)
    with connected(connections) as (mine, peer):
        receive(mine, peer, 4 * MIB)
        for _ in range(5):
            clock.now_s += 10
            assert connections.pause_left_s() == 0
            receive(mine, peer, 10 * MIB // 4)
        assert not is_shut_down(peer)


def test_a_slow_flood_is_one_too_between_two_calls() -> None:
    clock = Clock()
    connections = GrpcConnections(clock)
    with connected(connections) as (mine, peer):
        for _ in range(6):
            receive(mine, peer, MIB)
            clock.now_s += 1
            connections.look()

        assert is_shut_down(peer)
        assert connections.pause_left_s() > 290


def test_it_looks_no_more_often_than_it_has_to() -> None:
    clock = Clock()
    connections = GrpcConnections(clock)
    with connected(connections) as (mine, peer):
        receive(mine, peer, 7 * MIB)
        clock.now_s += LOOK_EVERY_S / 2
        assert connections.pause_left_s() == 0
        clock.now_s += LOOK_EVERY_S / 2
        assert connections.pause_left_s() > 0


def test_all_connections_of_a_channel_and_no_others_are_shut_down_if_a_call_does_not_end() -> None:
    ours, others = GrpcConnections(), GrpcConnections()
    with connected(ours) as (_, peer), connected(others) as (_, other_peer):
        ours.shut_down()

        assert is_shut_down(peer)
        assert not is_shut_down(other_peer)


def test_descriptors_of_others_are_left_as_they_are() -> None:
    clock = Clock()
    connections = GrpcConnections(clock)
    left, right = socket.socketpair()
    reading, writing = os.pipe()
    with left, right, open(__file__, "rb") as file, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        clock.now_s += 10
        assert connections.pause_left_s() == 0

        left.sendall(b"x")
        assert right.recv(1) == b"x"
        assert file.read(3) == b'"""'
        assert datagrams.getsockname()
        os.write(writing, b"y")
        assert os.read(reading, 1) == b"y"
    os.close(reading)
    os.close(writing)


def test_the_locks_of_a_file_are_kept(tmp_path: Path) -> None:
    """POSIX drops all locks that a process has on a file when it closes any descriptor of the file."""
    clock = Clock()
    connections = GrpcConnections(clock)
    path = tmp_path / "spool.sqlite"
    code = f"import fcntl; file = open({str(path)!r}, 'r+'); fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        clock.now_s += 10
        connections.look()
        connections.shut_down()

        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "BlockingIOError" in other.stderr


def test_each_channel_has_options_of_its_own() -> None:
    assert GrpcConnections().options() != GrpcConnections().options()
