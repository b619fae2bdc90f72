"""A connection to an HTTP server, direct or through a proxy, with or without TLS; each step has a time limit.

HTTP/1.1 (http_post.py) and gRPC (grpc_call.py) exchange their bytes over it.
"""

import io
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Protocol, TypeAlias, TypeVar, cast
from urllib.parse import SplitResult, unquote, urlsplit

from agent.sinks.tls_stream import TlsStream

_TUNNEL_BYTES_MAX = 16 * 1024

Connection: TypeAlias = socket.socket | TlsStream
T = TypeVar("T")


class Stage(StrEnum):
    """How far one attempt has come."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    PROXY = "proxy"  # the tunnel through the proxy
    TLS = "tls"
    ANSWER = "answer"  # the request is being sent, or the answer awaited


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, and whether another attempt now can do better."""

    words: str
    may_pass: bool


class Words(Protocol):
    """Says why there is no answer, with the names of the settings."""

    def of_attempt(self, stage: Stage, error: Exception) -> Failure:
        """Return why an attempt ended without an answer."""
        ...

    def of_proxy(self, status: int, reason: str) -> Failure:
        """Return why the proxy refuses the tunnel."""
        ...

    def of_other_protocol(self, reason: str) -> Failure:
        """Return the words for a server that does not speak the protocol; `reason` may be empty."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    url: str
    words: Words
    proxy: str | None = field(default=None, repr=False)  # http://, may have a user name and a password


class BrokenProtocolError(HTTPException):
    """The server does not speak the protocol. The text is the agent's own, without what the server sent."""


