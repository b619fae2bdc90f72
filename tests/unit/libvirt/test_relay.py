"""Tests of the relay between libvirt's client library and a daemon. The tests act as both."""

import errno
import os
import resource
import socket
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from agent.libvirt.relay import Relay
from tests.lab.lingering import lingering

LIMIT_BYTES = 1000
DEADLINE_S = 60.0
LINGERS_S = 300
UNREAD_MAX_BYTES = 2 << 20
"""More than the relay and the sockets of both sides can hold."""


class Ends:
    """The socket that the library has connected, the daemon's end, and the relay between them.

    The daemon may have sent bytes and a descriptor before. The copy in that message is then the last one.
    """

    def __init__(self, sent_before: tuple[bytes, socket.socket] | None = None) -> None:
        self.library, self.daemon = socket.socketpair()
        if sent_before is not None:
            data, one = sent_before
            socket.send_fds(self.daemon, [data], [one.fileno()])
            one.close()
        self.relay = Relay(LIMIT_BYTES)
        self.relay.step_in(self.library.fileno())
        self.daemon.settimeout(DEADLINE_S)
        # The relay has replaced the socket of the descriptor by one that does not block.
        os.set_blocking(self.library.fileno(), True)
        self.library.settimeout(DEADLINE_S)


@contextmanager
def relayed() -> Generator[Ends]:
    """Open a connection through a relay. The relay's thread must end with the block."""
    ends = Ends()
    with ends.library, ends.daemon:
        yield ends
    ends.relay.close()


def message(length_bytes: int) -> bytes:
    return length_bytes.to_bytes(4, "big") + b"x" * (length_bytes - 4)


def read(one: socket.socket, number: int) -> bytes:
    data = b""
    while len(data) < number:
        more = one.recv(number - len(data))
        assert more, data
        data += more
    return data


def fill(one: socket.socket, data: bytes) -> int:
    """Send until the other side accepts no more for half a second; return how many bytes were sent."""
    one.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        while sent < 2 * UNREAD_MAX_BYTES:
            sent += one.send(data)
    return sent


def relays() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "libvirt relay"}


def test_bytes_pass_both_ways_and_no_descriptor_with_them() -> None:
    with relayed() as ends:
        ends.daemon.sendall(message(LIMIT_BYTES) * 300)  # more than is read at a time
        assert read(ends.library, LIMIT_BYTES * 300) == message(LIMIT_BYTES) * 300
        ends.library.sendall(b"y" * 100_000)  # the library is trusted, whatever it sends
        assert read(ends.daemon, 100_000) == b"y" * 100_000

        socket.send_fds(ends.daemon, [message(20)], [ends.daemon.fileno()])
        assert socket.recv_fds(ends.library, 20, 1)[:2] == (message(20), [])
        assert ends.relay.problem is None


def test_a_message_above_the_limit_is_reported_and_not_passed_on() -> None:
    with relayed() as ends:
        ends.daemon.sendall(message(20))
        assert read(ends.library, 20) == message(20)
        with suppress(BrokenPipeError):
            ends.daemon.sendall(message(LIMIT_BYTES + 1)[:-1])
        with suppress(ConnectionResetError):
            assert ends.library.recv(1) == b""
        assert ends.relay.problem is not None
        assert f"began a message of {LIMIT_BYTES + 1} bytes" in ends.relay.problem
        with suppress(ConnectionResetError):
            assert ends.daemon.recv(1) == b""


def test_one_side_cannot_send_what_the_other_does_not_read() -> None:
    with relayed() as ends:
        assert fill(ends.daemon, message(LIMIT_BYTES)) < UNREAD_MAX_BYTES
        assert fill(ends.library, bytes(LIMIT_BYTES)) < UNREAD_MAX_BYTES


def test_a_direction_that_is_full_does_not_stop_the_other() -> None:
    with relayed() as ends:
        fill(ends.library, bytes(LIMIT_BYTES))
        ends.daemon.sendall(message(20))
        ends.library.settimeout(DEADLINE_S)
        assert read(ends.library, 20) == message(20)


def test_the_connection_ends_with_the_library_whatever_the_daemon_has_not_read() -> None:
    ends = Ends()
    with ends.daemon:
        fill(ends.library, bytes(LIMIT_BYTES))
        ends.library.close()
        ends.relay.close()


def test_the_last_message_of_a_daemon_that_has_ended_arrives() -> None:
    with relayed() as ends:
        ends.daemon.sendall(message(LIMIT_BYTES) * 300)
        ends.daemon.close()
        assert read(ends.library, LIMIT_BYTES * 300) == message(LIMIT_BYTES) * 300
        assert ends.library.recv(1) == b""


@pytest.mark.parametrize("ends_daemon", [False, True])
def test_messages_that_the_library_does_not_read_cost_no_cpu_time(ends_daemon: bool) -> None:
    before = relays()
    with relayed() as ends:
        (thread,) = relays() - before
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        fill(ends.daemon, message(LIMIT_BYTES))
        if ends_daemon:
            ends.daemon.close()
        before_s = time.clock_gettime(clock)
        time.sleep(1)
        assert time.clock_gettime(clock) - before_s < 0.05


def test_a_descriptor_that_lingers_delays_this_relay_only() -> None:
    with ExitStack() as stack, relayed() as other:
        ends = Ends((message(20), stack.enter_context(lingering(LINGERS_S))))
        ends.library.close()
        closing = threading.Thread(target=ends.relay.close)
        closing.start()

        other.daemon.sendall(message(20))
        assert read(other.library, 20) == message(20)
        closing.join(0.2)
        assert closing.is_alive()  # the relay ends only once the descriptor is closed

        stack.close()
        closing.join(DEADLINE_S)
        assert not closing.is_alive()
        ends.daemon.close()


def test_a_thousand_connections_leave_no_thread_and_no_descriptor() -> None:
    before, threads = sorted(os.listdir("/proc/self/fd")), relays()
    for number in range(1000):
        ends = Ends()
        (ends.daemon if number % 2 else ends.library).close()
        if number % 2:
            assert ends.library.recv(1) == b""
            ends.library.close()
        ends.daemon.close()
        ends.relay.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert relays() <= threads


def test_a_relay_without_a_socket_leaves_no_descriptor() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    relay = Relay(LIMIT_BYTES)
    assert not relay.has_stepped_in
    relay.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_without_a_descriptor_the_connection_ends_and_is_not_used_without_a_relay() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    library, daemon = socket.socketpair()
    library.settimeout(DEADLINE_S)
    with library, daemon:
        relay = Relay(LIMIT_BYTES)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the number follows
                relay.step_in(library.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert caught.value.errno == errno.EMFILE
        assert library.recv(1) == b""
        assert not relay.has_stepped_in
        assert "Too many open files" in (relay.problem or "")
        relay.close()


def test_without_a_thread_the_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = sorted(os.listdir("/proc/self/fd"))
    library, daemon = socket.socketpair()
    relay = Relay(LIMIT_BYTES)
    with library, daemon, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            relay.step_in(library.fileno())
        assert library.recv(1) == b""
        assert daemon.recv(1) == b""
    relay.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_second_socket_of_the_library_is_not_used() -> None:
    library, daemon = socket.socketpair()
    with relayed() as ends, library, daemon:
        with pytest.raises(OSError, match="second socket"):
            ends.relay.step_in(library.fileno())
        assert library.recv(1) == b""
        ends.daemon.sendall(message(20))
        assert read(ends.library, 20) == message(20)
