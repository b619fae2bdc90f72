"""A token endpoint (RFC 6749) on loopback that issues tokens, or gives the answer that a test sets."""

import json
import socket
import ssl
import threading
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import parse_qsl

Step: TypeAlias = bytes | Callable[[socket.socket], None]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@dataclass
class TokenServer:
    """A server that answers each request with `answer`. Every setting can be changed while it runs."""

    answer: Callable[[], Step]
    port: int = 0
    forms: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    clients: list[str] = field(default_factory=list[str])  # `ID:SECRET` of each request
    sent: int = 0  # bytes of an answer without end

    @property
    def url(self) -> str:
        """Return the URL of the endpoint."""
        return f"http://127.0.0.1:{self.port}/token"

    def endless(self, head: bytes = HEAD + b"\r\n", piece: bytes = b"x" * 4096, pause_s: float = 0.0) -> Step:
        """Return a step that sends `head`, then `piece` for as long as the client reads."""

        def send(connection: socket.socket) -> None:
            connection.sendall(head)
            while True:
                connection.sendall(piece)
                self.sent += len(piece)
                time.sleep(pause_s)

        return send

    def serve(self, connection: socket.socket) -> None:
        """Answer one request."""
        request = b""
        while b"\r\n\r\n" not in request or len(_body(request)) < _length(request):
            received = connection.recv(65_536)
            if not received:
                return
            request += received
        self.forms.append(dict(parse_qsl(_body(request).decode())))
        self.clients.append(b64decode(_header(request, b"authorization").split()[-1]).decode())
        step = self.answer()
        if isinstance(step, bytes):
            connection.sendall(step)
        else:
            step(connection)


@contextmanager
def token_server(answer: Callable[[], Step], tls: ssl.SSLContext | None = None) -> Generator[TokenServer]:
    """Run the endpoint in a thread until the block ends."""
    server = TokenServer(answer)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                if tls is None:
                    server.serve(connection)
                    return
                with tls.wrap_socket(connection, server_side=True) as encrypted:
                    server.serve(encrypted)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


def http(body: bytes, status: str = "200 OK") -> bytes:
    """Return an answer over HTTP."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def issued(token: str, expires_in: object = 3600, **more: object) -> bytes:
    """Return the answer that issues a token."""
    return http(
        json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": expires_in} | more).encode()
    )


def encoded(part: object) -> str:
    """Return a part of a JWT (RFC 7519)."""
    return urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def unsecured(subject: str, lifetime_s: float, **claims: object) -> str:
    """Return a JWT without a signature, which Kafka's validator for tests accepts."""
    now = time.time()
    payload = {"sub": subject, "iat": now - 1, "exp": now + lifetime_s, **claims}
    return f"{encoded({'alg': 'none'})}.{encoded(payload)}."


def _body(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


def _length(request: bytes) -> int:
    return int(_header(request, b"content-length") or b"0")


def _header(request: bytes, name: bytes) -> bytes:
    head = request.partition(b"\r\n\r\n")[0]
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    return next((value.strip() for key, _, value in lines if key.lower() == name), b"")
