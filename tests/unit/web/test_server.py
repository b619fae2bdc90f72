import signal
import socket
import time
from contextlib import suppress

import anyio
import anyio.abc
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent.errors import CannotListen
from agent.web.server import open_web
from agent.web.web_settings import Settings
from tests.unit.web.client import ask, port_of

LARGE = b"x" * (64 << 20)  # more than any socket buffers


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


async def large(_: Request) -> Response:
    return Response(LARGE)


APP = Starlette(routes=[Route("/", hello), Route("/large", large)])


def settings(*, connections_max: int = 64, connection_max_s: float = 10.0) -> Settings:
    return Settings(
        host="127.0.0.1", port=0, connections_max=connections_max, connection_max_s=connection_max_s
    )


def is_over(client: socket.socket) -> bool:
    try:
        return not client.recv(1 << 20)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def test_the_server_leaves_signal_handlers_alone_and_serves_one_request_per_connection() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async with open_web(settings(), APP) as url:
        answer = await ask(url, "/")
        during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"hello", "close")
    assert during == before


@pytest.mark.parametrize(
    "words", [b"", b"GET / HTTP/1.1\r\nhost:", b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"]
)
async def test_a_slow_client_is_disconnected_at_the_deadline(words: bytes) -> None:
    async with open_web(settings(connection_max_s=0.3), APP) as url:
        with socket.socket() as client:  # it never reads, so its buffers fill
            client.connect(("127.0.0.1", port_of(url)))
            client.sendall(words)
            await anyio.sleep(0.6)  # past the deadline; there is nothing to wait for from outside
            client.setblocking(False)
            with anyio.fail_after(60):
                while not is_over(client):
                    await anyio.wait_readable(client)

        assert (await ask(url, "/")).body == b"hello"


async def test_silent_connections_are_bounded_and_do_not_keep_other_clients_out() -> None:
    async with open_web(settings(connections_max=4), APP) as url:
        silent = [await anyio.connect_tcp("127.0.0.1", port_of(url)) for _ in range(40)]
        answer = await ask(url, "/")
        closed = 0
        for stream in silent:
            with anyio.move_on_after(0.5):
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
                closed += 1
            await stream.aclose()

    assert answer.status == 200
    assert closed >= 36


@pytest.mark.parametrize("words", [b"", b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"], ids=["silent", "unread"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.2"], ids=["of the same address", "of another address"]
)
async def test_a_flood_closes_no_connection_that_is_being_answered(words: bytes, address: str) -> None:
    asked, release = anyio.Event(), anyio.Event()
    answers: list[bytes] = []

    async def slow(_: Request) -> Response:
        asked.set()
        await release.wait()
        return PlainTextResponse("slow")

    app = Starlette(routes=[Route("/slow", slow), Route("/large", large)])
    async with open_web(settings(connections_max=3, connection_max_s=120), app) as url:

        async def scrape() -> None:
            answers.append((await ask(url, "/slow")).body)

        async with anyio.create_task_group() as group:
            group.start_soon(scrape)
            await asked.wait()
            for _ in range(6):
                stream = await anyio.connect_tcp("127.0.0.1", port_of(url), local_host=address)
                group.start_soon(hold, stream, words)
                if words:
                    await anyio.sleep(0.05)  # until its answer fills the buffers
            release.set()
            with anyio.move_on_after(60):
                while not answers:  # noqa: ASYNC110 - the answer of a task
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    assert answers == [b"slow"]


async def test_clients_that_ask_at_once_are_answered_during_a_flood_that_does_not_read() -> None:
    """The server accepts several connections before it reads the first request."""
    async with (
        open_web(settings(connections_max=4, connection_max_s=120), APP) as url,
        anyio.create_task_group() as group,
    ):
        for _ in range(4):
            stream = await anyio.connect_tcp("127.0.0.1", port_of(url))
            group.start_soon(hold, stream, b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        await anyio.sleep(0.5)  # their answers fill the buffers
        asking = [socket.create_connection(("127.0.0.1", port_of(url))) for _ in range(3)]
        for each in asking:
            each.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            each.settimeout(60)
        received = [await anyio.to_thread.run_sync(read_all, each) for each in asking]
        group.cancel_scope.cancel()

    assert [each.endswith(b"hello") for each in received] == [True] * 3


def read_all(client: socket.socket) -> bytes:
    with client, client.makefile("rb") as file:
        return file.read()


async def hold(stream: anyio.abc.SocketStream, words: bytes) -> None:
    """Send a request, and read nothing."""
    async with stream:
        with suppress(anyio.BrokenResourceError):
            await stream.send(words)
            await anyio.sleep_forever()


@pytest.mark.parametrize("end", [b"", b" HTTP/1.1\r\nhost: x\r\n\r\n"], ids=["incomplete", "complete"])
async def test_a_request_larger_than_the_bound_is_refused(end: bytes) -> None:
    received = b""
    async with open_web(settings(), APP) as url:
        with anyio.fail_after(60):
            async with await anyio.connect_tcp("127.0.0.1", port_of(url)) as stream:
                await stream.send(b"GET /?" + b"x" * 16_384 + end)
                with suppress(anyio.BrokenResourceError):  # the server may close before it has read all
                    async for part in stream:
                        received += part

    assert received.startswith(b"HTTP/1.1 431 ")


async def test_an_address_in_use_is_reported_with_its_setting_and_a_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(
            CannotListen, match=rf"web\.listen: 127\.0\.0\.1:{port}: Address already in use; use another"
        ):
            async with open_web(Settings(host="127.0.0.1", port=port), APP):
                pass


async def test_a_response_under_way_delays_the_end_only_briefly() -> None:
    async with open_web(settings(), APP) as url:
        client = await anyio.connect_tcp("127.0.0.1", port_of(url))
        await client.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        await client.receive(1)
        began_s = time.monotonic()
    took_s = time.monotonic() - began_s
    await client.aclose()

    assert took_s < 30
