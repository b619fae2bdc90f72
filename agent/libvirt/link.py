"""A conversation with one of libvirt's domains, in QMP's words: what `qmp/link` is for a monitor."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import anyio

from agent.core.reading import SocketMark
from agent.errors import Declined, LibvirtUnreachable, LinkFault
from agent.libvirt.api import Found, Look
from agent.libvirt.readings import Request

QUEUED_MAX = 64

NO_DATA: Mapping[str, object] = MappingProxyType({})


class Asked(Protocol):
    """What a link asks of its connection."""

    async def look(self, path: str, found: Found) -> Look: ...
    async def set_period(self, path: str, found: Found, period_s: int) -> None: ...
    def read(self, request: Request) -> None: ...


@dataclass(frozen=True, slots=True)
class Event:
    """What libvirt said of a domain, as QMP would: `name` and `data` are QEMU's."""

    name: str
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who a domain is, and how it stands. `None` for what it does not have."""

    uuid: str | None
    name: str | None
    run_state: str
    balloon_path: str | None  # the device's alias
    interval_s: int | None
    actual_bytes: int | None


class DomainLink:
    """A conversation with one running domain. Made by `open_link`; ends with the connection."""

    def __init__(self, path: str, mark: SocketMark, found: Found, connection: Asked) -> None:
        self.path = path
        self.mark = mark
        self.found = found
        self._connection = connection
        self._events: deque[Event] = deque()
        self._told = anyio.Event()
        self._end: LibvirtUnreachable | None = None
        self._run_state: str | None = None
        self._met: Introduction | None = None

    async def meet(self) -> None:
        """Ask who this is before `introduce` does: here it may wait for its turn, there it has a deadline."""
        self._met = await self._look()

    async def introduce(self) -> Introduction:
        """Tell who this is."""
        met, self._met = self._met, None
        return await self._look() if met is None else met

    async def check(self, balloon_path: str | None) -> Introduction:
        """Ask run state, balloon and interval; where the balloon is, libvirt knows."""
        return await self._look()

    async def read_actual(self) -> int | None:
        """Return the balloon's size in bytes, as libvirt knows it from QEMU's events."""
        return (await self._look()).actual_bytes

    async def write_interval(self, balloon_path: str, interval_s: int) -> None:
        """Set the polling interval of the running domain; its definition is left as it is."""
        await self._connection.set_period(self.path, self.found, interval_s)

    def read_stats(
        self, balloon_path: str, answered: Callable[[object], None], refused: Callable[[Declined], None]
    ) -> None:
        """Ask for the statistics; neither is called once the link has ended, which `next_event` tells."""
        found = self.found
        self._connection.read(Request(found.uuid, answered, refused, self._runs))

    async def next_event(self) -> Event:
        """Return the next event, waiting for one; by one task at a time.

        Raises:
            LibvirtUnreachable: the link has ended, and every event before that has been returned.
        """
        while not self._events:
            if self._end is not None:
                raise self._end
            self._told = anyio.Event()
            await self._told.wait()
        return self._events.popleft()

    def tell(self, event: Event) -> None:
        """Hand on an event."""
        if len(self._events) >= QUEUED_MAX:
            self._events = deque([Event("OVERFLOW", NO_DATA)])
        self._events.append(event)
        self._told.set()

    def end(self, fault: LinkFault, detail: str) -> None:
        """The domain has stopped, or the connection has."""
        if self._end is None:
            self._end = LibvirtUnreachable(self.path, fault, detail)
            self._told.set()

    async def _look(self) -> Introduction:
        look = await self._connection.look(self.path, self.found)
        self._run_state = look.run_state
        definition = look.definition
        return Introduction(
            uuid=definition.uuid,
            name=definition.name,
            run_state=look.run_state,
            balloon_path=definition.balloon,
            interval_s=definition.period_s,
            actual_bytes=definition.actual_bytes,
        )

    def _runs(self, run_state: str) -> None:
        """A run state came along with statistics: another one than was told is looked into."""
        if self._run_state not in (None, run_state):
            self._run_state = run_state
            self.tell(Event("OVERFLOW", NO_DATA))
