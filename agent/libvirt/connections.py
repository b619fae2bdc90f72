"""All libvirts of this host: those that are named, and those whose sockets a glob matches."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from agent.core.address import Domain
from agent.core.reading import IntervalPolicy, SocketMark
from agent.errors import LibvirtUnreachable, LinkFault
from agent.libvirt.connection import KeptConnection, Locks
from agent.libvirt.link import DomainLink
from agent.libvirt.settings import Place, Settings, owner_of, uri_of_socket
from agent.telemetry import Counters

FIRST_ATTEMPT_S = 5.0
"""So long the first answer is waited for before a libvirt is one that is away."""


@dataclass(frozen=True, slots=True)
class RunningDomain:
    """A running domain, to be watched."""

    address: Domain
    mark: SocketMark
    labels: Mapping[str, str]
    policy: IntervalPolicy


class Connections:
    """Made on the event loop; runs until cancelled."""

    def __init__(self, settings: Settings, counters: Counters, locks: Locks | None = None) -> None:
        """Make it; `locks` keep other agents from what is kept, and not from what is asked once."""
        self._settings = settings
        self._counters = counters
        self._locks = locks
        self._kept: dict[str, tuple[KeptConnection, IntervalPolicy, anyio.CancelScope]] = {}
        self._changed = anyio.Event()
        self._group: TaskGroup

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep all connections."""
        async with anyio.create_task_group() as self._group:
            for place in self._settings.places:
                if place.uri is not None:
                    self._keep(place.uri, place.policy)
            task_status.started()
            await anyio.sleep_forever()

    def see_sockets(self, sockets: Mapping[str, Place]) -> None:
        """Keep a connection to each of these sockets, and to no other that was seen before."""
        named = {place.uri for place in self._settings.places}
        seen = {uri_of_socket(path, owner_of(path)): place for path, place in sockets.items()}
        for uri in self._kept.keys() - seen.keys() - named:
            _, _, scope = self._kept.pop(uri)
            scope.cancel()
        for uri, place in seen.items():
            if uri not in self._kept:
                self._keep(uri, place.policy)
        self._change()

    def _keep(self, uri: str, policy: IntervalPolicy) -> None:
        connection = self._connection(uri, read_only=policy is IntervalPolicy.OBSERVE, locks=self._locks)
        self._kept[uri] = connection, policy, self._start(connection)

    def _start(self, connection: KeptConnection) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def keep() -> None:
            with scope:
                await connection.keep()

        self._group.start_soon(keep, name=f"libvirt:{connection.uri}")
        return scope

    def _connection(self, uri: str, *, read_only: bool, locks: Locks | None = None) -> KeptConnection:
        return KeptConnection(
            uri,
            boot_mark=boot_mark(),
            read_only=read_only,
            rescan_s=self._settings.rescan_s,
            counters=self._counters,
            on_change=self._change,
            locks=locks,
        )

    def _change(self) -> None:
        self._changed.set()

    async def changed(self) -> None:
        """Return once domains have come or gone since this was called last."""
        await self._changed.wait()
        self._changed = anyio.Event()

    async def tried(self) -> None:
        """Return once each libvirt has answered or not, for the first time."""
        with anyio.move_on_after(FIRST_ATTEMPT_S):
            for connection, _, _ in list(self._kept.values()):
                await connection.tried.wait()

    def domains(self) -> Sequence[RunningDomain]:
        """The running domains of all, by address; of those that are away, the ones known."""
        found = [
            RunningDomain(address, mark, labels, policy)
            for connection, policy, _ in self._kept.values()
            for address, (mark, labels) in connection.domains().items()
        ]
        return sorted(found, key=lambda each: str(each.address))

    @property
    def problems(self) -> Mapping[str, str]:
        """Why a libvirt is away, by URI."""
        return {
            uri: connection.problem
            for uri, (connection, _, _) in self._kept.items()
            if connection.problem is not None
        }

    def __len__(self) -> int:
        return len(self._kept)

    @asynccontextmanager
    async def open_link(self, domain: Domain) -> AsyncGenerator[DomainLink, None]:
        """Open a link to a domain.

        Raises:
            LibvirtUnreachable: MISSING, DISCONNECTED.
        """
        kept = self._kept.get(domain.uri)
        if kept is None:
            raise LibvirtUnreachable(str(domain), LinkFault.MISSING, "its libvirt is not there any more")
        async with kept[0].open_link(domain) as link:
            yield link

    @asynccontextmanager
    async def open_to_write(self, domain: Domain) -> AsyncGenerator[DomainLink, None]:
        """The same to change it, also at a libvirt that is not kept, or kept read-only.

        Raises:
            LibvirtUnreachable: MISSING, DISCONNECTED.
        """
        kept = self._kept.get(domain.uri)
        if kept is not None and not kept[0].read_only:
            async with kept[0].open_link(domain) as link:
                yield link
            return
        async with self._open_once(domain, read_only=False) as link:
            yield link

    def open_to_read(self, domain: Domain) -> AbstractAsyncContextManager[DomainLink]:
        """The same at a libvirt that is not kept, without being able to change anything."""
        return self._open_once(domain, read_only=True)

    @asynccontextmanager
    async def _open_once(self, domain: Domain, *, read_only: bool) -> AsyncGenerator[DomainLink, None]:
        connection = self._connection(domain.uri, read_only=read_only)
        scope = self._start(connection)
        try:
            with anyio.move_on_after(FIRST_ATTEMPT_S):
                await connection.tried.wait()
            if connection.problem is not None:
                raise LibvirtUnreachable(str(domain), LinkFault.DISCONNECTED, connection.problem)
            async with connection.open_link(domain) as link:
                yield link
        finally:
            scope.cancel()


@cache
def boot_mark() -> int:
    """Return a number that this boot of the host has alone."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return int.from_bytes(blake2b(boot_id, digest_size=7).digest(), "big")
