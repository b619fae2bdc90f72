"""Readings of the domains of one connection, gathered into bulk calls. core/bulk_reading decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from agent.contract.decode import BadAnswer, decode_guest_stats
from agent.core import bulk_reading
from agent.core.bulk_reading import CLOGGED_AFTER_NS, TOGETHER_MAX, AskAgain, Patience
from agent.core.reading import Reading
from agent.deadline import answer_within
from agent.errors import Declined, LibvirtRefused, LibvirtUnreachable
from agent.libvirt import qmp_terms
from agent.libvirt.api import Connection
from agent.libvirt.calls import Caller
from agent.telemetry import Count, Counters

Stats = Mapping[str, Mapping[str, object]]
"""Bulk statistics by uuid."""


@dataclass(slots=True, eq=False)
class Request:
    """A reading that a link waits for."""

    uuid: str
    take: Callable[[Reading | BadAnswer | Declined], None]
    take_run_state: Callable[[str], None]  # it comes with the statistics
    take_resident: Callable[[int | None], None]  # QEMU's resident memory, before `take`


class Readings:
    """The readings of one connection, as long as it lasts. Owned by the event loop's thread."""

    def __init__(self, connection: Connection, caller: Caller, counters: Counters) -> None:
        self._connection = connection
        self._caller = caller
        self._counters = counters
        self._waiting: dict[str, Request] = {}
        self._aside: dict[str, Request] = {}
        self._wanted = anyio.Event()
        self._returned = anyio.Event()
        self._patience = Patience()
        self.clogged = anyio.Event()
        """Set when too many calls were given up and none of them ends: nothing more is asked."""

    def ask(self, request: Request) -> None:
        """Have the request answered, once."""
        self._waiting[request.uuid] = request
        self._wanted.set()

    def forget(self, uuid: str) -> None:
        """Drop the domain's request: its link has ended."""
        self._waiting.pop(uuid, None)
        self._aside.pop(uuid, None)

    def late_one_returned(self) -> None:
        """Take in that a call which was given up has ended: the domain it waited for may answer now."""
        self._returned.set()
        self._returned = anyio.Event()

    async def run(self) -> None:
        """Ask, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                await self._wanted.wait()
                await anyio.lowlevel.checkpoint()  # others that are due now ask meanwhile
                batch = [self._waiting.pop(uuid) for uuid in list(self._waiting)[:TOGETHER_MAX]]
                if not self._waiting:
                    self._wanted = anyio.Event()
                if batch:  # not all of them have been forgotten meanwhile
                    await self._read(batch, group)

    async def _read(self, batch: Sequence[Request], group: TaskGroup) -> None:
        while await self._has_room():
            try:
                stats = await self._stats(batch)
            except LibvirtRefused as error:
                for request in batch:
                    request.take(error)
                return
            requests = {request.uuid: request for request in batch}
            following = bulk_reading.after_call(list(requests), self._settle(batch, stats))
            if isinstance(following, AskAgain):
                continue
            for uuid in following.uuids:
                self._counters.add(Count.LIBVIRT_ASIDE)
                self._aside[uuid] = requests[uuid]
                group.start_soon(self._alone, requests[uuid])
            return

    async def _has_room(self) -> bool:
        """Return once a call may be made; `False`: none may be for too long."""
        if bulk_reading.has_room(self._caller.late):
            return True
        with anyio.move_on_after(CLOGGED_AFTER_NS / 1e9):
            while not bulk_reading.has_room(self._caller.late):
                await self._returned.wait()
            return True
        self.clogged.set()
        return False

    async def _alone(self, request: Request) -> None:
        pause_ns = bulk_reading.next_pause_ns(None)
        while True:
            with anyio.move_on_after(pause_ns / 1e9):
                await self._returned.wait()
            if not await self._has_room() or self._aside.get(request.uuid) is not request:
                return
            try:
                stats = await self._stats([request])
            except LibvirtRefused as error:
                del self._aside[request.uuid]
                request.take(error)
                return
            if self._settle([request], stats):
                self._aside.pop(request.uuid, None)
                return
            pause_ns = bulk_reading.next_pause_ns(pause_ns)

    async def _stats(self, batch: Sequence[Request]) -> Stats | None:
        """Make one call; return `None` if it was given up."""
        self._counters.add(Count.LIBVIRT_CALLS)
        begun_s = anyio.current_time()
        call = self._caller.begin(lambda: self._connection.stats([each.uuid for each in batch]))
        with answer_within(self._patience.limit_ns(len(batch)) / 1e9):
            await call.done.wait()
        if not call.done.is_set():
            self._caller.abandon(call)
            self._patience = self._patience.given_up()
            return None
        took_ns = int((anyio.current_time() - begun_s) * 1e9)
        self._patience = self._patience.answered(took_ns, len(batch))
        try:
            return await call.wait()
        except LibvirtUnreachable:
            return {}  # the connection has ended, which is reported where it is noticed

    def _settle(self, batch: Sequence[Request], stats: Stats | None) -> set[str] | None:
        """Answer the requests that statistics came for; return their uuids, `None` for a call given up."""
        if stats is None:
            return None
        answered: set[str] = set()
        for request in batch:
            found = stats.get(request.uuid, {})
            if (state := qmp_terms.run_state_in(found)) is not None:
                request.take_run_state(state)
            answer = qmp_terms.guest_stats(found)
            if answer is not None:
                request.take_resident(qmp_terms.resident_bytes(found))
                request.take(decode_guest_stats(answer))
                answered.add(request.uuid)
        return answered
