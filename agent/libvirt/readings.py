"""Readings of the domains of one connection: gathered into bulk calls, without one domain holding up the
others.

A bulk call asks one QEMU after the other, and QEMU's monitor has no deadline: one that is stopped holds the
call for ever. But by then it has libvirt's job on that domain, so that the same call made once more (NOWAIT)
answers at once for all others, and tells by what is missing which domain it is. That one is asked alone from
then on, after a growing pause, until it answers. What a call that was given up brings later is dropped.

How long a call may take is learned: on a host whose CPUs are too few each QEMU answers late, and calls given
up that would have ended cost more than they spare. The daemon works for one client on five calls at a time
(libvirtd.conf, max_client_requests): at `LATE_MAX` given up none is made until one of them has ended; where
none ends the connection is of no use any more, and is made anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from agent.contract.decode import BadAnswer, decode_guest_stats
from agent.core.reading import Reading
from agent.errors import Declined, LibvirtRefused, LibvirtUnreachable
from agent.libvirt import words
from agent.libvirt.api import Connection
from agent.libvirt.calls import Caller
from agent.telemetry import Count, Counters

GATHER_S = 0.002
"""What becomes due within this time is asked for together: far below a guest's own jitter."""

TOGETHER_MAX = 64
"""Domains in one call, so that the last one is not asked long after it was due."""

USUAL_S, PATIENCE_TIMES = 0.002, 10
"""What a domain's answer takes at least, and how many times what it takes a call may take."""

PATIENCE_S, PATIENCE_MAX_S = 0.1, 2.0
"""A call may take so long besides, and that long at most."""

LATE_MAX = 4
CLOGGED_AFTER_S = 3.0
"""So many calls given up, and none of them ended for so long: the connection is of no use."""

PAUSE_S, PAUSE_MAX_S = 0.05, 5.0
"""Before a domain that was missing in an answer is asked alone, and twice as long each time."""


@dataclass(slots=True, eq=False)
class Request:
    """A reading that somebody waits for."""

    uuid: str
    take: Callable[[Reading | BadAnswer | Declined], None]
    take_run_state: Callable[[str], None]  # it comes with the statistics


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
        self._each_s = USUAL_S  # what a domain's answer takes, by the last calls
        self.clogged = anyio.Event()
        """Too many calls were given up: nothing more is asked."""

    def ask(self, request: Request) -> None:
        """Have it answered, once."""
        self._waiting[request.uuid] = request
        self._wanted.set()

    def forget(self, uuid: str) -> None:
        """Nobody waits for this domain any more."""
        self._waiting.pop(uuid, None)
        self._aside.pop(uuid, None)

    def late_one_returned(self) -> None:
        """A call that was given up has ended: whoever it waited for may answer now."""
        self._returned.set()
        self._returned = anyio.Event()

    async def run(self) -> None:
        """Ask, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                await self._wanted.wait()
                await anyio.sleep(GATHER_S)
                batch = [self._waiting.pop(uuid) for uuid in list(self._waiting)[:TOGETHER_MAX]]
                if not self._waiting:
                    self._wanted = anyio.Event()
                await self._read(batch, group)

    async def _read(self, batch: Sequence[Request], group: TaskGroup) -> None:
        while await self._has_room():
            try:
                stats = await self._stats(batch)
            except LibvirtRefused as error:
                for request in batch:
                    request.take(error)
                return
            if stats is None:
                continue  # once more: the one that holds it up is a busy one now
            for request in batch:
                if not self._settle(request, stats):
                    self._counters.add(Count.LIBVIRT_ASIDE)
                    self._aside[request.uuid] = request
                    group.start_soon(self._alone, request)
            return

    async def _has_room(self) -> bool:
        """Whether a call may be made, as soon as one may; else the connection is of no use."""
        with anyio.move_on_after(CLOGGED_AFTER_S):
            while self._caller.late >= LATE_MAX:
                await self._returned.wait()
            return True
        self.clogged.set()
        return False

    async def _alone(self, request: Request) -> None:
        pause_s = PAUSE_S
        while True:
            with anyio.move_on_after(pause_s):
                await self._returned.wait()
            if not await self._has_room() or self._aside.get(request.uuid) is not request:
                return
            try:
                stats = await self._stats([request])
            except LibvirtRefused as error:
                del self._aside[request.uuid]
                request.take(error)
                return
            if stats is not None and self._settle(request, stats):
                self._aside.pop(request.uuid, None)
                return
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _stats(self, batch: Sequence[Request]) -> Mapping[str, Mapping[str, object]] | None:
        """One call; `None`: it was given up."""
        self._counters.add(Count.LIBVIRT_CALLS)
        begun_s = anyio.current_time()
        call = self._caller.begin(lambda: self._connection.stats([each.uuid for each in batch]))
        patience_s = PATIENCE_S + PATIENCE_TIMES * self._each_s * len(batch)
        with anyio.move_on_after(min(patience_s, PATIENCE_MAX_S)):
            await call.done.wait()
        if not call.done.is_set():
            self._caller.abandon(call)
            self._each_s = min(2 * self._each_s, PATIENCE_MAX_S / PATIENCE_TIMES)
            return None
        took_s = anyio.current_time() - begun_s
        self._each_s = max(0.8 * self._each_s + 0.2 * took_s / len(batch), USUAL_S)
        try:
            return await call.wait()
        except LibvirtUnreachable:
            return {}  # the connection has ended, which is told where it is noticed

    def _settle(self, request: Request, stats: Mapping[str, Mapping[str, object]]) -> bool:
        """Hand over what came for a request; return whether it needs no more asking."""
        found = stats.get(request.uuid, {})
        if (state := words.run_state_in(found)) is not None:
            request.take_run_state(state)
        answer = words.guest_stats(found)
        if answer is None:
            return False
        request.take(decode_guest_stats(answer))
        return True
