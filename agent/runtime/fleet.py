"""The tasks of this host's VMs: start and notify them as core/fleet.py decides.

A failure of the agent's own on one VM is contained here: it is logged and counted, and the VM is watched
again after a pause. Expected failures never get here; they are events for the core.
"""

import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from uuid import NAMESPACE_URL, uuid5

import anyio
import structlog
from anyio.abc import TaskGroup

from agent.core import fleet
from agent.core.address import Address, MonitorPath
from agent.core.events import StateWanted
from agent.core.fleet import ROOM, Change, Crowded, Full, Notify, Pause, Room, Start
from agent.core.memory import RETIRED_MAX, Memory, RetiredMemories
from agent.core.poller import Poller, begin, remember
from agent.core.reading import SocketMark, VmId
from agent.core.shares import Owner, shown
from agent.core.wording import counted
from agent.discovery.scan import RefusedReason, Scan, Seen
from agent.runtime.vm import VmServices, VmTask
from agent.telemetry import Count

log = structlog.get_logger("barograph.fleet")

REFUSALS_LOGGED_MAX = 32
"""Log lines for one scan. Any user who can create files where the globs look makes paths that are refused."""

_REPEATED_AT_ONCE = 16
_REPEAT_PAUSE_S = 0.01

NO_MEMORIES: Mapping[str, Memory] = MappingProxyType({})


def path_id(host_id: str, address: Address) -> VmId:
    """Return the id of a VM whose QEMU has no uuid: the same however its path is spelled."""
    return VmId(str(uuid5(NAMESPACE_URL, f"barograph:{host_id}:{canonical(address)}")))


def canonical(address: Address) -> Address:
    """Return the address with an absolute path, whose directory contains no links and no `..`.

    The last part stays as it is: a link to another socket is another address. Reads the file system.
    """
    if not isinstance(address, MonitorPath):
        return address
    directory, name = os.path.split(address.path.rstrip("/"))
    return MonitorPath(os.path.join(os.path.realpath(directory), name))


