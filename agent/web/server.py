"""A small HTTP server in the agent's event loop. Only this file imports uvicorn.

Rules, each with a test in tests/unit/web/test_server.py:

- the server handles no signals and writes no log lines of its own;
- a connection serves one request, read and answered within a deadline even if the client is slow;
- connections are bounded, and a new one closes another (agent/web/crowding.py): a flood cannot keep a probe
  out;
- a request larger than the bound is refused;
- a request with another host's name in `Host` is refused.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from email.utils import formatdate
from functools import partial
from typing import Any, cast

import anyio
import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.errors import CannotListen
from agent.threads import in_thread
from agent.web.crowding import Connected, client_of, one_to_close, stage_of
from agent.web.hosts import AllowedHosts, guarded, names_of_this_host
from agent.web.web_settings import Settings

log = structlog.get_logger("barograph.web")

_BACKLOG = 16  # connections accepted before other tasks run again
_LAST_RESPONSES_S = 1  # for responses under way when the agent ends
_CLOSE_TIMEOUT_S = 0.4


@asynccontextmanager
async def open_web(settings: Settings, app: Starlette) -> AsyncGenerator[str, None]:
    """Serve `app` until the end of the block; yield its URL.

    Raises:
        CannotListen: the address cannot be used.
    """
    listening = await _bind(settings)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    connections: list[_Connection] = []
    server = _Server(
        uvicorn.Config(
            guarded(app, AllowedHosts({*settings.allowed_hosts, settings.host, *names_of_this_host()})),
            http=_bounded(settings, connections),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=[("connection", "close")],
            backlog=_BACKLOG,
            h11_max_incomplete_event_size=settings.request_max_bytes,
            timeout_graceful_shutdown=_LAST_RESPONSES_S,
        )
    )
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listening], name="web")
            log.info("web server listening", url=url)
            try:
                yield url
            finally:
                server.end()
                group.cancel_scope.deadline = anyio.current_time() + _CLOSE_TIMEOUT_S
    finally:
        listening.close()
        for each in connections:
            each.transport.abort()


async def _bind(settings: Settings) -> socket.socket:
    what = f"web.listen: {settings.host}:{settings.port}"
    remedy = "use another address (or --web HOST:PORT), or set web.enabled: false"
    try:
        # anyio's would use a thread that the interpreter waits for at its end.
        found = await in_thread(
            partial(
                socket.getaddrinfo,
                settings.host,
                settings.port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )
        )
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"{what}: {error.strerror}; {remedy}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)  # clients are queued from now on
    except OSError as error:
        listening.close()
        raise CannotListen(f"{what}: {error.strerror}; {remedy}") from error
    listening.setblocking(False)
    return listening


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to app.py."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end without uvicorn's tick, which wakes the process ten times a second."""
        await self._ending.wait()

    def end(self) -> None:
        """Stop accepting connections, and let responses under way finish."""
        self.should_exit = True
        self._ending.set()


_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _Connection(H11Protocol):
    client_name = ""
    _opened_s = 0.0
    _unread_since_s = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._opened_s = self.loop.time()
        self.client_name = client_of(str((transport.get_extra_info("peername") or ("",))[0]))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_since_s = self.loop.time()

    @property
    def connected(self) -> Connected:
        """What decides whether this one is closed."""
        now_s = self.loop.time()
        stage = stage_of(
            asked=cast("object", self.cycle) is not None,
            open_s=now_s - self._opened_s,
            unread_s=now_s - self._unread_since_s if self.flow.write_paused else 0.0,
        )
        return Connected(self.client_name, stage)


def _bounded(settings: Settings, connections: list[_Connection]) -> type[asyncio.Protocol]:
    """Return uvicorn's connection class with a deadline for slow clients and a bound on connections.

    `connections` has the open ones, the oldest first.
    """

    class Connection(_Connection):
        _deadline: asyncio.TimerHandle | None = None
        _received_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Without uvicorn's tick; a connection serves one request.
            date = (b"date", formatdate(usegmt=True).encode())
            self.server_state.default_headers = [date, *self.config.encoded_headers]
            self._deadline = self.loop.call_later(settings.connection_max_s, transport.abort)
            if len(connections) >= settings.connections_max:
                other = connections.pop(one_to_close([each.connected for each in connections]))
                other.transport.abort()
            connections.append(self)

        def data_received(self, data: bytes) -> None:
            # h11 bounds only a request that is incomplete, and one read can complete a larger one.
            self._received_bytes += len(data)
            if self._received_bytes <= settings.request_max_bytes:
                super().data_received(data)
                return
            if cast("object", self.cycle) is None:  # nothing has been answered
                self.transport.write(_TOO_LARGE)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            if self in connections:
                connections.remove(self)
            if self._deadline is not None:
                self._deadline.cancel()
            super().connection_lost(exc)

    return Connection
