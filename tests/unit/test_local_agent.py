"""Tests of `barograph status` and `barograph health` with a program that is not the agent."""

import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli
from agent.local_agent import NoAnswerError, ask
from tests.unit.test_cli_health import HOST

ESCAPES = "\x1b[2J\x9b2J\u202e".encode()


@contextmanager
def listening(talk: Callable[[socket.socket, Event], None]) -> Generator[int]:
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with suppress(OSError), peer:
                peer.recv(4096)
                talk(peer, over)

        thread = Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()


def saying(answer: bytes) -> Callable[[socket.socket, Event], None]:
    return lambda peer, _: peer.sendall(answer)


def run(port: int, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--web", f"127.0.0.1:{port}"], env=HOST, prog_name="barograph")


@pytest.mark.parametrize("words", [("health",), ("status",), ("status", "-o", "json")])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + ESCAPES,
        b'HTTP/1.1 200 OK\r\n\r\n{"now_ms": 1, "vms": [], "x": "' + ESCAPES[4:] + b'"}',
        b"HTTP/1.1 200 OK\r\n\r\n" + b'{"now_ms": 1%s, "vms": []}' % (b"0" * 5000),
        b"HTTP/1.1 200 OK\r\nx" + ESCAPES + b"\r\n\r\n",
        ESCAPES + b"\r\n\r\n",
        b'HTTP/1.1 200 OK\r\n\r\n{"now_ms": 1, "vms": [], "agent": {"host": {"id": "\xff", "name": "x"}}}',
        b'HTTP/1.1 200 OK\r\n\r\n{"now_ms": 1, "vms": [], "x": ' + b"[" * 99_999,
    ],
)
def test_an_answer_is_printable(words: tuple[str, ...], answer: bytes) -> None:
    with listening(saying(answer)) as port:
        done = run(port, *words)

    assert isinstance(done.exception, SystemExit | None)
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()


def test_an_answer_without_end_is_not_kept() -> None:
    def talk(peer: socket.socket, over: Event) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            peer.sendall(b"x" * 65536)

    with listening(talk) as port, pytest.raises(NoAnswerError, match="more than 1,000 bytes"):
        ask("127.0.0.1", port, "/livez", within_s=30, bytes_max=1000)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_trickles_ends_at_the_timeout(start: bytes) -> None:
    def talk(peer: socket.socket, over: Event) -> None:
        peer.sendall(start)
        while not over.wait(0.05):
            peer.sendall(b"x")

    began_s = time.monotonic()
    with listening(talk) as port, pytest.raises(NoAnswerError):
        ask("127.0.0.1", port, "/livez", within_s=0.5, bytes_max=1 << 20)

    assert time.monotonic() - began_s < 30
