"""One HTTP/1.1 connection for POST requests, with answers that are bounded in size and time.

For OTLP and for token endpoints. The usual clients decompress whatever a server sends and wait again for each
byte; the transport of the OTLP exporter also trusts the certificates of a Python package and reads settings
from the environment. Here the time limit is for the whole exchange, an answer is read up to
`ANSWER_BYTES_MAX`, and nothing is decompressed.
"""

import io
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Protocol, TypeAlias, cast
from urllib.parse import quote, unquote, urlsplit

from agent.sinks.tls_stream import TlsStream

ANSWER_BYTES_MAX = 64 * 1024
"""Of one answer, its headers included. The rest is not read, and the connection is closed."""
_TUNNEL_BYTES_MAX = 16 * 1024
_READ_BYTES = 16 * 1024
_IN_A_PATH = "/%:@!$&'()*+,;=~-._"


_Connection: TypeAlias = socket.socket | TlsStream


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
    """Says why there is no answer, with the settings of the one that asks."""

    def of_attempt(self, stage: Stage, error: Exception) -> Failure:
        """Return why an attempt ended without an answer."""
        ...

    def of_proxy(self, status: int, reason: str) -> Failure:
        """Return why the proxy refuses the tunnel."""
        ...

    def not_http(self) -> Failure:
        """Return the words for an answer that is not HTTP/1."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    url: str
    words: Words
    proxy: str | None = field(default=None, repr=False)  # http://, may have a user name and a password


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the server. `body` is empty if it is compressed, too long or broken."""

    status: int
    reason: str
    headers: Mapping[str, str]  # by name in lower case
    body: bytes = b""


