"""One libvirt: keep a connection to it, know its domains, pass its events on.

While it is unavailable its domains are still known, and their links have ended as DISCONNECTED: their QEMUs
may well go on. What is decided is in core/reconnecting and core/bulk_reading.
"""

import os
import random
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NoReturn, Protocol, TypeVar, cast

import anyio
import anyio.from_thread
import structlog
from anyio.lowlevel import current_token

from agent.core import reconnecting
from agent.core.address import Domain
from agent.core.events import LinkEvent
from agent.core.held_threads import HeldThreads
from agent.core.reading import SocketMark
from agent.core.reconnecting import Opening, Reconnecting
from agent.core.shares import Owner
from agent.core.wording import counted
from agent.errors import Declined, LibvirtUnreachable, LinkFault
from agent.libvirt import api, qmp_terms
from agent.libvirt.api import Found, Look
from agent.libvirt.calls import Caller
from agent.libvirt.link import DomainLink
from agent.libvirt.readings import Readings, Request
from agent.telemetry import Count, Counters

T = TypeVar("T")

log = structlog.get_logger("barograph.libvirt")

INTRODUCTIONS_AT_ONCE = 2
"""Domains introduced at the same time. The daemon works on five calls of one client at a time; the others are
left to readings, also while hundreds of domains are introduced."""

THREADS_HELD_MAX = 8
"""Threads that one libvirt may hold with calls that do not end; it is then refused until one of them ends."""

REASON_WITHIN_S = 0.1
"""An answer may show that a domain has ended before the event arrives that has the reason."""

EVENTS_PER_S_MAX = 5_000
"""Events of one libvirt. A host that starts its VMs makes some hundred in a second."""

WAIT_FOR_CONNECTION_S = 240.0
"""How long a link waits for the connection; the core gives up opening one after 300 s."""

_REMOVED = "the socket of libvirt was removed"
_OTHER_AGENT = "another agent on this host watches it; configure it in only one agent, or stop one"


class Locks(Protocol):
    """Locks against other agents on this host."""

    def take(self, uri: str) -> bool:
        """Lock a libvirt; return whether this agent has it for itself."""
        ...

    def let_go(self, uri: str) -> None:
        """Unlock it."""
        ...


