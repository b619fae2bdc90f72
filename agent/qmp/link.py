"""The agent's link to one VM's monitor: open it, ask, receive its events."""

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio

from agent.contract.decode import BadAnswer, decode_guest_stats
from agent.core.address import MonitorPath
from agent.core.events import Checked, Given, Introduced, LinkEvent
from agent.core.reading import Reading, SocketMark
from agent.core.shares import Owner
from agent.deadline import answer_within
from agent.errors import LinkFault, QmpCommandError, QmpUnreachable
from agent.qmp import endpoint, parsing
from agent.qmp.allowlist import INTERVAL
from agent.qmp.backlog import Look, SharedLooks, queues
from agent.qmp.balloon import PLACES, choose_balloon
from agent.qmp.client import MonitorClient
from agent.qmp.endpoint import Endpoint, Identify, unknown_peer
from agent.qmp.lookout import Lookout
from agent.qmp.openings import Openings
from agent.qmp.turns import ReadTurns
from agent.threads import in_thread

T = TypeVar("T")

_NO_BALLOON_CLASSES = frozenset({"DeviceNotActive", "KVMMissingCap"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the agent uses monitors."""

    # From connecting to the end of the negotiation. Short: a monitor that sends no greeting is held by
    # another client, and a client that waits in its backlog keeps others out. A free QEMU greets within 1 ms.
    greeting_timeout_s: float = 1.0
    # With more messages in a second than this, or ten times as many events that are not used, the link is
    # closed: a VM makes a few events at a reboot, and a failing disk makes one for each request.
    events_per_s_max: int = 500
    # Links being opened at the same time, while none is silent: the limit of `openings` of `open_link`.
    opening_at_once: int = 32
    # Readings in flight at the same time, on all links; further ones wait.
    readings_at_once: int = 128


class Link:
    """An open link. Made by `open_link`; ended after any `QmpUnreachable`.

    No call has a deadline of its own: callers use cancel scopes. A canceled call leaves the link usable; the
    command may still run, and its late answer is dropped.

    Each call raises:
        QmpCommandError: QEMU refused; the link stays usable.
        QmpUnreachable: HUNG_UP, FLOODING, PROTOCOL or NO_ANSWER, from `introduce` also NOT_A_VM; the link
            has ended.
    """

    def __init__(self, found: Endpoint, path: str, client: MonitorClient) -> None:
        self.path = path
        self.mark = found.mark  # of the socket file that this link was connected through
        self.peer = found.peer
        self.owner = found.owner_id
        self.resident_bytes: int | None = None  # QMP does not have this value
        self._client = client

    async def introduce(self) -> Introduced:
        """Ask who this VM is and for its state: 6 to 9 round trips. Events are queued from before them."""
        try:
            answer = await self._client.call("query-uuid")
        except QmpCommandError as error:
            if error.error_class == "CommandNotFound":  # each QEMU has it
                raise self._client.fail(LinkFault.NOT_A_VM, error) from error
            raise
        uuid = self._parse(parsing.parse_uuid, answer)
        name = self._parse(parsing.parse_name, await self._client.call("query-name"))
        found = await self.check(None)
        actual_bytes = None if found.balloon_path is None else await self.read_actual()
        return Introduced(
            uuid, name, found.run_state, found.balloon_path, found.interval_s, actual_bytes, found.given
        )

    def read_stats(
        self, balloon_path: str, take: Callable[[Reading | BadAnswer | QmpCommandError], None]
    ) -> None:
        """Ask for `guest-stats`, in one round trip.

        Args:
            balloon_path: the QOM path of the balloon.
            take: called by the link's reader with the decoded answer, or with QEMU's refusal. It is not
                called if the link ends before; `next_event` raises then.
        """

        def answered(answer: object) -> None:
            take(decode_guest_stats(answer))

        self._client.send(answered, take, "qom-get", path=balloon_path, property="guest-stats")

    async def check(self, balloon_path: str | None) -> Checked:
        """Ask for run state, sizes and interval; look for the balloon if there is none at `balloon_path`.

        Only of a new balloon it asks whether the guest may take memory back: that cannot change.
        """
        run_state = await self.read_run_state()
        sizes = await self._read_sizes()
        deflate_on_oom = None
        interval_s = None if balloon_path is None else await self._read_interval(balloon_path)
        if interval_s is None:
            balloon_path = await self._find_balloon()
            interval_s = None if balloon_path is None else await self._read_interval(balloon_path)
            if balloon_path is not None and interval_s is not None:
                deflate_on_oom = await self._read_deflate_on_oom(balloon_path)
        if interval_s is None:  # unplugged between the two questions
            balloon_path = None
        base_bytes, plugged_bytes = sizes or (None, None)
        return Checked(run_state, balloon_path, interval_s, Given(base_bytes, plugged_bytes, deflate_on_oom))

    async def read_run_state(self) -> str:
        """Return QEMU's term for the run state."""
        return self._parse(parsing.parse_run_state, await self._client.call("query-status"))

    async def read_actual(self) -> int | None:
        """Return the balloon's actual size in bytes; `None`: not known, or QEMU has no balloon that works.

        On QEMU 7.2 this walks QEMU's whole device tree: do not call it for every sample.
        """
        try:
            answer = await self._client.call("query-balloon")
        except QmpCommandError as error:
            if error.error_class in _NO_BALLOON_CLASSES:
                return None
            raise
        return self._parse(parsing.parse_actual_bytes, answer)

    async def write_interval(self, balloon_path: str, interval_s: int) -> None:
        """Set the polling interval; 0 disables polling. Setting the same value again changes nothing in QEMU.

        Raises:
            QmpNotAllowed: `interval_s` is below 0 or above 2^32-1.
        """
        await self._client.call("qom-set", path=balloon_path, property=INTERVAL, value=interval_s)

    async def next_event(self) -> LinkEvent:
        """Return the next event since the link was opened, waiting for one; by one task at a time.

        If more came than were taken, an `OVERFLOW` stands before the newest event of each kind.

        Raises:
            QmpUnreachable: the link has ended, and every event before that has been returned.
        """
        return await self._client.next_event()

    def tell(self, event: LinkEvent) -> None:
        """Let `next_event` return this event, too."""
        self._client.tell(event)

    async def _find_balloon(self) -> str | None:
        for place in PLACES:
            listing = await self._client.call("qom-list", path=place)
            found = self._parse(lambda answer, at=place: choose_balloon(at, answer), listing)
            if found is not None:
                return found
        return None

    async def _read_sizes(self) -> tuple[int, int] | None:
        """Return base and plugged memory in bytes; `None`: QEMU refused, or the answer made no sense."""
        try:
            return parsing.parse_memory_sizes(await self._client.call("query-memory-size-summary"))
        except QmpCommandError:
            return None

    async def _read_deflate_on_oom(self, balloon_path: str) -> bool | None:
        """Return whether the guest may take memory back when it runs out; `None`: no such property."""
        try:
            answer = await self._client.call("qom-get", path=balloon_path, property="deflate-on-oom")
        except QmpCommandError:
            return None
        return answer if isinstance(answer, bool) else None

    async def _read_interval(self, balloon_path: str) -> int | None:
        try:
            answer = await self._client.call("qom-get", path=balloon_path, property=INTERVAL)
        except QmpCommandError:  # DeviceNotFound; GenericError if another device has the name now
            return None
        return self._parse(parsing.parse_interval_s, answer)

    def _parse(self, parse: Callable[[object], T], answer: object) -> T:
        try:
            return parse(answer)
        except ValueError as error:
            raise self._client.fail(LinkFault.PROTOCOL, error) from error


@asynccontextmanager
async def open_link(
    path: str,
    settings: Settings,
    openings: Openings,
    *,
    owner: Owner = None,
    turns: ReadTurns | None = None,
    look_first: bool = False,
    mark: SocketMark | None = None,
    identify: Identify = unknown_peer,
    look: Look = queues,
) -> AsyncGenerator[Link, None]:
    """Connect, read the greeting and negotiate; the link is closed at the end of the block in any case.

    A connection given up (deadline, cancellation) is closed at once, so that it does not get the monitor when
    its holder leaves. Until then it keeps its place in QEMU's backlog of two.

    Args:
        path: the socket file, of any length.
        settings: the deadline and the bound on messages.
        openings: have a turn before connecting that ends before the block begins.
        owner: the owner of the turn, and of what the monitor uses of the budget.
        turns: what all monitors share while they send more than their budget.
        look_first: do not connect if other connections already wait to be accepted; it is BUSY then.
        mark: the socket to connect to; any other is `SocketReplaced`. `None`: any.
        identify: finds the process that listens, by its pid; called in a thread.
        look: shows which connections wait, for `look_first`; called in a thread.

    Raises:
        QmpUnreachable: MISSING, REFUSED, DENIED, BUSY, SILENT, NOT_QMP, HUNG_UP, NO_ANSWER (silent after
            its greeting), FLOODING or PROTOCOL.
    """
    client = MonitorClient(path, events_per_s_max=settings.events_per_s_max, turns=turns, owner=owner)
    connection: socket.socket | None = None
    try:
        async with openings.turn(owner):
            found = await in_thread(
                partial(
                    endpoint.connect,
                    path,
                    look_first=look_first,
                    expected=mark,
                    identify=identify,
                    look=look,
                ),
                discard=lambda found: found.connection.close(),
            )
            connection = found.connection
            with answer_within(settings.greeting_timeout_s) as scope:
                # The library is started only once something was sent: a held monitor costs little.
                await anyio.wait_readable(connection)
                await client.begin(connection)
            if scope.cancelled_caught:
                raise _silence(path, settings, greeted=client.greeted)
        yield Link(found, path, client)
    finally:
        await client.close()
        if connection is not None:
            connection.close()


class QmpOpener:
    """Opens links to monitors, at most as many at the same time as the settings allow."""

    def __init__(self, settings: Settings, identify: Identify = unknown_peer) -> None:
        self._settings = settings
        self._identify = identify
        self._openings = Openings(settings.opening_at_once)
        self._turns = ReadTurns()
        self._looks = SharedLooks()
        self._lookout = Lookout(self._looks)

    async def run(self) -> None:
        """Look which clients wait at the monitors of open links, until canceled."""
        await self._lookout.run()

    @asynccontextmanager
    async def __call__(
        self,
        monitor: MonitorPath,
        *,
        look_first: bool = False,
        mark: SocketMark | None = None,
        owner: Owner = None,
    ) -> AsyncGenerator[Link, None]:
        """See `open_link`. While `run` runs, the link's events show its monitor's other clients."""
        async with open_link(
            str(monitor),
            self._settings,
            self._openings,
            owner=owner,
            turns=self._turns,
            look_first=look_first,
            mark=mark,
            identify=self._identify,
            look=self._looks.newest,
        ) as link:
            with self._lookout.watching(link.mark, link.tell):
                yield link


def _silence(path: str, settings: Settings, *, greeted: bool) -> QmpUnreachable:
    if greeted:
        detail = f"a greeting, but no answer within {settings.greeting_timeout_s:g} s of connecting"
        return QmpUnreachable(path, LinkFault.NO_ANSWER, detail)
    return QmpUnreachable(path, LinkFault.SILENT, f"no greeting within {settings.greeting_timeout_s:g} s")
