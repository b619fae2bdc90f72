"""The agent's link to one of libvirt's domains: what `qmp/link` is for a monitor."""

from collections.abc import Callable
from typing import Protocol

import anyio

from agent.contract.decode import BadAnswer
from agent.core.event_queue import OVERFLOW, EventQueue
from agent.core.events import Checked, Given, Introduced, LinkEvent
from agent.core.reading import Peer, Reading, SocketMark
from agent.errors import Declined, LibvirtUnreachable, LinkFault
from agent.libvirt.api import Found, Look
from agent.libvirt.readings import Request


class DomainCalls(Protocol):
    """What a link needs of its connection."""

    async def look(self, path: str, found: Found) -> Look: ...
    async def set_period(self, path: str, found: Found, period_s: int) -> None: ...
    def read(self, request: Request) -> None: ...


class DomainLink:
    """A link to one running domain. Made by `open_link`; ends with the connection."""

    def __init__(self, path: str, mark: SocketMark, found: Found, connection: DomainCalls) -> None:
        self.path = path
        self.mark = mark
        self.peer: Peer | None = None  # libvirt owns the process
        self.owner = path.partition("#")[0]  # the libvirt's URI
        self.resident_bytes: int | None = None  # of the process, as it came with the last reading
        self.found = found
        self._connection = connection
        self._queue = EventQueue()
        self._news = anyio.Event()
        self._end: LibvirtUnreachable | None = None
        self._run_state: str | None = None
        self._first_look: Look | None = None

    async def prepare(self) -> None:
        """Look at the domain before `introduce`: here it may wait its turn, there it has a deadline."""
        self._first_look = await self._look()

    async def introduce(self) -> Introduced:
        """Return who this domain is, and its state."""
        look, self._first_look = self._first_look, None
        look = await self._look() if look is None else look
        domain = look.definition
        return Introduced(
            domain.uuid,
            domain.name,
            look.run_state,
            domain.balloon,
            domain.period_s,
            domain.actual_bytes,
            _given(look),
        )

    async def check(self, balloon_path: str | None) -> Checked:
        """Ask for run state, balloon and interval; libvirt knows where the balloon is."""
        look = await self._look()
        return Checked(look.run_state, look.definition.balloon, look.definition.period_s, _given(look))

    async def read_actual(self) -> int | None:
        """Return the balloon's size in bytes, as libvirt knows it from QEMU's events."""
        return (await self._look()).definition.actual_bytes

    async def write_interval(self, balloon_path: str, interval_s: int) -> None:
        """Set the polling interval of the running domain; its definition is left as it is."""
        await self._connection.set_period(self.path, self.found, interval_s)

    def read_stats(self, balloon_path: str, take: Callable[[Reading | BadAnswer | Declined], None]) -> None:
        """Ask for the statistics. `take` is not called if the link ends before; `next_event` raises then."""
        self._connection.read(Request(self.found.uuid, take, self._take_run_state, self._take_resident))

    async def next_event(self) -> LinkEvent:
        """Return the next event, waiting for one; by one task at a time.

        Raises:
            LibvirtUnreachable: the link has ended, and every event before that has been returned.
        """
        while not self._queue:
            if self._end is not None:
                raise self._end
            self._news = anyio.Event()
            await self._news.wait()
        return self._queue.take()

    def put(self, event: LinkEvent) -> None:
        """Queue an event for `next_event`."""
        self._queue.put(event)
        self._news.set()

    def end(self, fault: LinkFault, detail: str) -> None:
        """End the link: the domain has stopped, or the connection has ended."""
        if self._end is None:
            self._end = LibvirtUnreachable(self.path, fault, detail)
            self._news.set()

    async def _look(self) -> Look:
        look = await self._connection.look(self.path, self.found)
        self._run_state = look.run_state
        return look

    def _take_resident(self, resident_bytes: int | None) -> None:
        self.resident_bytes = resident_bytes

    def _take_run_state(self, run_state: str) -> None:
        """Have the domain checked if its run state, which came with statistics, is not the one last seen."""
        if self._run_state not in (None, run_state):
            self._run_state = run_state
            self.put(OVERFLOW)


def _given(look: Look) -> Given:
    domain = look.definition
    return Given(domain.base_bytes, domain.plugged_bytes, domain.deflate_on_oom, look.resident_bytes)
