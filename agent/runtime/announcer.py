"""Repeats the states of all VMs and of the agent at SIGUSR1, for a reader that has just started.

The default action of SIGUSR1 ends a process. So the signal is ignored from the start of the run until it is
obeyed, and again after that; `barograph announce` sends it only to a process that handles it.
"""

import signal
from collections.abc import Awaitable, Callable

import anyio
import structlog

from agent.core import repeating
from agent.runtime import clock

log = structlog.get_logger("barograph")


def ignore_requests() -> None:
    """Ignore SIGUSR1 until `Announcer.run`."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class Announcer:
    """Owned by the event loop's thread."""

    def __init__(self, repeat: Callable[[], Awaitable[int]]) -> None:
        """Create it; `repeat` records all states again, and returns the number of VMs."""
        self._repeat = repeat
        self._requested = anyio.Event()
        self._last_ns: int | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Obey the signal until canceled. Requests that come too early become one, which is delayed."""
        try:
            with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
                task_status.started()
                async with anyio.create_task_group() as group:
                    group.start_soon(self._announce)
                    async for _ in signals:
                        self._requested.set()
        finally:
            ignore_requests()

    async def _announce(self) -> None:
        while True:
            await self._requested.wait()
            now_ns = clock.now().mono_ns
            at_ns = repeating.due_at(self._last_ns, now_ns)
            if at_ns > now_ns:
                log.info("states not announced yet", delayed_by_s=round((at_ns - now_ns) / 1e9, 1))
                await anyio.sleep((at_ns - now_ns) / 1e9)
            self._requested = anyio.Event()
            self._last_ns = max(at_ns, now_ns)
            log.info("states announced", vms=await self._repeat())
