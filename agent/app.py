"""Builds and wires all parts, and starts and stops them in order. The only module that knows all parts."""

import os
import resource
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import replace
from functools import partial

import anyio
import structlog
from anyio.abc import TaskGroup

from agent import __version__
from agent.config import Config
from agent.contract.payloads import Agent
from agent.core.address import Address
from agent.core.agent_state import AgentPhase
from agent.core.epochs import uuid7
from agent.core.fleet import room_within
from agent.core.health import Component, Found, Status, of_collection, of_discovery, of_spool
from agent.core.history import VmHistories
from agent.core.ownership import IntervalChange, left_behind
from agent.core.reading import Access, SocketMark
from agent.core.tap import Tap
from agent.core.wording import counted
from agent.discovery.globs import MonitorGlob
from agent.discovery.locks import Locks, default_path
from agent.discovery.scan import Scan
from agent.discovery.watch import watch
from agent.host.limits import files_max
from agent.host.processes import identify
from agent.libvirt.connections import Connections
from agent.libvirt.targets import Place
from agent.parts import feeds_of, otlp_export, own_telemetry
from agent.qmp.link import QmpOpener
from agent.redaction import Redactor
from agent.runtime import clock, logs
from agent.runtime.agent_reporter import AgentReporter
from agent.runtime.alarms import Alarms
from agent.runtime.announcer import Announcer, ignore_requests
from agent.runtime.deliver import Deliverer
from agent.runtime.fleet import NO_MEMORIES, Fleet
from agent.runtime.garbage import keep_pauses_short, use_one_arena
from agent.runtime.give_back import Outcome, Settlement, give_back
from agent.runtime.health_watch import HealthWatch
from agent.runtime.host_memory import HostMemoryReporter
from agent.runtime.levels import levels
from agent.runtime.links import opener
from agent.runtime.queue_watch import QueueWatch
from agent.runtime.recorder import Recorder
from agent.runtime.service_manager import ServiceManager
from agent.runtime.sightings import Sightings
from agent.runtime.stopping import Stopping
from agent.runtime.vm import ClaimsRegistry, VmServices
from agent.runtime.vm_memory import VmMemoryRounds
from agent.spool.disk import DiskSpool, open_spool
from agent.spool.ledger import Ledger, open_ledger
from agent.telemetry import Counters, Snapshot, snapshot

log = structlog.get_logger("barograph")

_LAST_COMMIT_S = 0.75
"""After the deadline of the stop."""


async def run(config: Config, reload_config: Callable[[], Config]) -> bool:
    """Watch the VMs of this host until SIGTERM, SIGINT, or SIGHUP with a valid configuration; stop in order.

    Args:
        config: the configuration.
        reload_config: reads the configuration from its sources again; called at SIGHUP, in a thread. If it
            raises ConfigError, the problems are logged and the run continues.

    Returns:
        Whether SIGHUP ended the run, so that the caller must restart the process. Intervals are then kept,
        whatever is configured for an exit.

    Raises:
        StateFileError, CannotListen: the state directory, or the address of the web, cannot be used. Nothing
            was started.
        SinkError: a sink that cannot be used at all ended the run.
    """
    ignore_requests()
    redact = Redactor(config.secrets)
    logs.configure(config.log.level, config.log.format, redact)
    for caution in config.cautions:
        log.warning("configuration warning", setting=caution.place, problem=caution.message)
    raise_descriptor_limit()
    use_one_arena()
    host = config.host_identity()
    start = clock.now()
    identity = Agent(host.id, host.name, uuid7(start.unix_ms, clock.chance()), __version__, config.labels)
    async with open_ledger(config.state_directory, start.unix_ms) as ledger:
        counters = Counters()
        opening = nullcontext() if config.spool is None else open_spool(config.spool, counters, clock.unix_ms)
        async with opening as spool:
            return await _Run(config, reload_config, identity, ledger, spool, counters, redact).run()