class KeptConnection:
    """A libvirt and the connection to it, which is reopened when lost. Owned by the event loop's thread."""

    def __init__(
        self,
        uri: str,
        *,
        boot_mark: int,
        read_only: bool,
        rescan_s: float,
        counters: Counters,
        on_change: Callable[[], None],
        locks: Locks | None = None,
        owner: Owner = None,
        held: HeldThreads | None = None,
        domains_max: int | None = None,
        message_max_bytes: int | None = None,
        label_sources: qmp_terms.LabelSources = qmp_terms.NO_SOURCES,
    ) -> None:
        """Create it; `keep` connects.

        Args:
            uri: of the libvirt.
            boot_mark: identifies this boot of the host.
            read_only: whether the connection is read-only.
            rescan_s: how often domains are listed again.
            counters: the agent's own metrics.
            on_change: called when domains start or stop, or the connection is made or lost.
            locks: taken before connecting; `None`: other agents may use it too.
            owner: of the share of `held` that it counts to.
            held: bounds the threads that a libvirt holds which does not answer.
            domains_max: how many domains are used; `None`: all.
            message_max_bytes: the connection ends at a longer message of the daemon's; `None`: the client
                library's limit.
            label_sources: where labels of the domains come from.
        """
        self.uri = uri
        self.owner: Owner = owner
        self.expected: api.FoundSocket | None = None
        """The socket to connect to, as discovery found it; `None`: any."""
        self.read_only = read_only
        self.problem: str | None = "not connected yet"
        """Why there is no connection; `None`: there is one."""
        self.tried = anyio.Event()
        """Set once the first attempt has ended, either way."""
        self._boot_mark = boot_mark
        self._rescan_s = rescan_s
        self._counters = counters
        self._on_change = on_change
        self._locks = locks
        self._held = held or HeldThreads(THREADS_HELD_MAX)
        self._domains_max = domains_max
        self._message_max_bytes = message_max_bytes
        self._label_sources = label_sources
        self._unusable: Mapping[str, str] = {}
        self._left_out = 0
        self._caller = Caller("libvirt calls", self._late, uri=uri, owner=owner, held=self._held)
        self._introductions = anyio.CapacityLimiter(INTRODUCTIONS_AT_ONCE)
        self._domains: dict[str, Found] = {}
        self._links: dict[str, DomainLink] = {}
        self._why_ended: dict[str, str] = {}
        self._reconnecting = Reconnecting()
        self._up = anyio.Event()
        self._ended = False
        self._connection: api.Connection | None = None
        self._readings: Readings | None = None
        self._lost = anyio.Event()
        self._why_lost = ""
        self._rescan = anyio.Event()

    def domains(self) -> Mapping[Domain, tuple[SocketMark, qmp_terms.Definition]]:
        """Return the domains by address, each with the mark of its process and its definition."""
        return {
            Domain(self.uri, uuid): (self._mark(found), found.definition)
            for uuid, found in self._domains.items()
        }

    def unusable(self) -> Mapping[str, str]:
        """Return why domains are not used, by their address or, for those over the bound, by the URI."""
        reasons = {str(Domain(self.uri, uuid)): why for uuid, why in self._unusable.items()}
        if self._left_out:
            reasons[self.uri] = (
                f"{counted(self._left_out, 'domain')} not observed: the limit is {self._domains_max} domains"
                " for a libvirt that `sockets` finds; configure this libvirt by `uri`, which has no limit"
            )
        return reasons

    def _mark(self, found: Found) -> SocketMark:
        return SocketMark(self._boot_mark, found.id, 0)

    async def keep(self) -> None:
        """Connect, and reconnect whenever the connection is lost, until canceled."""
        try:
            while True:
                begun_s = anyio.current_time()
                try:
                    if self._locks is not None and not self._locks.take(self.uri):
                        raise LibvirtUnreachable(self.uri, LinkFault.DISCONNECTED, _OTHER_AGENT)
                    connection, readings = await self._connect()
                    await self._serve(connection, readings)
                except LibvirtUnreachable as error:
                    why = error.detail
                except Declined as error:
                    why = str(error)
                except Exception as error:  # noqa: BLE001 - the boundary of a libvirt, which any user may run
                    why = _unexpected(self.uri, error)
                self._leave(why, lasted_ns=int((anyio.current_time() - begun_s) * 1e9))
                pause_ns = reconnecting.retry_after_ns(self._reconnecting, random.getrandbits(128))
                await anyio.sleep(pause_ns / 1e9)
        finally:
            self._ended = True
            self._drop()
            if self._locks is not None:
                self._locks.let_go(self.uri)
            self._caller.close()
            for link in self._links.values():
                link.end(LinkFault.MISSING, _REMOVED)
            self._up.set()  # links that wait for it end

    async def _connect(self) -> tuple[api.Connection, Readings]:
        # Without a deadline: an attempt at a stopped daemon ends when the daemon continues, and there must
        # not be many of them.
        self._refuse_if_held()
        opened = await self._caller.call(
            partial(
                api.open_connection,
                self.uri,
                read_only=self.read_only,
                expected=self.expected,
                message_max_bytes=self._message_max_bytes,
            ),
            discard=api.Connection.close,
        )
        try:
            self._lost, self._rescan = anyio.Event(), anyio.Event()
            self._connection = opened
            await self._call(partial(opened.subscribe, _EventForwarder(self)))
            await self._look_around(opened)
        except BaseException:
            self._drop()
            raise
        self._counters.add(Count.LIBVIRT_CONNECTIONS)
        log.info("libvirt connected", uri=self.uri, domains=len(self._domains), read_only=self.read_only)
        self.problem = None
        self._readings = readings = Readings(opened, self._caller, self._counters)
        self._reconnecting = reconnecting.connected(self._reconnecting)
        self._up.set()
        self.tried.set()
        self._on_change()
        return opened, readings

    async def _serve(self, connection: api.Connection, readings: Readings) -> NoReturn:
        async with anyio.create_task_group() as group:
            group.start_soon(readings.run)
            group.start_soon(self._follow, connection)
            group.start_soon(self._end_when_clogged, readings)
            await self._lost.wait()
            group.cancel_scope.cancel()
        raise LibvirtUnreachable(self.uri, LinkFault.DISCONNECTED, self._why_lost)

    async def _end_when_clogged(self, readings: Readings) -> None:
        await readings.clogged.wait()
        self.lose("the daemon does not answer: too many calls have timed out")

    async def _follow(self, connection: api.Connection) -> None:
        while True:
            with anyio.move_on_after(self._rescan_s):
                await self._rescan.wait()
            self._rescan = anyio.Event()
            try:
                await self._look_around(connection)
            except Declined as error:
                self.lose(str(error))
            except LibvirtUnreachable as error:
                self.lose(error.detail)

    async def _look_around(self, connection: api.Connection) -> None:
        known = {uuid: found.id for uuid, found in self._domains.items()} if self.problem is None else {}
        listing = await self._call(
            partial(connection.look_around, known, self._domains_max, self._label_sources)
        )
        before = {uuid: found.id for uuid, found in self._domains.items()}, self.unusable()
        self._unusable, self._left_out = listing.unusable, listing.left_out
        for uuid in self._domains.keys() - set(listing.running):
            self._stopped(uuid, "libvirt no longer lists it as running")
        for found in listing.new:
            link = self._links.get(found.uuid)
            if link is not None and link.found.id != found.id:
                link.end(LinkFault.MISSING, "libvirt has started it again")
            self._domains[found.uuid] = found
            self._why_ended.pop(found.uuid, None)
        if before != ({uuid: found.id for uuid, found in self._domains.items()}, self.unusable()):
            self._on_change()

    def _leave(self, why: str, *, lasted_ns: int) -> None:
        """End the links: there is no connection any more, or there was none."""
        self._reconnecting = reconnecting.lost(self._reconnecting, lasted_ns=lasted_ns, links=self._links)
        if self.problem is None:
            log.warning("libvirt connection lost", uri=self.uri, problem=why)
        elif why != self.problem:
            log.warning("libvirt unavailable", uri=self.uri, problem=why)
        was_up, self.problem = self.problem is None, why
        self._drop()
        if self._up.is_set():
            self._up = anyio.Event()
        for link in self._links.values():
            link.end(LinkFault.DISCONNECTED, f"{self.uri}: {why}; the VM may still be running")
        self.tried.set()
        if was_up:
            self._on_change()

    def _drop(self) -> None:
        connection, self._connection, self._readings = self._connection, None, None
        if connection is not None:
            self._caller.leave(connection.close)  # it may block as long as the daemon does

    # --- for its links ---

    @asynccontextmanager
    async def open_link(self, domain: Domain) -> AsyncGenerator[DomainLink, None]:
        """Open a link to a running domain; it is closed at the end of the block.

        Raises:
            LibvirtUnreachable: DISCONNECTED; MISSING: no such domain is running; PROTOCOL: its definition
                cannot be parsed.
        """
        path, uuid = str(domain), domain.uuid
        self._reconnecting, opening = reconnecting.open_link(self._reconnecting, uuid)
        if opening is Opening.WAIT:
            with anyio.move_on_after(WAIT_FOR_CONNECTION_S):
                await self._up.wait()
        if self._ended:
            raise LibvirtUnreachable(path, LinkFault.MISSING, _REMOVED)
        if opening is Opening.FAIL or not self._up.is_set():
            raise self._disconnected(path)
        found = self._domains.get(uuid)
        if found is None:
            why = self._why_ended.get(uuid, "libvirt has no running domain with this uuid")
            raise LibvirtUnreachable(path, LinkFault.MISSING, why)
        link = DomainLink(path, self._mark(found), found, self)
        self._links[uuid] = link
        try:
            async with self._introductions:
                try:
                    await link.prepare()
                except Declined as error:
                    raise LibvirtUnreachable(path, LinkFault.PROTOCOL, str(error)) from error
            yield link
        finally:
            if self._links.get(uuid) is link:
                del self._links[uuid]
            if self._readings is not None:
                self._readings.forget(uuid)

    def _disconnected(self, path: str) -> LibvirtUnreachable:
        return LibvirtUnreachable(
            path, LinkFault.DISCONNECTED, f"{self.uri}: {self.problem}; the VM may still be running"
        )

    async def look(self, path: str, found: Found) -> Look:
        """Return a domain's definition and run state."""
        connection = self._connected(path)
        try:
            return await self._call(partial(connection.look, path, found.uuid))
        except LibvirtUnreachable as error:
            if error.fault is not LinkFault.MISSING:
                raise
            await anyio.sleep(REASON_WITHIN_S)
            why = self._why_ended.get(found.uuid, error.detail)
            raise LibvirtUnreachable(path, LinkFault.MISSING, why) from error

    async def set_period(self, path: str, found: Found, period_s: int) -> None:
        """Set a running domain's polling period."""
        connection = self._connected(path)
        await self._call(partial(connection.set_period, path, found.uuid, period_s))

    def read(self, request: Request) -> None:
        """Add a reading to the next bulk call."""
        if self._readings is not None:
            self._readings.ask(request)

    def _connected(self, path: str) -> api.Connection:
        if self._connection is None:
            raise self._disconnected(path)
        return self._connection

    async def _call(self, function: Callable[[], T]) -> T:
        try:
            self._refuse_if_held()
        except LibvirtUnreachable as error:
            self.lose(error.detail)
            raise
        self._counters.add(Count.LIBVIRT_CALLS)
        return await self._caller.call(function)

    def _refuse_if_held(self) -> None:
        refusal = self._held.refusal(self.uri, self.owner)
        if refusal is not None:
            raise LibvirtUnreachable(self.uri, LinkFault.DISCONNECTED, refusal)

    def _late(self) -> None:
        self._counters.add(Count.LIBVIRT_LATE)
        if self._readings is not None:
            self._readings.late_one_returned()

    # --- events ---

    def lifecycle(self, uuid: str, event: int, detail: int) -> None:
        """Take in a lifecycle event: a domain has started, stopped, or changed its run state."""
        if event == qmp_terms.STOPPED:
            self._stopped(uuid, qmp_terms.why_it_ended(detail))
            self._on_change()
        elif (known := qmp_terms.lifecycle(event, detail)) is not None:
            self.event(uuid, known)
        elif event == qmp_terms.STARTED:
            self._rescan.set()

    def event(self, uuid: str, event: LinkEvent) -> None:
        """Pass an event to the domain's link."""
        link = self._links.get(uuid)
        if link is not None:
            link.put(event)

    def lose(self, why: str) -> None:
        """Give up the connection: it has ended, or is unusable."""
        self._why_lost = why
        self._lost.set()

    def _stopped(self, uuid: str, why: str) -> None:
        self._domains.pop(uuid, None)
        self._why_ended[uuid] = why
        while len(self._why_ended) > 1000:
            del self._why_ended[next(iter(self._why_ended))]
        link = self._links.get(uuid)
        if link is not None:
            link.end(LinkFault.MISSING, why)


