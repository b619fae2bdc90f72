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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import Final

_USER_TIMEOUT_MS = 60_000  # of the first channel; the next ones have more
_KEEPALIVE_NEVER_MS = 2**31 - 2  # gRPC sets the timeout only with a keepalive

_FREE_BYTES = 1 << 22
_BYTES_PER_S = 1 << 18
"""An answer has at most 16 KiB, and a cycle has a few. A larger one is not a flood yet: gRPC accepts 4 MiB of
it before it refuses it."""

_LOOK_EVERY_S = 1.0
_PAUSE_MIN_S = 300.0
_PAUSE = 20
"""Times the time that the flood may have lasted: its share of a core is one twentieth."""

_BYTES_RECEIVED_OFFSET = 128  # struct tcp_info: tcpi_bytes_received, an unsigned 64-bit integer
_TCP_INFO_BYTES = 256

_numbers = count()


class GrpcConnections:
    """The connections of one channel. Used by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Of a channel that is still to be opened with `options`."""
        self._user_timeout_ms: Final = _USER_TIMEOUT_MS + next(_numbers)
        self._clock = clock
        self._looked_s = clock()
        self._received: Mapping[int, int] = {}  # bytes, by the inode of the socket
        self._resume_s = 0.0

    def options(self) -> list[tuple[str, int]]:
        """Return the options of the channel by which its connections are recognized."""
        return [
            ("grpc.keepalive_time_ms", _KEEPALIVE_NEVER_MS),
            ("grpc.keepalive_timeout_ms", self._user_timeout_ms),
        ]

    def pause_left_s(self) -> float:
        """Shut down connections that have received too much; return for how long to send nothing.

        Call it before each call on the channel. 0: send.
        """
        now_s = self._clock()
        elapsed_s = now_s - self._looked_s
        if elapsed_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            if self._shut_down_flooded(_FREE_BYTES + int(elapsed_s * _BYTES_PER_S)):
                self._resume_s = now_s + max(_PAUSE_MIN_S, elapsed_s * _PAUSE)
        return max(0.0, self._resume_s - now_s)

    def _shut_down_flooded(self, most_bytes: int) -> bool:
        """Shut down what has received more since the last look; return whether there was any."""
        before, received = self._received, dict[int, int]()
        flooded = False
        for connection in self._open():
            with suppress(OSError):
                inode = os.fstat(connection.fileno()).st_ino
                received[inode] = _received_bytes(connection)
                if received[inode] - before.get(inode, 0) > most_bytes:
                    flooded = True
                    connection.shutdown(socket.SHUT_RDWR)
        self._received = received
        return flooded

    def _open(self) -> Iterator[socket.socket]:
        """Yield the connections of the channel."""
        try:
            names = os.listdir("/proc/self/fd")
        except OSError:
            return  # not Linux, or no descriptor is left
        for name in names:
            try:
                # Another descriptor of the same socket: gRPC may close its own meanwhile.
                descriptor = os.dup(int(name))
            except OSError:
                continue
            try:
                connection = socket.socket(fileno=descriptor)
            except OSError:
                os.close(descriptor)  # not a socket
                continue
            with connection:
                if _user_timeout_ms(connection) == self._user_timeout_ms:
                    yield connection


def _user_timeout_ms(connection: socket.socket) -> int:
    """Return the option's value, 0 for a socket that is not TCP."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    except OSError:
        return 0


def _received_bytes(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _BYTES_RECEIVED_OFFSET + 8:
        return 0  # a kernel before Linux 4.1
    return int(struct.unpack_from("=Q", info, _BYTES_RECEIVED_OFFSET)[0])
