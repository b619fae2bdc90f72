"""TLS over a socket, with calls that are bounded in time and in what they read, whatever the peer sends.

A call of an `ssl.SSLSocket` does not end while the peer sends records without data (session tickets, key
updates): OpenSSL reads on inside the call, whatever the timeout, at the cost of a core. Here all bytes pass
through `ssl.MemoryBIO`, so each of them is counted, and every wait ends at the deadline.
"""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from typing import TypeVar, cast

T = TypeVar("T")

READ_BYTES_MAX = 256 * 1024
"""In the handshake, and again for each request: four times the longest answer (http_post, grpc_call), for
records that contain little. A chain of certificates has a few KiB."""

_READ_BYTES = 16 * 1024


class TlsStream:
    """An encrypted connection: what sinks/http_connection.py uses of a socket. Owned by one thread."""

    def __init__(self, opened: socket.socket, context: ssl.SSLContext, host: str, timeout_s: float) -> None:
        """Do the handshake on a connected socket.

        Args:
            opened: is closed with the stream; the caller closes it if the handshake fails.
            context: the settings of TLS.
            host: the name that the certificate must have.
            timeout_s: for the whole handshake.

        Raises:
            OSError: it failed; `ssl.SSLError` if the peer and the settings do not fit.
            HTTPException: the peer sent more than `READ_BYTES_MAX`.
        """
        self._opened = opened
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._left = READ_BYTES_MAX
        self._deadline_s = 0.0
        self.settimeout(timeout_s)
        try:
            self._complete(self._tls.do_handshake)
        except ssl.SSLError:
            with suppress(OSError):
                self._flush()  # the alert that says why
            raise

    def settimeout(self, timeout_s: float) -> None:
        """Let each call until the next `settimeout` end within `timeout_s` from now."""
        self._deadline_s = time.monotonic() + timeout_s

    def renew(self) -> None:
        """Let the peer send `READ_BYTES_MAX` from now on. Call it for each request."""
        self._left = READ_BYTES_MAX

    def sendall(self, data: bytes) -> None:
        """Send data.

        Raises:
            OSError, HTTPException: it was not sent as a whole.
        """
        rest = memoryview(data)
        while rest:
            part = rest[:_READ_BYTES]
            rest = rest[self._complete(lambda part=part: self._tls.write(part)) :]

    def recv_into(self, buffer: memoryview) -> int:
        """Wait for data, and return how many bytes of it are in `buffer` now; 0: the peer has ended.

        Raises:
            OSError: there is none.
            HTTPException: the peer sent more than `READ_BYTES_MAX`.
        """
        read = cast("Callable[[int, memoryview], int]", self._tls.read)  # typed as without a buffer
        try:
            return self._complete(lambda: read(len(buffer), buffer))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return 0  # also without a closing alert, as for an `ssl.SSLSocket`

    def close(self) -> None:
        """Close the socket, without waiting for the peer."""
        self._opened.close()

    def _complete(self, function: Callable[[], T]) -> T:
        """Return the result of a function of OpenSSL, which gets what comes in pieces."""
        while True:
            try:
                result = function()
            except ssl.SSLWantReadError:
                self._flush()
                self._read()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        while self._outgoing.pending:
            self._opened.settimeout(self._time_left_s())
            self._opened.sendall(self._outgoing.read())

    def _read(self) -> None:
        self._opened.settimeout(self._time_left_s())
        data = self._opened.recv(_READ_BYTES)
        self._left -= len(data)
        if self._left < 0:
            raise HTTPException(f"more than {READ_BYTES_MAX} bytes before the end of an answer")
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _time_left_s(self) -> float:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s
