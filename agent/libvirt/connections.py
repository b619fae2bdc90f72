"""All libvirts of this host: those configured by URI, and those whose sockets match a glob."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

import anyio
from anyio.abc import TaskGroup

from agent.core.address import Domain
from agent.core.held_threads import HeldThreads
from agent.core.reading import IntervalPolicy, SocketMark
from agent.core.shares import ROOT, Owner, equal_shares
from agent.errors import LibvirtUnreachable, LinkFault
from agent.libvirt.api import FoundSocket
from agent.libvirt.connection import THREADS_HELD_MAX, KeptConnection, Locks
from agent.libvirt.link import DomainLink
from agent.libvirt.qmp_terms import NO_SOURCES, LabelSources
from agent.libvirt.relay import MESSAGE_MAX_BYTES
from agent.libvirt.targets import Place, Settings, mistakes, owner_of, pod_of, uri_of_socket
from agent.telemetry import Counters

FIRST_ATTEMPT_S = 5.0
"""How long to wait for the first answer before a libvirt counts as unavailable."""

SOCKETS_MAX, DOMAINS_MAX = 512, 64
"""Libvirts found by their sockets, and domains used of each of them. Any user who can create a socket where
the glob matches can run such a libvirt; a URI is the operator's choice and has no bound."""

FOUND_THREADS_HELD_MAX = 64
"""Threads that all libvirts found by their sockets may hold with calls that do not end. Beyond it only those
of owners (core/shares.py) that hold less than their share get more."""

NO_MARKS: Mapping[str, SocketMark] = MappingProxyType({})
NO_OWNERS: Mapping[str, Owner] = MappingProxyType({})

_OVER_BOUND = f"more than {SOCKETS_MAX} libvirt sockets; use a narrower glob"


@dataclass(frozen=True, slots=True)
class RunningDomain:
    """A running domain to watch."""

    address: Domain
    mark: SocketMark
    name: str | None
    labels: Mapping[str, str]
    place: Place
    owner: Owner


