"""The task that records the memory of each VM, as its host sees it, at an interval.

One thread reads the files of the VMs, slice by slice. If they hang, the records come without what they show.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import anyio
import structlog

from agent.core import vm_memory
from agent.core.address import Address
from agent.core.poller import Poller
from agent.core.reading import VmId, VmMemory
from agent.core.shares import Owner
from agent.core.vm_memory import HostView, Subject
from agent.host import vms
from agent.runtime import clock
from agent.threads import Call, WorkerThread

log = structlog.get_logger("barograph.memory")

FIRST_AFTER_S = 10.0
"""Most VMs are known by then. A shorter interval makes it shorter."""

READ_WITHIN_S = 5.0
"""How long reading the files of one slice may take. A file of the kernel takes some 20 us."""

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
        owner_of: Callable[[Address], Owner],
        look: Callable[[Sequence[Subject], int], Mapping[Address, HostView]] = vms.look,
    ) -> None:
        """Create it.

        Args:
            pollers: what is known of each VM now.
            records: takes the records.
            interval_s: the time between two rounds.
            owner_of: the owner of a VM's share, by the address of the VM.
            look: reads the host's files of the VMs; called in the thread.
        """
        self._pollers = pollers
        self._records = records
        self._interval_s = interval_s
        self._owner_of = owner_of
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
        ids = list(vm_memory.chosen(self._pollers()))
        pause_s = vm_memory.pause_s(len(ids), self._interval_s)
        at_s = anyio.current_time()
        for part in vm_memory.slices(ids):
            await anyio.sleep_until(at_s)
            at_s += pause_s
            await self._record(part, thread)

    async def _record(self, ids: Sequence[VmId], thread: WorkerThread) -> None:
        """Make the records of one slice. A VM that has ended since the round began has none."""
        known = vm_memory.chosen(self._pollers())
        pollers = [known[each] for each in ids if each in known]
        subjects = [vm_memory.subject(each, self._owner_of(each.endpoint.address)) for each in pollers]
        seen = await self._seen(subjects, thread)
        for poller in pollers:
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
