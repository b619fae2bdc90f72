"""A connection of gRPC that receives more than answers is shut down, and no other one is."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

from agent.sinks.grpc_connections import GrpcConnections

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


def test_the_pause_is_a_multiple_of_the_time_that_the_flood_may_have_lasted() -> None:
    clock = Clock()
    connections = GrpcConnections(clock)
    with connected(connections) as (mine, peer):
        receive(mine, peer, 20 * MIB)
        clock.now_s += 60

        assert connections.pause_left_s() == 1200


def test_answers_are_not_too_much_however_many_there_have_been() -> None:
    clock = Clock()
    connections = GrpcConnections(clock)
    with connected(connections) as (mine, peer):
        for _ in range(5):
            receive(mine, peer, 4 * MIB + 10 * MIB // 4)
            clock.now_s += 10
            assert connections.pause_left_s() == 0
        assert not is_shut_down(peer)


def test_it_looks_once_a_second_at_most() -> None:
    clock = Clock()
    connections = GrpcConnections(clock)
    with connected(connections) as (mine, peer):
        receive(mine, peer, 7 * MIB)
        clock.now_s += 0.9
        assert connections.pause_left_s() == 0
        clock.now_s += 0.1
        assert connections.pause_left_s() > 0


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


def test_each_channel_has_options_of_its_own() -> None:
    assert GrpcConnections().options() != GrpcConnections().options()
