"""Tests of the client with a scripted peer: every answer is bounded in size and time."""

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import pytest

from agent.sinks.http_connection import AttemptFailed, Stage
from agent.sinks.http_post import ANSWER_BYTES_MAX, HttpClient
from agent.sinks.otlp_failures import target
from agent.sinks.otlp_settings import Settings
from tests.integration.otlp_backends import listening

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


Step: TypeAlias = bytes | Callable[[socket.socket], None]


class Peer:
    """Answers each request with the next step: bytes, or a function that gets the connection."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)
        self.requests: list[bytes] = []
        self.connections = 0
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while self.steps and (request := connection.recv(65_536)):
                self.requests.append(request)
                step = self.steps.pop(0)
                if isinstance(step, bytes):
                    connection.sendall(step)
                    continue
                step(connection)
                return

    def endless(self, piece: bytes, pause_s: float = 0.0, head: bytes = b"") -> Step:
        """Return a step that sends `head`, then `piece` for as long as the client reads."""

        def send(connection: socket.socket) -> None:
            connection.sendall(head)
            while True:
                connection.sendall(piece)
                self.sent += len(piece)
                time.sleep(pause_s)

        return send


@contextmanager
def client_of(*steps: Step) -> Generator[tuple[HttpClient, Peer]]:
    peer = Peer(steps)
    settings = Settings(endpoint=peer.endpoint, protocol="http")
    client = HttpClient(target(settings), _no_tls, lambda _: None)
    try:
        yield client, peer
    finally:
        client.close()
        peer.close()


def _no_tls() -> tuple[Hashable, ssl.SSLContext]:
    raise AssertionError("TLS must not be used here")


def post(client: HttpClient, timeout_s: float = 30.0) -> tuple[int, bytes]:
    answer = client.post(b"body", {"authorization": "Bearer secret-1"}, timeout_s)
    return answer.status, answer.body


def test_a_connection_is_kept_and_opened_again_once_the_backend_has_closed_it() -> None:
    with client_of(OK, OK, socket.socket.close, OK) as (client, peer):
        assert [post(client), post(client), post(client)] == [(200, b"ok")] * 3

        assert peer.connections == 2
        assert peer.requests[0].startswith(b"POST /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nAccept-Encoding: identity\r\n" in peer.requests[0]
        assert peer.requests[0].endswith(b"\r\nauthorization: Bearer secret-1\r\n\r\nbody")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
    ],
)
def test_an_answer_without_end_is_read_up_to_the_limit_and_its_status_counts(head: bytes) -> None:
    with client_of() as (client, peer):
        peer.steps.append(peer.endless(b"x" * 4096, head=head))

        assert post(client) == (200, b"")
        assert peer.sent < 100 * ANSWER_BYTES_MAX  # the rest was in the sockets' buffers


@pytest.mark.parametrize("piece", [b"X: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"z"])
def test_endless_headers_are_refused(piece: bytes) -> None:
    with client_of() as (client, peer):
        peer.steps.append(peer.endless(piece * 100))

        with pytest.raises(AttemptFailed, match=r"does not answer in HTTP/1\.1"):
            post(client)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 2", b"HTTP/1.1 503 No\r\nX: "])
def test_an_answer_that_trickles_ends_at_the_timeout(head: bytes) -> None:
    with client_of() as (client, peer):
        peer.steps.append(peer.endless(b"0", 0.02, head))
        began_s = time.monotonic()

        with pytest.raises(AttemptFailed, match="no complete answer"):
            post(client, 0.5)
        assert 0.4 < time.monotonic() - began_s < 20


def test_a_compressed_answer_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(50_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    with client_of(head + packed) as (client, _):
        assert post(client) == (200, b"")


def test_a_request_to_a_plain_backend_goes_to_the_proxy_with_its_credentials() -> None:
    with client_of(OK) as (_, peer):
        settings = Settings(
            endpoint="http://otlp.invalid:4318",
            protocol="http",
            proxy=peer.endpoint.replace("//", "//user:p%40ss@"),
            proxy_variable="http_proxy",
        )
        client = HttpClient(target(settings), _no_tls, lambda _: None)

        assert post(client) == (200, b"ok")
        assert peer.requests[0].startswith(b"POST http://otlp.invalid:4318/v1/metrics HTTP/1.1\r\n")
        assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in peer.requests[0]
        client.close()


def test_the_stages_of_an_attempt_are_reported() -> None:
    stages: list[Stage] = []
    with client_of(OK, OK) as (_, peer):
        settings = Settings(endpoint=peer.endpoint, protocol="http")
        client = HttpClient(target(settings), _no_tls, stages.append)
        post(client)
        post(client)
        client.close()

    assert stages == [Stage.RESOLVE, Stage.CONNECT, Stage.ANSWER, Stage.ANSWER]


def test_a_family_of_addresses_that_the_host_does_not_have_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = socket.getaddrinfo

    def look_up(*args: Any, **options: Any) -> list[Any]:
        found = real(*args, **options)
        return [(255, *each[1:]) for each in found] + found

    with client_of(OK) as (client, _):
        monkeypatch.setattr(socket, "getaddrinfo", look_up)

        assert client.post(b"", {}, 30.0).status == 200


def test_the_words_of_a_proxy_that_does_not_speak_http_are_not_repeated() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 99999 " + b"x" * 150 + b" hunter2secret\r\n\r\n")

    with listening(serve) as port:
        settings = Settings(
            endpoint="https://otlp.invalid",
            protocol="http",
            proxy=f"http://user:hunter2secret@127.0.0.1:{port}",
            proxy_variable="HTTPS_PROXY",
        )
        client = HttpClient(target(settings), lambda: (None, ssl.create_default_context()), lambda _: None)
        with pytest.raises(AttemptFailed) as failed:
            client.post(b"", {}, 30.0)

    assert "does not answer in HTTP" in str(failed.value)
    assert "hunter2" not in str(failed.value)