class AttemptFailed(Exception):
    """There is no answer."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.words)


class Server:
    """One server, and at most one connection to it, which is kept. Used by one thread."""

    def __init__(
        self,
        target: Target,
        context: Callable[[], tuple[Hashable, ssl.SSLContext]],
        at: Callable[[Stage], None],
        redact: Callable[[str], str] = str,
        *,
        has_tunnel: bool = False,
    ) -> None:
        """Open nothing yet.

        Args:
            target: the URL, and the proxy if there is one.
            context: returns the TLS context, and what identifies it: a connection ends when it changes.
            at: called with the stage of each attempt.
            redact: returns a text of the proxy without secrets.
            has_tunnel: whether a proxy passes on bytes also without TLS. Otherwise it gets the requests.
        """
        self.url = urlsplit(target.url)
        self._proxy = None if target.proxy is None else urlsplit(target.proxy)
        self._words = target.words
        self._context = context
        self._at = at
        self._redact = redact
        self._has_tunnel = has_tunnel or self.url.scheme == "https"
        self._stage = Stage.RESOLVE
        self._connection: Connection | None = None
        self._stamp: Hashable = None

    @property
    def forwards(self) -> bool:
        """Whether requests go to a proxy that reads them."""
        return self._proxy is not None and not self._has_tunnel

    def exchange(self, perform: Callable[[Connection, float], T], timeout_s: float) -> T:
        """Return what `perform` returns.

        Args:
            perform: sends a request and returns the answer, given the connection and the deadline (monotonic,
                in seconds). If a kept connection ends before the answer is complete, it is called again with
                a new one, so the server may process a request twice. For an answer in another protocol it
                raises HTTPException or ValueError.
            timeout_s: for everything.

        Raises:
            AttemptFailed: no answer came before the end of `timeout_s`, or none in the protocol.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            stamp, context = self._context() if self.url.scheme == "https" else (None, None)
            if stamp != self._stamp:
                self.close()
            if self._connection is not None:
                try:
                    self._enter(Stage.ANSWER)
                    return perform(self._connection, deadline_s)
                except (ConnectionError, ssl.SSLError):
                    # The server has closed it since the last request.
                    self.close()
            self._stamp = stamp
            opened = self._open(context, deadline_s)
            self._enter(Stage.ANSWER)
            return perform(opened, deadline_s)
        except AttemptFailed:
            self.close()
            raise
        except (HTTPException, ValueError, OSError) as error:
            self.close()
            if isinstance(error, OSError) or self._stage is not Stage.ANSWER:
                failure = self._words.of_attempt(self._stage, error)
            else:
                reason = str(error) if isinstance(error, BrokenProtocolError) else ""
                failure = self._words.of_other_protocol(reason)
            # `from None`: an exception of a library may quote a header.
            raise AttemptFailed(failure) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. The next exchange opens another one."""
        opened, self._connection = self._connection, None
        if opened is not None:
            opened.close()

    def proxy_authorization(self) -> list[str]:
        """Return the header line with user name and password of the proxy, if it has them."""
        if self._proxy is None or self._proxy.username is None:
            return []
        pair = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
        return [f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}"]

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self._at(stage)

    def _open(self, context: ssl.SSLContext | None, deadline_s: float) -> Connection:
        peer = self._proxy or self.url
        self._enter(Stage.RESOLVE)
        found = socket.getaddrinfo(peer.hostname, peer.port or _default_port(peer), type=socket.SOCK_STREAM)
        self._enter(Stage.CONNECT)
        opened = _connected(found, deadline_s)
        self._connection = opened
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._proxy is not None and self._has_tunnel:
            self._enter(Stage.PROXY)
            self._tunnel(opened, deadline_s)
        if context is None:
            return opened
        self._enter(Stage.TLS)
        host = self.url.hostname or ""
        self._connection = encrypted = TlsStream(opened, context, host, left_s(deadline_s))
        return encrypted

    def _tunnel(self, opened: socket.socket, deadline_s: float) -> None:
        host = host_and_port(self.url.hostname or "", self.url.port or _default_port(self.url))
        lines = [f"CONNECT {host} HTTP/1.1", f"Host: {host}", *self.proxy_authorization()]
        send(opened, "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"), deadline_s)
        # The server may have sent something through the tunnel already, so no byte is read ahead.
        response = begin_answer(opened, "CONNECT", _TUNNEL_BYTES_MAX, deadline_s, buffer_bytes=1)
        response.close()
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            reason = self._redact(response.reason)
            raise AttemptFailed(self._words.of_proxy(response.status, reason))


class _Reading(io.RawIOBase):
    """Reads from a socket up to a number of bytes and an instant, whatever the size of each read."""

    def __init__(self, opened: Connection, bytes_max: int, deadline_s: float, buffer_bytes: int) -> None:
        super().__init__()
        self._buffer_bytes = buffer_bytes
        self._opened = opened
        self._left = bytes_max
        self._deadline_s = deadline_s

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that HTTPResponse reads from."""
        return io.BufferedReader(self, self._buffer_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview", /) -> int:  # pyrefly: ignore[bad-override]
        if self._left <= 0:
            raise IncompleteRead(b"")
        self._opened.settimeout(left_s(self._deadline_s))
        count = self._opened.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


def begin_answer(
    opened: Connection,
    method: str,
    bytes_max: int,
    deadline_s: float,
    buffer_bytes: int = io.DEFAULT_BUFFER_SIZE,
) -> HTTPResponse:
    """Return an answer of which the headers have been read, and at most `buffer_bytes` of what follows."""
    reading = cast("socket.socket", _Reading(opened, bytes_max, deadline_s, buffer_bytes))
    response = HTTPResponse(reading, method=method)
    try:
        response.begin()
    except BaseException:
        response.close()  # collected with its file, it may find that closed, and Python 3.14 reports it
        raise
    return response


def _connected(found: list[tuple[object, ...]] | object, deadline_s: float) -> socket.socket:
    """Return a socket connected to the first address that accepts."""
    addresses = cast("list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]]", found)
    failed: OSError = OSError("no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        opened: socket.socket | None = None
        try:
            opened = socket.socket(family, kind, protocol)
            opened.settimeout(left_s(deadline_s) / (len(addresses) - number))
            opened.connect(address)
        except OSError as error:  # also if the host has no such family of addresses
            if opened is not None:
                opened.close()
            failed = error
        else:
            return opened
    raise failed


def send(opened: Connection, data: bytes, deadline_s: float) -> None:
    """Send all of it before the deadline.

    Raises:
        OSError, HTTPException: it was not sent as a whole.
    """
    opened.settimeout(left_s(deadline_s))
    opened.sendall(data)  # the timeout is for all of it


def left_s(deadline_s: float) -> float:
    """Return the time until the deadline.

    Raises:
        TimeoutError: there is none.
    """
    left = deadline_s - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def host_and_port(host: str, port: int | None) -> str:
    """Return the form of headers and URLs."""
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def _default_port(url: SplitResult) -> int:
    return 443 if url.scheme == "https" else 80
