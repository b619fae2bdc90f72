"""Our connection to one VM's monitor: open it, ask what the agent asks, hear its events."""

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from agent.core.address import MonitorPath
from agent.core.reading import SocketMark
from agent.errors import LinkFault, QmpCommandError, QmpUnreachable
from agent.qmp import answers, endpoint
from agent.qmp.allowlist import INTERVAL
from agent.qmp.balloon import PLACES, choose_balloon
from agent.qmp.client import MonitorClient
from agent.qmp.events import MonitorEvent

T = TypeVar("T")

_NO_BALLOON_CLASSES = frozenset({"DeviceNotActive", "KVMMissingCap"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How monitors are talked to."""

    # From connecting to the end of the negotiation. Short, since a monitor that does not greet is held by
    # somebody else, and whoever waits in its queue keeps others out. A free QEMU greets within 1 ms.
    greeting_timeout_s: float = 1.0
    # More than this many messages in a second, and the link is dropped: a VM makes a few events at a reboot.
    events_per_s_max: int = 500
    # Links being opened at the same time: the limit of the `openings` that `open_link` is given.
    opening_at_once: int = 32
    # Readings under way at the same time, on all links: what is due beyond waits for its turn.
    readings_at_once: int = 128


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who answers, and how it stands. Sizes are bytes."""

    uuid: str | None  # lower case; None: QEMU was started without -uuid
    name: str | None  # None: without -name
    qemu_version: tuple[int, int, int]
    run_state: str  # QEMU's word
    balloon_path: str | None  # QOM path; None: no virtio balloon
    interval_s: int | None  # 0: polling is off; None: no balloon
    deflate_on_oom: bool | None  # None: no balloon, or it has no such property
    actual_bytes: int | None  # None: no balloon


@dataclass(frozen=True, slots=True)
class Check:
    """What is asked again now and then."""

    run_state: str
    balloon_path: str | None  # where the balloon is now; None: it is gone
    interval_s: int | None  # None: no balloon


class Link:
    """An open link. Made by `open_link`; dead after any `QmpUnreachable`.

    No call has a deadline of its own: the caller's cancel scopes rule. A cancelled call leaves the link
    usable; the command may still run, and its late answer is dropped.

    Each call raises:
        QmpCommandError: QEMU refused; the link stays usable.
        QmpUnreachable: HUNG_UP, FLOODING, PROTOCOL or NO_ANSWER; the link is dead.
    """

    def __init__(self, path: str, mark: SocketMark, client: MonitorClient) -> None:
        self.path = path
        self.mark = mark  # of the socket file this link was connected through
        self._client = client

    async def introduce(self) -> Introduction:
        """Ask who this is: 8 to 9 round trips. Events are queued from before it."""
        version = self._parse(answers.parse_version, self._client.greeting_version)
        uuid = self._parse(answers.parse_uuid, await self._client.call("query-uuid"))
        name = self._parse(answers.parse_name, await self._client.call("query-name"))
        check = await self.check(None)
        path = check.balloon_path
        return Introduction(
            uuid=uuid,
            name=name,
            qemu_version=version,
            run_state=check.run_state,
            balloon_path=path,
            interval_s=check.interval_s,
            deflate_on_oom=None if path is None else await self._read_deflate_on_oom(path),
            actual_bytes=None if path is None else await self.read_actual(),
        )

    def read_stats(
        self,
        balloon_path: str,
        answered: Callable[[object], None],
        refused: Callable[[QmpCommandError], None],
    ) -> None:
        """Ask for `guest-stats`: one round trip, the only question that is asked all the time.

        Args:
            balloon_path: the QOM path of the balloon.
            answered: called with the answer, not judged (contract/decode does), by the link's reader.
            refused: called instead where QEMU refused. Neither is called once the link has ended, which
                `next_event` tells.
        """
        self._client.send(answered, refused, "qom-get", path=balloon_path, property="guest-stats")

    async def check(self, balloon_path: str | None) -> Check:
        """Ask run state and interval; look for the balloon where `balloon_path` holds none."""
        run_state = await self.read_run_state()
        interval_s = None if balloon_path is None else await self._read_interval(balloon_path)
        if interval_s is None:
            balloon_path = await self._find_balloon()
            interval_s = None if balloon_path is None else await self._read_interval(balloon_path)
        if interval_s is None:  # unplugged between the two questions
            balloon_path = None
        return Check(run_state=run_state, balloon_path=balloon_path, interval_s=interval_s)

    async def read_run_state(self) -> str:
        """Return QEMU's word for the run state."""
        return self._parse(answers.parse_run_state, await self._client.call("query-status"))

    async def read_actual(self) -> int | None:
        """Return the balloon's actual size in bytes; `None`: QEMU has no balloon that works.

        On QEMU 7.2 this walks QEMU's whole device tree: not for every sample.
        """
        try:
            answer = await self._client.call("query-balloon")
        except QmpCommandError as error:
            if error.error_class in _NO_BALLOON_CLASSES:
                return None
            raise
        return self._parse(answers.parse_actual_bytes, answer)

    async def write_interval(self, balloon_path: str, interval_s: int) -> None:
        """Set the polling interval; 0 switches polling off. The same value again changes nothing in QEMU.

        Raises:
            QmpNotAllowed: `interval_s` is below 0 or above 2^32-1.
        """
        await self._client.call("qom-set", path=balloon_path, property=INTERVAL, value=interval_s)

    async def next_event(self) -> MonitorEvent:
        """Return the next event since the link was opened, waiting for one; by one task at a time.

        An `OVERFLOW` says that more came than was taken: it stands before the newest event of each name.

        Raises:
            QmpUnreachable: the link has ended, and every event before that has been returned.
        """
        return await self._client.next_event()

    async def _find_balloon(self) -> str | None:
        for place in PLACES:
            listing = await self._client.call("qom-list", path=place)
            found = self._parse(lambda answer, at=place: choose_balloon(at, answer), listing)
            if found is not None:
                return found
        return None

    async def _read_interval(self, balloon_path: str) -> int | None:
        try:
            answer = await self._client.call("qom-get", path=balloon_path, property=INTERVAL)
        except QmpCommandError:  # DeviceNotFound; GenericError where another device has taken the name
            return None
        return self._parse(answers.parse_interval_s, answer)

    async def _read_deflate_on_oom(self, balloon_path: str) -> bool | None:
        try:
            answer = await self._client.call("qom-get", path=balloon_path, property="deflate-on-oom")
        except QmpCommandError:
            return None
        return self._parse(answers.parse_flag, answer)

    def _parse(self, parse: Callable[[object], T], answer: object) -> T:
        try:
            return parse(answer)
        except ValueError as error:
            raise self._client.fail(LinkFault.PROTOCOL, error) from error


@asynccontextmanager
async def open_link(
    path: str, settings: Settings, openings: anyio.CapacityLimiter, *, look_first: bool = False
) -> AsyncGenerator[Link, None]:
    """Connect, read the greeting, negotiate; the link is closed at the end of the block, whatever happens.

    A connection given up (deadline, cancellation) is closed at once, so that it does not take the monitor
    when its holder leaves; until then QEMU's queue of two keeps its place, which we cannot take back.

    Args:
        path: the socket file, of any length.
        settings: the deadline and the bound on events.
        openings: waited for before connecting, and let go before the block begins.
        look_first: do not join those who wait at the socket already; it is BUSY then.

    Raises:
        QmpUnreachable: MISSING, REFUSED, DENIED, BUSY, SILENT, NOT_QMP, HUNG_UP, NO_ANSWER (greeted, and
            silent since), FLOODING or PROTOCOL.
    """
    client = MonitorClient(path, events_per_s_max=settings.events_per_s_max)
    connection: socket.socket | None = None
    try:
        async with openings:
            found = await anyio.to_thread.run_sync(partial(endpoint.connect, path, look_first=look_first))
            connection = found.connection
            try:
                with anyio.fail_after(settings.greeting_timeout_s):
                    # The library sees only who speaks: a held monitor, the usual case, costs it nothing.
                    await anyio.wait_readable(connection)
                    await client.begin(connection)
            except TimeoutError as error:
                raise _silence(path, settings, greeted=client.greeted) from error
        yield Link(path, found.mark, client)
    finally:
        await client.close()
        if connection is not None:
            connection.close()


class QmpOpener:
    """Opens links to monitors, so many at the same time as the settings allow."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._openings = anyio.CapacityLimiter(settings.opening_at_once)

    def __call__(
        self, monitor: MonitorPath, *, look_first: bool = False
    ) -> AbstractAsyncContextManager[Link]:
        """See `open_link`."""
        return open_link(str(monitor), self._settings, self._openings, look_first=look_first)


def _silence(path: str, settings: Settings, *, greeted: bool) -> QmpUnreachable:
    if greeted:
        said = f"no answer within {settings.greeting_timeout_s:g} s of connecting, though it has greeted"
        return QmpUnreachable(path, LinkFault.NO_ANSWER, said)
    return QmpUnreachable(path, LinkFault.SILENT, f"no greeting within {settings.greeting_timeout_s:g} s")