class Connections:
    """The connections to all libvirts. Create it on the event loop; `run` keeps them until canceled."""

    def __init__(self, settings: Settings, counters: Counters, locks: Locks | None = None) -> None:
        """Create it; `locks` apply to the connections that are kept, not to those used once."""
        self._settings = settings
        self._counters = counters
        self._locks = locks
        self._kept: dict[str, tuple[KeptConnection, Place, anyio.CancelScope]] = {}
        self._named = frozenset(place.uri for place in settings.places if place.uri is not None)
        self._held_by_named = HeldThreads(THREADS_HELD_MAX)
        self._held_by_found = HeldThreads(THREADS_HELD_MAX, FOUND_THREADS_HELD_MAX)
        self._over_bound: tuple[str, ...] = ()
        self._changed = anyio.Event()
        self._group: TaskGroup

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep all connections, until canceled."""
        async with anyio.create_task_group() as self._group:
            for place in self._settings.places:
                if place.uri is not None:
                    self._keep(place.uri, place)
            task_status.started()
            await anyio.sleep_forever()

    def see_sockets(
        self,
        sockets: Mapping[str, Place],
        marks: Mapping[str, SocketMark] = NO_MARKS,
        owners: Mapping[str, Owner] = NO_OWNERS,
    ) -> None:
        """Connect to each of these sockets, and disconnect from those seen before and missing now.

        Over the bound, the owners have equal shares: of those with the most, the newest are left out.

        Args:
            sockets: the place whose glob each matches, by path.
            marks: the sockets that were found at these paths; nothing else is connected to there.
            owners: of the sockets, by path.
        """
        uris = {path: uri_of_socket(path, owner_of(path)) for path in sorted(sockets)}
        found = {uris[path]: FoundSocket(path, mark) for path, mark in marks.items() if path in uris}
        seen = {
            uri: (sockets[path], owners.get(path)) for path, uri in uris.items() if uri not in self._named
        }
        connected = [uri for uri in self._kept if uri not in self._named]
        used = equal_shares({uri: owner for uri, (_, owner) in seen.items()}, connected, SOCKETS_MAX)
        for uri in connected:
            if uri not in used or self._kept[uri][0].owner != seen[uri][1]:  # or a socket of another owner
                _, _, scope = self._kept.pop(uri)
                scope.cancel()
        for uri, (place, owner) in seen.items():
            if uri in used and uri not in self._kept:
                self._keep(uri, place, owner)
        for uri, (connection, _, _) in self._kept.items():  # before any of them connects
            connection.expected = found.get(uri)
        self._over_bound = tuple(uri for uri in seen if uri not in used)
        self._change()

    def unusable(self) -> Mapping[str, str]:
        """Return why libvirts and domains that were found are not used, by URI or address."""
        reasons = dict.fromkeys(self._over_bound, _OVER_BOUND)
        for connection, _, _ in self._kept.values():
            reasons |= connection.unusable()
        return reasons

    def _keep(self, uri: str, place: Place, owner: Owner = None) -> None:
        connection = self._connection(
            uri,
            owner=owner,
            read_only=place.policy is IntervalPolicy.OBSERVE,
            locks=self._locks,
            domains_max=None if uri in self._named else DOMAINS_MAX,
            label_sources=place.label_sources,
        )
        self._kept[uri] = connection, place, self._start(connection)

    def _start(self, connection: KeptConnection) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def keep() -> None:
            with scope:
                await connection.keep()

        self._group.start_soon(keep, name=f"libvirt:{connection.uri}")
        return scope

    def _connection(
        self,
        uri: str,
        *,
        read_only: bool,
        owner: Owner = None,
        locks: Locks | None = None,
        domains_max: int | None = None,
        label_sources: LabelSources = NO_SOURCES,
    ) -> KeptConnection:
        return KeptConnection(
            uri,
            owner=owner,
            held=self._held_by_named if uri in self._named else self._held_by_found,
            domains_max=domains_max,
            message_max_bytes=None if uri in self._named or owner == ROOT else MESSAGE_MAX_BYTES,
            label_sources=label_sources,
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
        """Return once domains have started or stopped since the last call."""
        await self._changed.wait()
        self._changed = anyio.Event()

    async def tried(self) -> None:
        """Return once the first attempt to connect to each libvirt has ended, or taken too long."""
        with anyio.move_on_after(FIRST_ATTEMPT_S):
            for connection, _, _ in list(self._kept.values()):
                await connection.tried.wait()

    def domains(self) -> Sequence[RunningDomain]:
        """Return the running domains of all libvirts, by address; of an unavailable one, those last known."""
        found = [
            RunningDomain(
                address,
                mark,
                domain.name,
                _with_pod(domain.labels, address.uri),
                place,
                _share_of(connection),
            )
            for connection, place, _ in self._kept.values()
            for address, (mark, domain) in connection.domains().items()
        ]
        return sorted(found, key=lambda each: str(each.address))

    @property
    def problems(self) -> Mapping[str, str]:
        """Why a libvirt is unavailable, by URI."""
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
            raise LibvirtUnreachable(str(domain), LinkFault.MISSING, "the socket of libvirt was removed")
        async with kept[0].open_link(domain) as link:
            yield link

    @asynccontextmanager
    async def open_to_write(self, domain: Domain) -> AsyncGenerator[DomainLink, None]:
        """Open a link that may write, also at a libvirt without a connection or with a read-only one.

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
        """Open a read-only link at a libvirt without a connection."""
        return self._open_once(domain, read_only=True)

    @asynccontextmanager
    async def _open_once(self, domain: Domain, *, read_only: bool) -> AsyncGenerator[DomainLink, None]:
        for wrong in mistakes(domain.uri):  # it may come from a file of the service's user, and root opens it
            raise LibvirtUnreachable(str(domain), LinkFault.DISCONNECTED, wrong)
        kept = self._kept.get(domain.uri)
        owner = None if kept is None else kept[0].owner
        connection = self._connection(domain.uri, read_only=read_only, owner=owner)
        connection.expected = None if kept is None else kept[0].expected
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


def _share_of(connection: KeptConnection) -> Owner:
    """Return the owner of a libvirt's domains: of a found one, the user or pod that made its socket."""
    return connection.uri if connection.owner in (None, ROOT) else connection.owner


def _with_pod(labels: Mapping[str, str], uri: str) -> Mapping[str, str]:
    pod = pod_of(uri)
    return labels if pod is None else {**labels, "kubernetes_pod_uid": pod}


@cache
def boot_mark() -> int:
    """Return a number that identifies this boot of the host."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return int.from_bytes(blake2b(boot_id, digest_size=7).digest(), "big")