class AttemptFailed(Exception):
    """There is no answer."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.words)


class HttpClient:
    """Sends requests to one URL, one at a time. Used by one thread."""

    def __init__(
        self,
        target: Target,
        context: Callable[[], tuple[Hashable, ssl.SSLContext]],
        at: Callable[[Stage], None],
        redact: Callable[[str], str] = str,
    ) -> None:
        """Open nothing yet.

        Args:
            target: the URL, and the proxy if there is one.
            context: returns the TLS context, and what identifies it: a connection ends when it changes.
            at: called with the stage of each attempt.
            redact: returns a text of the proxy without secrets.
        """
        self._proxy = target.proxy
        self._words = target.words
        self._context = context
        self._at = at
        self._redact = redact
        self._url = urlsplit(target.url)
        self._stage = Stage.RESOLVE
        self._socket: _Connection | None = None
        self._stamp: Hashable = None

    def post(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """Send a request and return the answer.

        Raises:
            AttemptFailed: no answer came before the end of `timeout_s`, or none that is HTTP.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            stamp, context = self._context() if self._url.scheme == "https" else (None, None)
            if stamp != self._stamp:
                self.close()
            if self._socket is not None:
                try:
                    return self._exchange(self._socket, body, headers, deadline_s)
                except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                    # The server has closed it since the last request.
                    self.close()
            self._stamp = stamp
            return self._exchange(self._open(context, deadline_s), body, headers, deadline_s)
        except AttemptFailed:
            self.close()
            raise
        except (HTTPException, ValueError, OSError) as error:
            self.close()
            if isinstance(error, OSError) or self._stage is not Stage.ANSWER:
                failure = self._words.of_attempt(self._stage, error)
            else:
                failure = self._words.not_http()
            # `from None`: an exception of a library may quote a header.
            raise AttemptFailed(failure) from None

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self._at(stage)

    def _open(self, context: ssl.SSLContext | None, deadline_s: float) -> _Connection:
        proxy = None if self._proxy is None else urlsplit(self._proxy)
        peer = self._url if proxy is None else proxy
        self._enter(Stage.RESOLVE)
        default = 443 if peer.scheme == "https" else 80
        found = socket.getaddrinfo(peer.hostname, peer.port or default, type=socket.SOCK_STREAM)
        self._enter(Stage.CONNECT)
        opened = _connected(found, deadline_s)
        self._socket = opened
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            return opened
        if proxy is not None:
            self._enter(Stage.PROXY)
            self._tunnel(opened, deadline_s)
        self._enter(Stage.TLS)
        host = self._url.hostname or ""
        self._socket = encrypted = TlsStream(opened, context, host, _left_s(deadline_s))
        return encrypted

    def _tunnel(self, opened: socket.socket, deadline_s: float) -> None:
        host = _host_and_port(self._url.hostname or "", self._url.port or 443)
        lines = [f"CONNECT {host} HTTP/1.1", f"Host: {host}", *self._proxy_authorization()]
        _send(opened, "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"), deadline_s)
        response = _begin(opened, "CONNECT", _TUNNEL_BYTES_MAX, deadline_s)
        response.close()
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            reason = self._redact(response.reason)
            raise AttemptFailed(self._words.of_proxy(response.status, reason))

    def _proxy_authorization(self) -> list[str]:
        proxy = urlsplit(self._proxy or "")
        if proxy.username is None:
            return []
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        return [f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}"]

    def _exchange(
        self, opened: _Connection, body: bytes, headers: Mapping[str, str], deadline_s: float
    ) -> Answer:
        self._enter(Stage.ANSWER)
        target = quote(self._url.path or "/", safe=_IN_A_PATH)
        host = _host_and_port(self._url.hostname or "", self._url.port)
        lines = [f"Host: {host}", "Accept-Encoding: identity", f"Content-Length: {len(body)}"]
        if self._proxy is not None and self._url.scheme == "http":
            target = f"http://{host}{target}"
            lines += self._proxy_authorization()
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "".join(f"{line}\r\n" for line in (f"POST {target} HTTP/1.1", *lines, "")).encode("latin-1")
        _send(opened, head + body, deadline_s)
        response = _begin(opened, "POST", ANSWER_BYTES_MAX, deadline_s)
        return self._read(response)

    def _read(self, response: HTTPResponse) -> Answer:
        parts: list[bytes] = []
        is_whole = False
        try:
            while part := response.read(_READ_BYTES):
                parts.append(part)
            is_whole = response.isclosed()
        except (HTTPException, ValueError, OSError):
            pass  # the status counts; the details are lost
        response.close()
        if response.will_close or not is_whole:
            self.close()
        headers = {name.lower(): value for name, value in response.headers.items()}
        encoded = headers.get("content-encoding", "identity").strip().lower() != "identity"
        body = b"".join(parts) if is_whole and not encoded else b""
        return Answer(response.status, response.reason, headers, body)


class _Reading(io.RawIOBase):
    """Reads from a socket up to a number of bytes and an instant, whatever the size of each read."""

    def __init__(self, opened: _Connection, bytes_max: int, deadline_s: float) -> None:
        super().__init__()
        self._opened = opened
        self._left = bytes_max
        self._deadline_s = deadline_s

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that HTTPResponse reads from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview", /) -> int:  # pyrefly: ignore[bad-override]
        if self._left <= 0:
            raise IncompleteRead(b"")
        self._opened.settimeout(_left_s(self._deadline_s))
        count = self._opened.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


def _begin(opened: _Connection, method: str, bytes_max: int, deadline_s: float) -> HTTPResponse:
    """Return an answer of which the headers have been read."""
    reading = cast("socket.socket", _Reading(opened, bytes_max, deadline_s))
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
        opened = socket.socket(family, kind, protocol)
        try:
            opened.settimeout(_left_s(deadline_s) / (len(addresses) - number))
            opened.connect(address)
        except OSError as error:
            opened.close()
            failed = error
        else:
            return opened
    raise failed


def _send(opened: _Connection, data: bytes, deadline_s: float) -> None:
    opened.settimeout(_left_s(deadline_s))
    opened.sendall(data)  # the timeout is for all of it


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s


def _host_and_port(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"
