"""The VMs of this host: a task for each, started and told by what discovery sees.

The one place where a failure of ours on one VM is contained: it is logged and counted, and the VM is
watched anew after a pause. Expected failures never get here; they are events for the core.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from uuid import NAMESPACE_URL, uuid5

import anyio
import structlog
from anyio.abc import TaskGroup
from msgspec.structs import replace

from agent.core.address import Address
from agent.core.events import PathSeen
from agent.core.fleet import Start, compare
from agent.core.memory import Memory
from agent.core.poller import begin, remember
from agent.core.reading import SocketMark, VmId
from agent.discovery.scan import Scan, Seen
from agent.runtime.vm import Surroundings, VmTask
from agent.telemetry import Count

log = structlog.get_logger("barograph.fleet")

PAUSE_AFTER_FAILURE_S = 10.0
RETIRED_REMEMBERED = 10_000
"""Paths whose VM has gone and of which the sequences are kept, so that ids never repeat within a run."""

WATCHED_MAX = 10_000
"""VMs with a task. A socket that is deleted while its link lives leaves one behind that no scan counts."""

NO_MEMORIES: Mapping[str, Memory] = MappingProxyType({})


def path_id(host_id: str, address: Address) -> VmId:
    """Return the id of a VM whose QEMU has no uuid."""
    return VmId(str(uuid5(NAMESPACE_URL, f"barograph:{host_id}:{address}")))


class Fleet:
    """Follows the scans until cancelled."""

    def __init__(
        self,
        host_id: str,
        around: Surroundings,
        memories: Mapping[str, Memory] = NO_MEMORIES,
        *,
        contain: bool = True,
        watched_max: int = WATCHED_MAX,
        retired_remembered: int = RETIRED_REMEMBERED,
    ) -> None:
        """Make it; `memories` are those of an earlier run, by path."""
        self._watched_max = watched_max
        self._retired_remembered = retired_remembered
        self._left_out: dict[Address, Seen] = {}  # by the last scan; in order
        self._host_id = host_id
        self._around = around
        self._contain = contain
        self._running: dict[Address, VmTask] = {}
        self._reported: dict[Address, SocketMark | None] = {}
        self._retired = OrderedDict((path, replace(each, sequence=0)) for path, each in memories.items())
        self._refused: frozenset[str] = frozenset()

    @property
    def watching(self) -> int:
        """How many VMs have a task."""
        return len(self._running)

    @property
    def remembered(self) -> int:
        """How many VMs that have gone are remembered."""
        return len(self._retired)

    @property
    def refused(self) -> int:
        """How many paths match and are left alone."""
        return len(self._refused) + len(self._left_out)

    async def follow(self, scans: AsyncIterator[Scan], on_first_scan: Callable[[Scan], None]) -> None:
        """Watch every VM that the scans show. Ends only when cancelled."""
        first = True
        async with anyio.create_task_group() as group:
            group.start_soon(self._around.alarms.run)
            async for scan in scans:
                self._take_in(scan, group)
                if first:
                    first = False
                    log.info("discovery", monitors=len(scan.seen), refused=len(scan.refused))
                    on_first_scan(scan)

    def _take_in(self, scan: Scan, group: TaskGroup) -> None:
        for refused in scan.refused:
            if refused.path not in self._refused:
                log.warning(
                    "monitor refused", path=refused.path, reason=str(refused.reason), detail=refused.detail
                )
        self._refused = frozenset(refused.path for refused in scan.refused)
        seen = {each.address: each for each in scan.seen}
        left_out, self._left_out = self._left_out, {}
        for change in compare(self._reported, {address: each.mark for address, each in seen.items()}):
            if isinstance(change, Start):
                if len(self._reported) < self._watched_max:
                    self._start(seen[change.address], group)
                    continue
                self._left_out[change.address] = seen[change.address]
                if not left_out and len(self._left_out) == 1:
                    detail = f"{self._watched_max} VMs are watched: this one and others wait until one goes"
                    log.warning("monitor refused", path=str(change.address), reason="too-many", detail=detail)
            else:
                self._reported[change.address] = (
                    change.event.mark if isinstance(change.event, PathSeen) else None
                )
                task = self._running.get(change.address)
                if task is not None:
                    task.happened(change.event)

    def _start(self, seen: Seen, group: TaskGroup) -> None:
        self._reported[seen.address] = seen.mark
        group.start_soon(self._watch, seen, group, name=f"vm:{seen.address}")

    async def _watch(self, seen: Seen, group: TaskGroup) -> None:
        while True:
            before = self._retired.pop(str(seen.address), None)
            poller = begin(
                seen.address,
                path_id(self._host_id, seen.address),
                seen.access,
                name=seen.name,
                labels=seen.labels,
                mark=seen.mark,
                before=before,
            )
            task = self._running[seen.address] = VmTask(poller, self._around_it(seen))
            try:
                await task.run()
            except Exception:
                # The boundary: a bug met on one VM must not stop the others.
                self._around.counters.add(Count.VM_FAILURES)
                if not self._contain:
                    raise
                log.exception("vm task failed", path=str(seen.address))
                self._around.claims.disclaim(seen.address)
            else:
                break
            finally:
                self._retire(remember(task.poller))
            await anyio.sleep(PAUSE_AFTER_FAILURE_S)
        self._running.pop(seen.address, None)
        self._reported.pop(seen.address, None)
        if self._left_out:
            self._start(self._left_out.pop(next(iter(self._left_out))), group)

    def _around_it(self, seen: Seen) -> Surroundings:
        if seen.policy is None:
            return self._around
        polling = dataclasses.replace(self._around.polling, policy=seen.policy)
        return dataclasses.replace(self._around, polling=polling)

    def _retire(self, memory: Memory) -> None:
        self._retired[memory.path] = memory
        while len(self._retired) > self._retired_remembered:
            self._retired.popitem(last=False)
