"""One VM's task: performs what core/polling.py decides, and tells it what came of it.

Nothing is decided here. Every message from a link carries the link's number, so that the late words
of a link we left are not taken for those of the next one.
"""

import math
import time
from dataclasses import dataclass
from typing import Protocol

import anyio
import structlog
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from agent.contract.decode import BadAnswer, decode_guest_stats
from agent.core import polling
from agent.core.events import (
    ActualRead,
    Answered,
    Ask,
    BalloonChanged,
    Checked,
    CloseLink,
    Counted,
    CountReading,
    Disclaim,
    Done,
    Duplicate,
    Effect,
    EmitSample,
    EmitState,
    Event,
    Forget,
    Heard,
    Introduced,
    LinkFailed,
    MonitorSaid,
    Opened,
    OpenLink,
    Question,
    Refused,
    Retire,
    Tick,
)
from agent.core.fleet import Claims
from agent.core.memory import Memory
from agent.core.ownership import Owed
from agent.core.poller import Poller, PollSettings, remember
from agent.core.reading import Now, Sample, SocketMark, StateEvent
from agent.errors import QmpCommandError, QmpUnreachable, StateFileError
from agent.qmp.link import Link, MonitorEvent, open_link
from agent.qmp.link import Settings as QmpSettings
from agent.runtime import clock
from agent.telemetry import Count, Counters

log = structlog.get_logger("barograph.vm")

INBOX_EVENTS = 256
"""More than a VM's whole start-up makes; a link that fills it waits until the VM's task has caught up."""

_COUNTS = {Counted.REPEAT: Count.REPEATS, Counted.COALESCED: Count.COALESCED, Counted.MISSED: Count.MISSED}


class Emissions(Protocol):
    """Where samples and states go, each with what the VM is remembered by after it."""

    def sample(self, path: str, sample: Sample, memory: Memory) -> None: ...
    def state(self, event: StateEvent, memory: Memory) -> None: ...
    def retire(self, path: str) -> None: ...


class Debts(Protocol):
    """What we changed and owe to be given back. The two that write raise `StateFileError`."""

    def owed(self, path: str, mark: SocketMark) -> Owed | None: ...
    async def remember(self, owed: Owed) -> None: ...
    async def forget(self, path: str, mark: SocketMark) -> None: ...


