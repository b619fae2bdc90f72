"""The TCP connections of a gRPC channel, and a bound for what they receive.

gRPC reads all that a backend sends, in threads of its own, also between two calls, and has no bound for
frames without content. While it answers such frames it does not close the connection, not even with the
channel. So the agent shuts down a connection that has received far more than answers, and pauses its exports.

gRPC does not show its sockets. Those of a channel are recognized by their TCP_USER_TIMEOUT: gRPC sets it from
the options for keepalive, of which each channel has its own.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Final

_USER_TIMEOUT_MS = 60_000  # of the first channel; the next ones have more
_KEEPALIVE_NEVER_MS = 2**31 - 2  # gRPC sets the timeout only with a keepalive

_FREE_BYTES = 1 << 22
_BYTES_PER_S = 1 << 18
"""An answer has at most 16 KiB, and a cycle has a few. A larger one is not a flood yet: gRPC accepts 4 MiB of
it before it refuses it."""

LOOK_EVERY_S = 0.25
"""Frames without content can take hundreds of megabytes a second of memory."""

_PAUSE_S = 300.0

_BYTES_RECEIVED_OFFSET = 128  # struct tcp_info: tcpi_bytes_received, an unsigned 64-bit integer
_TCP_INFO_BYTES = 256

_numbers = count()


class GrpcConnections:
    """The connections of one channel. Used by the channel's thread and by the watchdog."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Of a channel that is still to be opened with `options`."""
        self._user_timeout_ms: Final = _USER_TIMEOUT_MS + next(_numbers)
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_s = clock()
        self._known: Sequence[int] | None = None  # descriptors; None: to be looked for
        self._received: Mapping[int, int] = {}  # bytes, by the inode of the socket
        self._allowed_bytes = _FREE_BYTES
        self._resume_s = 0.0

    def options(self) -> list[tuple[str, int]]:
        """Return the options of the channel by which its connections are recognized."""
        return [
            ("grpc.keepalive_time_ms", _KEEPALIVE_NEVER_MS),
            ("grpc.keepalive_timeout_ms", self._user_timeout_ms),
        ]

    def pause_left_s(self) -> float:
        """Shut down connections that have received too much; return for how long to send nothing.

        Call it before each call on the channel, and each `LOOK_EVERY_S` until it has ended. 0: send.
        """
        with self._lock:
            self._known = None  # the call may open another one
            self._look()
            return max(0.0, self._resume_s - self._clock())

    def look(self) -> None:
        """Shut down connections that have received too much. The watchdog calls it all the time."""
        with self._lock:
            self._look()

    def shut_down(self) -> None:
        """Shut down all connections of the channel; the next call opens another one."""
        with self._lock:
            self._known = None
            for _, connection in self._open():
                _shut_down(connection)

    def _look(self) -> None:
        now_s = self._clock()
        elapsed_s = now_s - self._looked_s
        if elapsed_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        before, received, known = self._received, dict[int, int](), list[int]()
        for descriptor, connection in self._open():
            known.append(descriptor)
            with suppress(OSError):  # closed meanwhile
                received[os.fstat(descriptor).st_ino] = _received_bytes(connection)
        self._received, self._known = received, known
        allowed_bytes = min(_FREE_BYTES, self._allowed_bytes + int(elapsed_s * _BYTES_PER_S))
        self._allowed_bytes = allowed_bytes - sum(
            size - before.get(inode, 0) for inode, size in received.items()
        )
        if self._allowed_bytes < 0:
            self._allowed_bytes = _FREE_BYTES
            self._resume_s = now_s + _PAUSE_S
            for _, connection in self._open():
                _shut_down(connection)

    def _open(self) -> Iterator[tuple[int, socket.socket]]:
        """Yield the connections of the channel."""
        for descriptor in _descriptors() if self._known is None else self._known:
            try:
                # Not a copy of it: closing one of a file would drop the locks that SQLite has on the file.
                connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
            except OSError:
                continue  # not a socket
            try:
                if _user_timeout_ms(connection) == self._user_timeout_ms:
                    yield descriptor, connection
            finally:
                connection.detach()  # it is gRPC's


class _Watchdog:
    """Looks at the connections of all channels, also between two calls, from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[GrpcConnections] = set()
        self._runs = False

    def add(self, connections: GrpcConnections) -> None:
        """Look at the connections of a channel until they are removed; idempotent."""
        with self._lock:
            self._watched.add(connections)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._watch, name="otlp-grpc", daemon=True).start()

    def remove(self, connections: GrpcConnections) -> None:
        """Look at them no more."""
        with self._lock:
            self._watched.discard(connections)

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            with self._lock:
                watched = tuple(self._watched)
                self._runs = bool(watched)
            if not watched:
                return
            for each in watched:
                each.look()


WATCHDOG: Final = _Watchdog()


def _descriptors() -> Sequence[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return ()  # not Linux, or no descriptor is left


def _user_timeout_ms(connection: socket.socket) -> int:
    """Return the option's value, 0 for a socket that is not TCP."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    except OSError:
        return 0


def _received_bytes(connection: socket.socket) -> int:
    """Return how much it has received; 0 if that is not known."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return 0
    if len(info) < _BYTES_RECEIVED_OFFSET + 8:
        return 0  # a kernel before Linux 4.1
    return int(struct.unpack_from("=Q", info, _BYTES_RECEIVED_OFFSET)[0])


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):  # the peer was faster
        connection.shutdown(socket.SHUT_RDWR)
