"""Requests over TLS end at the deadline and read no more than a bound, whatever the peer does."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.sinks.http_connection import AttemptFailed
from agent.sinks.http_post import Answer, HttpClient
from agent.sinks.otlp_failures import target
from agent.sinks.otlp_settings import Settings
from agent.sinks.tls_stream import READ_BYTES_MAX

TLS = Path(__file__).parents[2] / "data" / "tls"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TIMEOUT_S = 30.0
TICKET_BYTES = 200  # approximately, with its record

Serve = Callable[[ssl.SSLSocket], None]


@contextmanager
def server(serve: Serve, tickets: int = 2) -> Generator[HttpClient]:
    """Yield a client of a TLS server that sends `tickets` session tickets after its handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "localhost-cert.pem", TLS / "key.pem")
    context.num_tickets = tickets
    listener = socket.create_server(("127.0.0.1", 0))

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as encrypted:
            serve(encrypted)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    settings = Settings(endpoint=f"https://localhost:{listener.getsockname()[1]}", protocol="http")
    trusted = ssl.create_default_context(cafile=TLS / "localhost-cert.pem")
    client = HttpClient(target(settings), lambda: (1, trusted), lambda _: None)
    try:
        yield client
    finally:
        client.close()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answer_each(encrypted: ssl.SSLSocket) -> None:
    while encrypted.recv(65_536):
        encrypted.sendall(OK)


def answer_once(encrypted: ssl.SSLSocket) -> None:
    encrypted.recv(65_536)
    encrypted.sendall(OK)


def post(client: HttpClient, body: bytes = b"body", timeout_s: float = TIMEOUT_S) -> Answer:
    return client.post(body, {}, timeout_s)


def test_a_connection_is_kept_and_opened_again_once_the_peer_has_closed_it() -> None:
    for serve in (answer_each, answer_once):
        with server(serve) as client:
            assert [post(client).body for _ in range(3)] == [b"ok"] * 3


def test_records_without_data_are_read_up_to_a_bound() -> None:
    with (
        server(answer_each, tickets=2 * READ_BYTES_MAX // TICKET_BYTES) as client,
        pytest.raises(AttemptFailed, match=r"does not answer in HTTP/1\.1"),
    ):
        post(client)


def test_a_peer_that_reads_slowly_does_not_extend_the_timeout() -> None:
    body, received = bytes(32 * 2**20), 0
    ended = threading.Event()

    def read_slowly(encrypted: ssl.SSLSocket) -> None:
        nonlocal received
        with suppress(OSError):
            while part := encrypted.recv(64 * 1024):
                received += len(part)
                time.sleep(0.005)  # a call returns at most one record (16 KiB), so all take seconds
        ended.set()

    with server(read_slowly) as client:
        with pytest.raises(AttemptFailed, match="no complete answer"):
            post(client, body, timeout_s=1.0)
        assert ended.wait(60)

    assert received < len(body) / 2


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_peer_without_tls_is_reported(words: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(words)

        threading.Thread(target=refuse, daemon=True).start()
        settings = Settings(endpoint=f"https://localhost:{listener.getsockname()[1]}", protocol="http")
        client = HttpClient(target(settings), lambda: (1, ssl.create_default_context()), lambda _: None)
        with pytest.raises(AttemptFailed, match=r"speak TLS|speaks TLS|TLS with"):
            post(client)


def test_a_kept_connection_with_broken_tls_makes_no_request_fail() -> None:
    def answer_and_break(encrypted: ssl.SSLSocket) -> None:
        answer_once(encrypted)
        socket.socket.sendall(encrypted, b"\x17\x03\x03\x00\x20" + bytes(32))  # not encrypted

    with server(answer_and_break) as client:
        assert [post(client).status for _ in range(3)] == [200] * 3