class ClaimsRegistry:
    """Who has which VM id, for all VMs of this host."""

    def __init__(self) -> None:
        self._claims = Claims()

    def claim(self, ask: Ask, path: str) -> Event:
        """Return `Done`, or `Duplicate` with the path that has the id already."""
        assert ask.id is not None
        self._claims, other_path = self._claims.claim(ask.id, path)
        return Done() if other_path is None else Duplicate(other_path)

    def disclaim(self, path: str) -> None:
        """`path` lets go of its id."""
        self._claims = self._claims.disclaim(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all VMs' tasks share."""

    polling: PollSettings
    qmp: QmpSettings
    openings: anyio.CapacityLimiter
    emissions: Emissions
    debts: Debts
    claims: ClaimsRegistry
    counters: Counters


Message = tuple[int | None, Event]
"""An event, and the number of the link it comes from; `None`: not from a link."""


class VmTask:
    """One VM, from discovery until it is gone for good."""

    def __init__(self, poller: Poller, around: Surroundings) -> None:
        self.poller = poller
        self._around = around
        self._send: MemoryObjectSendStream[Message]
        self._receive: MemoryObjectReceiveStream[Message]
        self._send, self._receive = anyio.create_memory_object_stream[Message](INBOX_EVENTS)
        self._link_number = 0
        self._link_scope: anyio.CancelScope | None = None
        self._link: Link | None = None
        self._asks: TaskGroup | None = None

    async def tell(self, event: Event) -> None:
        """Pass on what discovery saw of the path."""
        await self._send.send((None, event))

    async def run(self) -> None:
        """Watch the VM until it retires, or until cancelled. Leaves no link behind."""
        async with anyio.create_task_group() as group:
            event: Event = Tick()
            now = clock.now()
            while True:
                step = polling.step(
                    self.poller, event, now=now, chance=clock.chance(), settings=self._around.polling
                )
                self.poller = step.poller
                retired = False
                for effect in step.effects:
                    retired = retired or isinstance(effect, Retire)
                    self._perform(effect, group)
                if retired:
                    group.cancel_scope.cancel()
                    return
                event, now = await self._next_event()

    async def _next_event(self) -> tuple[Event, Now]:
        wakeup_at_ns = polling.wakeup_at(self.poller, self._around.polling)
        while True:
            delay_s = math.inf
            if wakeup_at_ns is not None:
                delay_s = max((wakeup_at_ns - time.monotonic_ns()) / 1e9, 0)
            with anyio.move_on_after(delay_s):
                number, event = await self._receive.receive()
                if number is not None and number != self._link_number:
                    continue
                return event, clock.now()
            now = clock.now()
            # A loop's timer may fire a hair early: then the core would be woken before its own time.
            if wakeup_at_ns is not None and now.mono_ns >= wakeup_at_ns:
                return Tick(), now

    def _perform(self, effect: Effect, group: TaskGroup) -> None:
        around = self._around
        match effect:
            case OpenLink():
                self._link_number += 1
                group.start_soon(self._keep_link, self._link_number, name=f"link:{self.poller.path}")
            case CloseLink():
                self._link_number += 1  # whatever still comes from it is late
                self._link, self._asks = None, None
                if self._link_scope is not None:
                    self._link_scope.cancel()
            case Ask(question=Question.CLAIM):
                self._send.send_nowait((self._link_number, around.claims.claim(effect, self.poller.path)))
            case Ask():
                if self._asks is not None and self._link is not None:
                    self._asks.start_soon(self._ask, self._link_number, self._link, effect)
            case Disclaim():
                around.claims.disclaim(self.poller.path)
            case Forget(mark):
                group.start_soon(self._forget, mark)
            case EmitSample(sample):
                around.emissions.sample(self.poller.path, sample, remember(self.poller))
            case EmitState(event):
                around.emissions.state(event, remember(self.poller))
            case CountReading(counted, amount):
                around.counters.add(_COUNTS[counted], amount)
            case Retire():
                around.emissions.retire(self.poller.path)

    async def _forget(self, mark: SocketMark) -> None:
        with anyio.CancelScope(
            shield=True
        ):  # a file write, short; it must not be left half-done by a retiring VM
            try:
                await self._around.debts.forget(self.poller.path, mark)
            except StateFileError as error:
                log.warning("state file", problem=str(error))

    # --- the link ---

    async def _keep_link(self, number: int) -> None:
        around, path = self._around, self.poller.path
        with anyio.CancelScope() as self._link_scope:
            try:
                async with (
                    open_link(path, around.qmp, around.openings) as link,
                    anyio.create_task_group() as asks,
                ):
                    self._link, self._asks = link, asks
                    around.counters.add(Count.LINKS_OPENED)
                    await self._send.send((number, Opened(link.mark, around.debts.owed(path, link.mark))))
                    while True:
                        event = _heard(await link.next_event())
                        if event is not None:
                            await self._send.send((number, event))
            except* QmpUnreachable as errors:
                error = _first(errors)
                around.counters.add(Count.LINK_FAILURES, reason=error.fault)
                await self._send.send((number, LinkFailed(error.fault, error.detail)))

    async def _ask(self, number: int, link: Link, ask: Ask) -> None:
        try:
            event = await self._put(link, ask)
        except (QmpCommandError, StateFileError) as error:
            event = Refused(str(error))
        await self._send.send((number, event))

    async def _put(self, link: Link, ask: Ask) -> Event:
        match ask.question:
            case Question.INTRODUCE:
                return await self._introduce(link)
            case Question.READ:
                return await self._read(link, ask)
            case Question.CHECK:
                said = await link.check(ask.balloon_path)
                return Checked(said.run_state, said.balloon_path, said.interval_s)
            case Question.ACTUAL:
                return ActualRead(await link.read_actual())
            case Question.REMEMBER:
                assert ask.owed is not None
                await self._around.debts.remember(ask.owed)
                return Done()
            case Question.SET_INTERVAL:
                assert ask.balloon_path is not None
                assert ask.interval_s is not None
                await link.write_interval(ask.balloon_path, ask.interval_s)
                self._around.counters.add(Count.INTERVALS_SET)
                return Done()
            case Question.CLAIM:
                raise AssertionError("a claim is answered without a link")

    async def _introduce(self, link: Link) -> Event:
        said = await link.introduce()
        return Introduced(
            said.uuid, said.name, said.run_state, said.balloon_path, said.interval_s, said.actual_bytes
        )

    async def _read(self, link: Link, ask: Ask) -> Event:
        assert ask.balloon_path is not None
        answer = decode_guest_stats(await link.read_stats(ask.balloon_path))
        if isinstance(answer, BadAnswer):
            self._around.counters.add(Count.READINGS_REFUSED, reason=answer.reason)
            return Refused(answer.detail)
        self._around.counters.add(Count.READINGS)
        for refusal in answer.refused.values():
            self._around.counters.add(Count.STATISTICS_REFUSED, reason=refusal)
        return Answered(answer)


def _heard(said: MonitorEvent) -> Event | None:
    if said.name == "BALLOON_CHANGE":
        actual = said.data.get("actual")
        return BalloonChanged(actual) if type(actual) is int and 0 <= actual < 1 << 63 else None
    try:
        return MonitorSaid(Heard(said.name))
    except ValueError:
        return None


def _first(errors: BaseExceptionGroup[QmpUnreachable]) -> QmpUnreachable:
    for error in errors.exceptions:
        return error if isinstance(error, QmpUnreachable) else _first(error)
    raise AssertionError("an exception group is never empty")