def raise_descriptor_limit() -> None:
    """Raise the limit of open files to the hard limit: each VM needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Run:
    """One run of the agent, from the first scan to the last acknowledgment."""

    def __init__(
        self,
        config: Config,
        reload_config: Callable[[], Config],
        identity: Agent,
        ledger: Ledger,
        spool: DiskSpool | None,
        counters: Counters,
        redact: Redactor,
    ) -> None:
        self._config = config
        self._redact = redact
        self._manager = ServiceManager(os.environ)
        self._stopping = Stopping(config.shutdown_deadline_s, reload_config, self._manager.reloading)
        self._identity = identity
        self._ledger = ledger
        self._spool = spool
        self._counters = counters
        keepers, self._feeds = feeds_of(config, identity, spool, counters, redact)
        logs = config.otlp_logs is not None
        self._histories = None if config.web is None else VmHistories()
        self._tap = Tap()
        self._recorder = Recorder(
            identity,
            config.event_mode,
            keepers,
            counters,
            logs=logs,
            histories=self._histories,
            tap=None if config.web is None else self._tap,
        )
        queues = {feed.sink.name: feed.queue for feed in self._feeds}
        limit_bytes = None if config.spool is None else config.spool.bounds.size_bytes
        self._queue_watch = QueueWatch(queues, counters, spool, limit_bytes)
        self._otlp = otlp_export(config, identity, counters, redact)
        polling = config.polling_settings()
        self._qmp = config.qmp_settings()
        open_monitor = self._open_monitor = QmpOpener(self._qmp, identify)
        self._locks = _locks()
        self._libvirt = Connections(config.libvirt_settings(), counters, self._locks)
        services = VmServices(
            polling=polling,
            open_link=opener(open_monitor, self._libvirt.open_link),
            emissions=self._recorder,
            ledger=ledger,
            claims=ClaimsRegistry(),
            counters=self._counters,
            alarms=Alarms(self._qmp.readings_at_once),
        )
        self._open_to_write = opener(open_monitor, self._libvirt.open_to_write)
        self._health: HealthWatch | None = None
        self._own = own_telemetry(config, identity, self._look, redact)
        memories = NO_MEMORIES if spool is None else spool.memories
        self._fleet = Fleet(
            identity.host_id,
            services,
            memories,
            on_excluded=self._restore_excluded,
            room=room_within(files_max()),
        )
        self._reporter = AgentReporter(self._recorder, self._counters, polling.heartbeat_ns)
        self._discovered: int | None = None  # monitors found by the first scan

    async def run(self) -> bool:
        """Return whether the process must be restarted."""
        collecting = anyio.CancelScope()
        deliverers = [
            Deliverer(sink, queue, self._counters, settings, on_output_closed=collecting.cancel)
            for sink, queue, settings in self._feeds
        ]
        health = self._health = HealthWatch(
            self._parts(deliverers), (self._undiscovered, self._unwritable), self._redact
        )
        async with AsyncExitStack() as last:  # the web ends last, so that it can report "stopping"
            if self._config.web is not None and self._histories is not None:
                from agent.web.pages import application
                from agent.web.server import open_web

                pages = application(
                    self._identity,
                    agent=self._reporter.present,
                    components=health.check,
                    not_ready=health.not_ready,
                    telemetry=self._look,
                    host_memory=self._recorder.newest_host_memory,
                    views=self._recorder.views,
                    history=self._histories.get,
                    outlook=self._queue_watch.outlook,
                    tap=self._tap,
                )
                await last.enter_async_context(open_web(self._config.web, pages))
            await self._run(collecting, deliverers, health)
        totals = {name.replace("/", "."): total for name, total in self._counters.snapshot().items()}
        waiting = {f"waiting.{feed.sink.name}": feed.queue.held for feed in self._feeds if feed.queue.held}
        log.info("stopped", **totals, **waiting)
        return self._stopping.restart

    async def _run(
        self, collecting: anyio.CancelScope, deliverers: Sequence[Deliverer], health: HealthWatch
    ) -> None:
        async with anyio.create_task_group() as group:
            if self._histories is not None:
                group.start_soon(self._queue_watch.run)
            for deliverer in deliverers:
                group.start_soon(deliverer.run)
            if self._spool is not None:
                group.start_soon(self._spool.run)
            await group.start(self._stopping.obey_signals, collecting)
            await group.start(Announcer(self._repeat_states).run)
            await group.start(self._libvirt.run)
            group.start_soon(self._manager.run, lambda: health.problem() or self._collection().why)
            with collecting:
                async with anyio.create_task_group() as collection:
                    self._reporter.enter(AgentPhase.STARTING, "looking for monitors")
                    collection.start_soon(self._reporter.run, health.problem)
                    if self._otlp is not None:
                        collection.start_soon(self._otlp.run, self._recorder.views)
                    if self._own is not None:
                        self._own.start()
                    collection.start_soon(keep_pauses_short)
                    if self._config.memory_interval_s is not None:
                        rounds = VmMemoryRounds(
                            self._fleet.pollers,
                            self._recorder,
                            self._config.memory_interval_s,
                            self._fleet.owner_of,
                        )
                        collection.start_soon(rounds.run)
                    collection.start_soon(self._open_monitor.run)
                    scans = self._scans(collection)
                    await self._fleet.follow(scans, partial(self._on_first_scan, collection))
            health.stop()
            await self._stop(deliverers)
            group.cancel_scope.cancel()
        if self._spool is not None:  # the last acknowledgments, and the records that could not be sent
            with anyio.move_on_after(_LAST_COMMIT_S):
                await self._spool.flush()

    async def _repeat_states(self) -> int:
        vms = await self._fleet.repeat_states()
        self._reporter.repeat()
        return vms

    def _scans(self, collection: TaskGroup) -> AsyncIterator[Scan]:
        """Return the scans: what there is to watch, whenever it changes."""
        settings, places = self._config.discovery_settings(), self._config.libvirt_settings().places
        monitors = watch(settings, self._locks)
        if not places:
            return monitors
        sockets: dict[Place, AsyncIterator[Scan]] = {
            place: watch(replace(settings, monitors=(MonitorGlob(place.sockets, Access.HOLD),)))
            for place in places
            if place.sockets is not None
        }
        sightings = Sightings(self._libvirt)
        sightings.start(collection, monitors, sockets)
        return sightings.scans()

    def _look(self) -> Snapshot:
        """Return the agent's own metrics at this instant."""
        queues = {feed.sink.name: feed.queue for feed in self._feeds}
        components: Mapping[str, Component] = {} if self._health is None else self._health.check()
        return snapshot(
            self._counters, levels(queues, self._recorder, self._spool, self._fleet.excluded, components)
        )

    def _parts(self, deliverers: Sequence[Deliverer]) -> Mapping[str, Callable[[], Status]]:
        """Return the health of each part of the agent, by its name in /healthz."""

        def of(deliverer: Deliverer) -> Callable[[], Status]:
            return lambda: deliverer.status

        parts = {"discovery": self._discovery, "collection": self._collection, "spool": self._spooling}
        parts |= {deliverer.name: of(deliverer) for deliverer in deliverers}
        otlp, own = self._otlp, self._own
        return parts if otlp is None or own is None else parts | {"otlp": lambda: own.joined(otlp.status)}

    def _discovery(self) -> Status:
        fleet, libvirt = self._fleet, self._libvirt
        found = Found(fleet.watching, fleet.refused, fleet.excluded, len(libvirt), libvirt.problems)
        return of_discovery(None if self._discovered is None else found)

    def _collection(self) -> Status:
        states = [view.state.state for view in self._recorder.views()]
        return of_collection(None if self._discovered is None else states)

    def _spooling(self) -> Status:
        spool = self._spool
        return of_spool(is_used=spool is not None, problem=None if spool is None else spool.problem)

    def _undiscovered(self) -> str | None:
        return "the first discovery is not complete" if self._discovered is None else None

    def _unwritable(self) -> str | None:
        writable = self._spool is None or self._spool.trouble is None
        return None if writable else "the spool cannot be written"

    def _on_first_scan(self, collection: TaskGroup, scan: Scan) -> None:
        self._discovered = len(scan.seen)
        if not scan.seen:
            detail = (
                "every socket that matches a glob was refused; see the log lines `monitor refused`"
                if scan.refused
                else "no socket matches the globs, and libvirt has no domain; start a VM, or check both"
            )
            log.warning("no VM found", refused=len(scan.refused), detail=detail)
        self._reporter.enter(AgentPhase.RUNNING, f"found {counted(len(scan.seen), 'monitor')}")
        self._manager.ready()
        collection.start_soon(self._let_go, scan)
        if self._config.memory_interval_s is not None:
            reporter = HostMemoryReporter(self._recorder, self._counters, self._config.memory_interval_s)
            collection.start_soon(reporter.run)

    async def _let_go(self, scan: Scan) -> None:
        """Restore the intervals of VMs that an earlier run watched and this one does not."""
        changes = left_behind(
            self._ledger.entries(),
            found={str(each.address) for each in scan.seen} | {each.path for each in scan.refused},
            marks={each.mark for each in scan.seen},
            unavailable=self._libvirt.problems.keys(),
        )
        for settlement in await self._give_back(changes):
            _log_settlement(settlement)

    async def _restore_excluded(self, address: Address, mark: SocketMark) -> None:
        """Restore the interval that an earlier run changed on a VM that is excluded now."""
        change = self._ledger.find(address, mark)
        if change is not None:
            for settlement in await self._give_back([change]):
                _log_settlement(settlement)

    async def _stop(self, deliverers: Sequence[Deliverer]) -> None:
        """Restore intervals, announce the stop, and deliver queued records. All links are closed already."""
        deadline_s, restart = self._stopping.deadline_s, self._stopping.restart
        log.info("stopping", within_s=deadline_s)
        if not restart:
            self._manager.stopping()
        with anyio.CancelScope(deadline=self._stopping.begin()):
            # What hangs, a libvirt or the disk, must leave time for the steps that follow.
            if self._config.give_back_at_exit and not restart:
                with anyio.move_on_after(deadline_s / 2):
                    for settlement in await self._give_back(self._ledger.entries()):
                        _log_settlement(settlement)
            self._reporter.enter(AgentPhase.STOPPING, "reload" if restart else "clean exit")
            if self._spool is not None:
                with anyio.move_on_after(deadline_s / 4):
                    await self._spool.flush()
            for deliverer in deliverers:
                deliverer.close()
            async with anyio.create_task_group() as group:
                if self._otlp is not None:
                    group.start_soon(self._otlp.finish, deadline_s / 2)
                if self._own is not None:
                    group.start_soon(self._own.finish, deadline_s / 2)
                for deliverer in deliverers:
                    group.start_soon(deliverer.done.wait)

    async def _give_back(self, changes: Sequence[IntervalChange]) -> list[Settlement]:
        return await give_back(
            self._ledger,
            changes,
            self._open_to_write,
            self._counters,
            answer_within_s=self._qmp.greeting_timeout_s,
        )


def _locks() -> Locks:
    environ = os.environ
    locks = Locks(default_path(os.getuid(), environ.get("XDG_RUNTIME_DIR"), environ.get("RUNTIME_DIRECTORY")))
    if locks.problem is not None:
        detail = "a second agent on this host may watch the same VMs; run only one, or fix the path"
        log.info("monitors not locked", problem=locks.problem, detail=detail)
    return locks


def _log_settlement(settlement: Settlement) -> None:
    write = log.warning if settlement.outcome is Outcome.KEPT else log.info
    write(
        "polling interval restore",
        path=str(settlement.change.address),
        outcome=settlement.outcome.value,
        detail=settlement.detail,
    )