def _unexpected(uri: str, error: BaseException) -> str:
    """Log an error that no libvirt should cause, without its text, which the daemon may choose."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    *_, frame = traceback.extract_tb(error.__traceback__)
    name, place = type(error).__name__, f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}"
    detail = "a bug in the agent, or the host is out of threads or memory; the agent reconnects"
    log.error("libvirt failed", uri=uri, error=name, place=place, detail=detail)
    return f"unexpected {name}; see the log"


class _EventForwarder:
    """Passes events from the thread of the connection to the event loop of the agent, up to a bound."""

    def __init__(self, connection: KeptConnection) -> None:
        self._connection = connection
        self._token = current_token()
        self._second_begun_s = 0.0
        self._events = 0  # of this second
        self._flooded = False

    def lifecycle(self, uuid: str, event: int, detail: int) -> None:
        if self._has_room():
            self._hand_on(self._connection.lifecycle, uuid, event, detail)

    def event(self, uuid: str, event: LinkEvent) -> None:
        if self._has_room():
            self._hand_on(self._connection.event, uuid, event)

    def _has_room(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._second_begun_s >= 1.0:
            self._second_begun_s, self._events = now_s, 0
        self._events += 1
        if self._events > EVENTS_PER_S_MAX and not self._flooded:
            self._flooded = True
            self.closed(f"the daemon sent more than {EVENTS_PER_S_MAX} events in one second")
        return not self._flooded

    def closed(self, why: str) -> None:
        self._hand_on(self._connection.lose, why)

    def _hand_on(self, function: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            anyio.from_thread.run_sync(partial(function, *args), token=self._token)