class Fleet:
    """Follows the scans until cancelled."""

    def __init__(
        self,
        host_id: str,
        services: VmServices,
        memories: Mapping[str, Memory] = NO_MEMORIES,
        *,
        on_excluded: Callable[[Address, SocketMark], Coroutine[None, None, None]] | None = None,
        room: Room = ROOM,
        retired_max: int = RETIRED_MAX,
    ) -> None:
        """Create it.

        Args:
            host_id: names VMs that have no uuid.
            services: what the tasks of the VMs share.
            memories: those of an earlier run, by the text of the address.
            on_excluded: called once for each process that is excluded, after its task has ended.
            room: how many VMs may have a task.
            retired_max: how many VMs without a task are remembered.
        """
        self._on_excluded = on_excluded
        self._room = room
        self._host_id = host_id
        self._services = services
        self._fleet = fleet.Fleet()
        self._seen: dict[Address, Seen] = {}  # of the last scan, and what is still watched
        self._running: dict[Address, VmTask] = {}
        self._retired = RetiredMemories(memories, retired_max)
        services.claims.know(memories.values())
        self._refused: frozenset[str] = frozenset()

    @property
    def watching(self) -> int:
        """How many VMs have a task."""
        return len(self._fleet.watched)

    def pollers(self) -> Sequence[Poller]:
        """Return what is known of each VM that has a task."""
        return [task.poller for task in self._running.values()]

    def owner_of(self, address: Address) -> Owner:
        """Return the owner of the share of a VM; `None`: not known, or the VM has no task."""
        task = self._running.get(address)
        return None if task is None else task.owner

    @property
    def remembered(self) -> int:
        """How many VMs that have gone are remembered."""
        return len(self._retired)

    @property
    def excluded(self) -> int:
        """How many VMs are excluded by the configuration."""
        return len(self._fleet.excluded)

    @property
    def refused(self) -> int:
        """How many paths match and are not watched."""
        return len(self._refused) + len(self._fleet.left_out)

    async def follow(self, scans: AsyncIterator[Scan], on_first_scan: Callable[[Scan], None]) -> None:
        """Watch every VM that the scans show. Ends only when cancelled."""
        first = True
        async with anyio.create_task_group() as group:
            group.start_soon(self._services.alarms.run)
            async for scan in scans:
                self._take_in(scan, group)
                if first:
                    first = False
                    log.info("discovery", monitors=len(scan.seen), refused=len(scan.refused))
                    on_first_scan(scan)

    async def repeat_states(self) -> int:
        """Have every VM's state recorded again, a few at a time; return for how many VMs.

        Collection goes on in between, also with thousands of VMs.
        """
        addresses = list(self._running)
        for number, address in enumerate(addresses, 1):
            task = self._running.get(address)
            if task is not None:
                task.happened(StateWanted())
            if number % _REPEATED_AT_ONCE == 0:
                await anyio.sleep(_REPEAT_PAUSE_S)
        return len(addresses)

    def _take_in(self, scan: Scan, group: TaskGroup) -> None:
        refusals = [each for each in scan.refused if each.path not in self._refused]
        for refused in refusals[:REFUSALS_LOGGED_MAX]:
            watched_late = refused.reason is RefusedReason.UNWATCHED
            log.warning(
                "directory not watched" if watched_late else "monitor refused",
                path=refused.path,
                reason=str(refused.reason),
                detail=refused.detail,
            )
        if (others := len(refusals) - REFUSALS_LOGGED_MAX) > 0:
            detail = "too many to log each one; narrow the globs, or remove the paths that are not needed"
            log.warning("monitors refused", others=others, detail=detail)
        self._refused = frozenset(refused.path for refused in scan.refused)
        watched = {address: seen for address, seen in self._seen.items() if address in self._fleet.watched}
        self._seen = watched | {each.address: each for each in scan.seen}
        marks = {each.address: each.mark for each in scan.seen}
        missing = self._fleet.watched.keys() - marks.keys()
        change = fleet.scanned(
            self._fleet,
            marks,
            unknown=scan.unlooked(self._seen[address] for address in missing),
            refused=scan.refusing(missing),
            owners={each.address: each.owner for each in scan.seen},
            room=self._room,
        )
        self._perform(change, group)

    def _perform(self, change: Change, group: TaskGroup) -> None:
        self._fleet = change.fleet
        for effect in change.effects:
            match effect:
                case Start(address):
                    self._start(self._seen[address], group)
                case Pause(address, pause_ns):
                    group.start_soon(self._resume, address, pause_ns, group, name=f"pause:{address}")
                case Notify(address, event):
                    task = self._running.get(address)
                    if task is not None:
                        task.happened(event)
                case Full(address, limit):
                    unit = "VM" if limit == self._room.vms else "monitor"
                    detail = (
                        f"the agent has reached its limit of {counted(limit, unit)}; it observes this VM when"
                        " it stops observing another one; narrow the globs, or raise the limit of open files"
                        " (LimitNOFILE)"
                    )
                    self._log_refused(address, detail)
                case Crowded(address, owner, others):
                    more = f"; it stopped observing {counted(others, 'other VM')} too" if others else ""
                    detail = (
                        "the agent has reached its limit of VMs; to make room for VMs of other owners, it"
                        f" stopped observing this VM; its owner, {shown(owner)}, has the most VMs{more};"
                        " narrow the globs, or raise the limit of open files (LimitNOFILE)"
                    )
                    self._log_refused(address, detail)

    def _log_refused(self, address: Address, detail: str) -> None:
        reason = RefusedReason.TOO_MANY.value
        log.warning("monitor refused", path=str(address), reason=reason, detail=detail)

    async def _resume(self, address: Address, pause_ns: int, group: TaskGroup) -> None:
        await anyio.sleep(pause_ns / 1e9)
        self._perform(fleet.resumed(self._fleet, address), group)

    def _start(self, seen: Seen, group: TaskGroup) -> None:
        poller = begin(
            seen.address,
            path_id(self._host_id, seen.address),
            seen.access,
            name=seen.name,
            labels=seen.labels,
            mark=seen.mark,
            before=self._retired.take(seen.address),
            holds_unseen=seen.holds_unseen,
            choice=self._services.polling.choice,
        )
        # Known at once: what follows in the same step must reach it.
        task = self._running[seen.address] = VmTask(poller, self._services_for(seen), seen.owner)
        group.start_soon(self._watch, task, seen, group, name=f"vm:{seen.address}")

    async def _watch(self, task: VmTask, seen: Seen, group: TaskGroup) -> None:
        failed = False
        try:
            await task.run()
        except Exception:
            # The boundary: a bug met on one VM must not stop the others.
            self._services.counters.add(Count.VM_FAILURES)
            failed = True
            detail = "a bug in the agent; report it; the agent observes the VM again after a pause"
            log.exception("vm task failed", path=str(seen.address), detail=detail)
            self._services.claims.disclaim(seen.address)
        finally:
            self._retired.put(remember(task.poller))
        del self._running[seen.address]
        excluded_mark = None
        if not failed and task.poller.decision.is_excluded:
            excluded_mark = task.poller.socket.mark
            log.info("vm excluded", path=str(seen.address), reason=task.poller.decision.why)
        change = fleet.ended(
            self._fleet, seen.address, failed=failed, excluded_mark=excluded_mark, room=self._room
        )
        self._perform(change, group)
        if excluded_mark is not None and self._on_excluded is not None:
            group.start_soon(self._on_excluded, seen.address, excluded_mark)

    def _services_for(self, seen: Seen) -> VmServices:
        if seen.policy is None and seen.interval_s is None:
            return self._services
        of_all = self._services.polling
        polling = dataclasses.replace(
            of_all,
            policy=of_all.policy if seen.policy is None else seen.policy,
            interval_s=of_all.interval_s if seen.interval_s is None else seen.interval_s,
        )
        return dataclasses.replace(self._services, polling=polling)
