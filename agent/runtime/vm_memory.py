"""The task that records the memory of each VM, as its host sees it, at an interval.

One thread reads the files of all VMs, once for each interval. If they hang, the records come without what
they show.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import anyio
import structlog
from anyio.lowlevel import checkpoint

from agent.core import vm_memory
from agent.core.address import Address
from agent.core.poller import Poller
from agent.core.reading import VmMemory
from agent.core.vm_memory import HostView, Subject
from agent.host import vms
from agent.runtime import clock
from agent.threads import Call, WorkerThread

log = structlog.get_logger("barograph.memory")

FIRST_AFTER_S = 10.0
"""Most VMs are known by then. A shorter interval makes it shorter."""

READ_WITHIN_S = 5.0
"""How long reading the files of all VMs may take. A file of the kernel takes some 20 us."""

_AT_ONCE = 50
"""Records made before other tasks run."""

_NOTHING: Mapping[Address, HostView] = {}


class Records(Protocol):
    """Takes the records."""

    def vm_memory(self, memory: VmMemory) -> None: ...


class VmMemoryRounds:
    """Records the memory of the VMs, round by round, until canceled."""

    def __init__(
        self,
        pollers: Callable[[], Sequence[Poller]],
        records: Records,
        interval_s: float,
        look: Callable[[Sequence[Subject], int], Mapping[Address, HostView]] = vms.look,
    ) -> None:
        """Create it.

        Args:
            pollers: what is known of each VM now.
            records: takes the records.
            interval_s: the time between two rounds.
            look: reads the host's files of the VMs; called in the thread.
        """
        self._pollers = pollers
        self._records = records
        self._interval_s = interval_s
        self._look = look
        self._round = 0
        self._late: Call[Mapping[Address, HostView]] | None = None

    async def run(self) -> None:
        """Make the rounds."""
        thread = WorkerThread("memory of VMs")
        try:
            at_s = anyio.current_time() + min(FIRST_AFTER_S, self._interval_s)
            while True:
                await anyio.sleep_until(at_s)
                await self._make_round(thread)
                # A round that took too long, or a suspended host, skips the rounds that it missed.
                at_s += self._interval_s * max(1, (anyio.current_time() - at_s) // self._interval_s + 1)
        finally:
            thread.end()

    async def _make_round(self, thread: WorkerThread) -> None:
        self._round += 1
        chosen = vm_memory.chosen(self._pollers())
        subjects = [vm_memory.subject(each) for each in chosen]
        seen = await self._seen(subjects, thread)
        for place, poller in enumerate(chosen):
            if place % _AT_ONCE == _AT_ONCE - 1:
                await checkpoint()
            self._records.vm_memory(
                vm_memory.describe(
                    poller, seen, sequence=self._round, interval_s=round(self._interval_s), now=clock.now()
                )
            )

    async def _seen(self, subjects: Sequence[Subject], thread: WorkerThread) -> Mapping[Address, HostView]:
        if self._late is not None and not self._late.done.is_set():
            return _NOTHING
        call = thread.submit(partial(self._look, subjects, clock.unix_ms()))
        with anyio.move_on_after(READ_WITHIN_S):
            await call.done.wait()
        if call.done.is_set():
            self._late = None
            return _outcome(call)
        self._late = call
        log.warning("host files not read in time", within_s=READ_WITHIN_S, vms=len(subjects))
        return _NOTHING


def _outcome(call: Call[Mapping[Address, HostView]]) -> Mapping[Address, HostView]:
    try:
        return call.outcome()
    except Exception:
        # The boundary: a bug met in a file of the host must not stop the collection.
        log.exception("host files cannot be read")
        return _NOTHING
