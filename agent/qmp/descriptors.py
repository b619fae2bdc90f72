"""Sockets whose peers cannot stop the event loop with descriptors.

A peer of a Unix socket may send descriptors with its bytes. The kernel closes those that are not taken, in
the thread that reads or closes the socket. Closing may take as long as the peer wants, such as that of a TCP
socket that lingers (SO_LINGER).

From Linux 6.16 on a socket can refuse descriptors (SO_PASSRIGHTS). Before, this module looks at what is
queued before each read. It reads nothing that has descriptors with it, and it closes such a socket in another
thread. That needs asyncio's own event loop, which reads with `recv`; uvloop does not.
"""

import os
import socket
import threading
from collections import deque
from contextlib import suppress
from functools import cache

_SO_PASSRIGHTS = getattr(socket, "SO_PASSRIGHTS", 83)

_THREADS_MAX = 4

_AHEAD = bytearray(256 * 1024)
"""Where queued bytes are looked at. Their content is not used, so all threads share it."""


class DescriptorsSentError(OSError):
    """The peer sent descriptors. They are not taken, and nothing is read from this socket any more."""

    def __init__(self) -> None:
        """Create it."""
        super().__init__("it sent file descriptors")


@cache
def can_refuse() -> bool:
    """Return whether this kernel lets a socket refuse descriptors."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        return _refuse(one)


def _refuse(connection: socket.socket) -> bool:
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


class MonitorSocket(socket.socket):
    """A socket to connect to a monitor with. Its peer can send no descriptors, or none are taken.

    `close` does not wait for descriptors that are queued.
    """

    def __init__(self, path: str) -> None:
        """Create it.

        Args:
            path: of the monitor, for `is_closing`.
        """
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = path
        self._looks_ahead = not _refuse(self)
        if self._looks_ahead:
            # Otherwise urgent data would be skipped without a look, with the descriptors that it may have.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return bytes as `socket.recv` does.

        Raises:
            DescriptorsSentError: descriptors come with the next bytes.
        """
        if self._looks_ahead:
            count, has_descriptors = self._ahead(bufsize)
            if has_descriptors:
                raise DescriptorsSentError
            bufsize = count or bufsize  # not what has arrived since; 0: the peer has closed the connection
        return super().recv(bufsize, flags)

    def close(self) -> None:
        """Close the socket, in another thread if descriptors are queued."""
        if self._looks_ahead and self.fileno() != -1 and self._holds_descriptors():
            _closer.close(self._path, self.detach())
        else:
            super().close()

    def _holds_descriptors(self) -> bool:
        with suppress(OSError):
            self.shutdown(socket.SHUT_RD)  # nothing is queued from here on
        try:
            count, has_descriptors = self._ahead(len(_AHEAD))
        except OSError:
            return False
        return has_descriptors or count == len(_AHEAD)  # what is behind so many bytes cannot be seen

    def _ahead(self, size_bytes: int) -> tuple[int, bool]:
        """Return how many bytes can be read, and whether descriptors come with them."""
        view = memoryview(_AHEAD)[:size_bytes]
        count, _, flags, _ = self.recvmsg_into([view], 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return count, bool(flags & socket.MSG_CTRUNC)


class _Closer:
    """Closes sockets in a few threads. No other socket is opened at a path until the one there is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, int]] = deque()
        self._paths: set[str] = set()
        self._threads = 0

    def close(self, path: str, descriptor: int) -> None:
        with self._lock:
            self._paths.add(path)
            self._waiting.append((path, descriptor))
            if self._threads == _THREADS_MAX:
                return
            self._threads += 1
        threading.Thread(target=self._close, name="closing monitors", daemon=True).start()

    def is_closing(self, path: str) -> bool:
        with self._lock:
            return path in self._paths

    def _close(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                path, descriptor = self._waiting.popleft()
            with suppress(OSError):
                os.close(descriptor)
            with self._lock:
                self._paths.discard(path)


_closer = _Closer()


def is_closing(path: str) -> bool:
    """Return whether an earlier socket to this monitor still waits for its descriptors to be closed."""
    return _closer.is_closing(path)
