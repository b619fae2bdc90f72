"""The task of one VM: performs what core/polling.py decides, and feeds the results back to it.

Nothing is decided here. An event is applied where it occurs: in the link's reader, in the timer of the
alarms, in discovery's task. Nothing awaits in between, so a reading costs no task and no queue. Every event
of a link carries the link's number, so that a late event of a closed link is not taken for one of the next
link.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import anyio
import structlog
from anyio.abc import TaskGroup

from agent.contract.decode import BadAnswer
from agent.core import polling
from agent.core.address import Address
from agent.core.claims import Claimed, Claims
from agent.core.events import (
    ActualRead,
    Answered,
    Ask,
    ClaimContested,
    ClaimFreed,
    CloseLink,
    Counted,
    CountReading,
    Disclaim,
    Displaced,
    Done,
    Duplicate,
    Effect,
    EmitSample,
    EmitState,
    Event,
    Forget,
    FoundNoCounters,
    LinkFailed,
    Opened,
    OpenLink,
    Question,
    Refused,
    Retire,
    Tick,
)
from agent.core.memory import Memory
from agent.core.ownership import IntervalChange
from agent.core.poller import Poller, PollSettings, remember
from agent.core.reading import Origin, Reading, Refusal, Sample, SocketMark, StateEvent
from agent.core.shares import ROOT, Owner, is_pod
from agent.errors import Declined, StateFileError, Unreachable
from agent.runtime import clock
from agent.runtime.alarms import Alarms
from agent.runtime.links import Link, Opener
from agent.telemetry import Count, Counters

log = structlog.get_logger("barograph.vm")

_REFUSED_LOGGED_MAX = 32
"""Refused statistics that are logged, for each VM: QEMU has 16 names."""

_COUNTS = {Counted.REPEAT: Count.REPEATS, Counted.COALESCED: Count.COALESCED, Counted.MISSED: Count.MISSED}


class Emissions(Protocol):
    """Takes samples and state events, each with the VM's memory after it."""

    def sample(self, sample: Sample, memory: Memory) -> None: ...
    def state(self, event: StateEvent, memory: Memory) -> None: ...
    def retire(self, address: Address) -> None: ...


class Ledger(Protocol):
    """The changed intervals, kept until they are restored. The methods that write raise `StateFileError`."""

    def find(self, address: Address, mark: SocketMark) -> IntervalChange | None: ...
    async def record(self, change: IntervalChange) -> None: ...
    async def remove(self, address: Address, mark: SocketMark) -> None: ...


class ClaimsRegistry:
    """Which address holds which VM id, for all VMs of this host."""

    def __init__(self) -> None:
        self._claims = Claims()
        self._tasks: dict[Address, Callable[[Event], None]] = {}

    def join(self, address: Address, happened: Callable[[Event], None]) -> None:
        """Call `happened` with what other addresses' claims mean for `address`, until `leave`."""
        self._tasks[address] = happened

    def leave(self, address: Address) -> None:
        """Forget the task of `address`, not what it holds."""
        self._tasks.pop(address, None)

    def know(self, memories: Iterable[Memory]) -> None:
        """Take in the owners that the ids had in an earlier run."""
        self._claims = self._claims.knowing(
            (each.vm_id, each.owner) for each in memories if each.vm_id is not None and each.owner is not None
        )

    def claim(self, ask: Ask, address: Address, owner: Owner = None) -> Event:
        """Return `Done`, or `Duplicate` with the address that holds the id already."""
        assert ask.id is not None
        claimed = self._claims.claim(
            ask.id, address, active=ask.active, owner=owner, now_ns=clock.now().mono_ns
        )
        self._take_in(claimed, address)
        if claimed.other is None:
            return Done(claimed.owner)
        if claimed.contested:
            self._tell(claimed.other, ClaimContested())
        return Duplicate(claimed.other)

    def disclaim(self, address: Address) -> None:
        """Release the id that `address` holds."""
        self._take_in(self._claims.disclaim(address), address)

    def _take_in(self, claimed: Claimed, address: Address) -> None:
        self._claims = claimed.claims
        if claimed.displaced is not None:
            self._tell(claimed.displaced, Displaced(address))
        for freed in claimed.freed:
            self._tell(freed, ClaimFreed())

    def _tell(self, address: Address, event: Event) -> None:
        happened = self._tasks.get(address)
        if happened is not None:
            happened(event)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmServices:
    """What the tasks of all VMs share."""

    polling: PollSettings
    open_link: Opener
    emissions: Emissions
    ledger: Ledger
    claims: ClaimsRegistry
    counters: Counters
    alarms: Alarms


class VmTask:
    """One VM, from discovery until it is gone for good."""

    def __init__(self, poller: Poller, services: VmServices, owner: Owner = None) -> None:
        self.poller = poller
        self.owner = owner
        self._services = services
        # Events that occur while another is being applied: an answer of the agent's own, a link that ends
        # while a command is sent.
        self._events: list[tuple[int | None, Event]] = []
        self._applying = True  # until `run` begins
        self._is_over = False
        self._failure: Exception | None = None
        self._group: TaskGroup
        self._link_number = 0
        self._wanted: OpenLink | None = None  # the link to open next
        self._link_wanted: asyncio.Future[None] | None = None  # what `run` waits for without a link
        self._link_scope: anyio.CancelScope | None = None
        self._link: Link | None = None
        self._asks: TaskGroup | None = None
        self._refused: set[tuple[str, Refusal]] = set()  # logged already

    async def run(self) -> None:
        """Watch the VM until it retires, or until canceled. Closes its link."""
        address = self.poller.endpoint.address
        self._services.claims.join(address, self.happened)
        try:
            async with anyio.create_task_group() as self._group:
                self._applying = False
                self.happened(Tick())
                while True:
                    wish = await self._next_wish()
                    await self._keep_link(self._link_number, wish)
        finally:
            self._is_over = True  # events are ignored from now on
            self._services.claims.leave(address)
            self._services.alarms.set(self, None)
        if self._failure is not None:
            raise self._failure

    def wake(self) -> None:
        """Apply a `Tick`: an alarm is due."""
        self.happened(Tick())

    def happened(self, event: Event, link: int | None = None) -> None:
        """Apply an event, of that link or of none; in order, also if applying another one caused it."""
        if self._is_over:
            return
        self._events.append((link, event))
        if self._applying:
            return
        self._applying = True
        try:
            while self._events and not self._is_over:
                number, event = self._events.pop(0)
                if number is None or number == self._link_number:
                    self._apply(event)
        except Exception as error:  # noqa: BLE001 - `run` raises it, and its caller contains it
            self._failure = error
            self._end()
        finally:
            self._applying = False
        if not self._is_over:
            self._services.alarms.set(
                self,
                polling.wakeup_at(self.poller, self._services.polling),
                reading=polling.is_reading(self.poller),
            )

    def _end(self) -> None:
        self._is_over = True
        self._group.cancel_scope.cancel()

    def _apply(self, event: Event) -> None:
        if isinstance(event, Answered):  # applied before any other task runs
            self._services.counters.add(Count.READINGS)
        step = polling.step(
            self.poller, event, now=clock.now(), chance=clock.chance(), settings=self._services.polling
        )
        self.poller = step.poller
        for effect in step.effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        services, group = self._services, self._group
        match effect:
            case EmitSample(sample):  # the two of each sample come first: the cases are compared in order
                services.emissions.sample(sample, remember(self.poller))
                lag_ns = self.poller.cadence.lag_at_most_ns
                if sample.origin is Origin.POLL and lag_ns is not None:
                    services.counters.lag.record(lag_ns / 1e9)
            case Ask(question=Question.READ):
                if self._link is not None:
                    self._read(self._link, effect, self._link_number)
            case OpenLink():
                self._link_number += 1
                self._wanted = effect
                if self._link_wanted is not None and not self._link_wanted.done():
                    self._link_wanted.set_result(None)
            case CloseLink():
                self._link_number += 1  # whatever it still reports is late
                self._link, self._asks, self._wanted = None, None, None
                if self._link_scope is not None:
                    self._link_scope.cancel()
            case Ask(question=Question.CLAIM):
                claimed = services.claims.claim(effect, self.poller.endpoint.address, self._claimant)
                self.happened(claimed, self._link_number)
            case Ask():
                if self._asks is not None and self._link is not None:
                    self._asks.start_soon(self._ask, self._link_number, self._link, effect)
            case Disclaim():
                services.claims.disclaim(self.poller.endpoint.address)
            case Forget(mark):
                group.start_soon(self._forget, mark)
            case EmitState(event):
                services.emissions.state(event, remember(self.poller))
            case CountReading(counted, amount):
                services.counters.add(_COUNTS[counted], amount)
            case FoundNoCounters(statistics):
                log.warning(
                    "statistics are not counters",
                    path=str(self.poller.endpoint.address),
                    statistics=sorted(statistics),
                    detail=(
                        "they decreased although the guest did not restart; do not compute"
                        " differences or rates from them"
                    ),
                )
            case Retire():
                services.emissions.retire(self.poller.endpoint.address)
                self._end()

    async def _forget(self, mark: SocketMark) -> None:
        with anyio.CancelScope(
            shield=True
        ):  # a short file write, which must complete also when the VM retires
            try:
                await self._services.ledger.remove(self.poller.endpoint.address, mark)
            except StateFileError as error:
                log.warning("ledger cannot be written", problem=str(error))

    @property
    def _claimant(self) -> Owner:
        """What runs the VM: the pod, which chooses its users, or else the user who listens.

        Where a user may replace the socket, root's rights are not believed.
        """
        if is_pod(self.owner):
            return self.owner
        listener = None if self._link is None else self._link.owner
        return self.owner if listener == ROOT and self.owner is not None else listener

    # --- the link ---

    async def _next_wish(self) -> OpenLink:
        while self._wanted is None:
            self._link_wanted = asyncio.get_running_loop().create_future()
            await self._link_wanted
        wish, self._wanted = self._wanted, None
        return wish

    async def _keep_link(self, number: int, wish: OpenLink) -> None:
        services, address = self._services, self.poller.endpoint.address
        try:
            async with anyio.create_task_group() as asks:
                self._link_scope = asks.cancel_scope
                async with services.open_link(
                    address, look_first=wish.look_first, mark=wish.mark, owner=self.owner
                ) as link:
                    self._link, self._asks = link, asks
                    services.counters.add(Count.LINKS_OPENED)
                    change = services.ledger.find(address, link.mark)
                    self.happened(Opened(link.mark, change, link.peer), number)
                    try:
                        while True:
                            self.happened(await link.next_event(), number)
                    finally:
                        # A question asked before the end is reported gets no answer, and needs none.
                        if number == self._link_number:
                            self._link, self._asks = None, None
        except* Unreachable as errors:
            error = _first(errors)
            services.counters.add(Count.LINK_FAILURES, reason=error.fault)
            self.happened(LinkFailed(error.fault, error.detail), number)

    async def _ask(self, number: int, link: Link, ask: Ask) -> None:
        try:
            event = await self._put(link, ask)
        except (Declined, StateFileError) as error:
            event = Refused(str(error))
        self.happened(event, number)

    async def _put(self, link: Link, ask: Ask) -> Event:
        match ask.question:
            case Question.INTRODUCE:
                return await link.introduce()
            case Question.CHECK:
                return await link.check(ask.balloon_path)
            case Question.ACTUAL:
                return ActualRead(await link.read_actual())
            case Question.REMEMBER:
                assert ask.change is not None
                await self._services.ledger.record(ask.change)
                return Done()
            case Question.SET_INTERVAL:
                assert ask.balloon_path is not None
                assert ask.interval_s is not None
                await link.write_interval(ask.balloon_path, ask.interval_s)
                self._services.counters.add(Count.INTERVALS_SET)
                return Done()
            case Question.READ | Question.CLAIM:
                raise AssertionError(f"{ask.question} takes no task")

    def _read(self, link: Link, ask: Ask, number: int) -> None:
        assert ask.balloon_path is not None
        counters = self._services.counters

        def take(answer: Reading | BadAnswer | Declined) -> None:
            match answer:
                case Reading():
                    if answer.refused:
                        self._count_refused(answer.refused)
                    self.happened(Answered(answer, link.resident_bytes), number)
                case BadAnswer(reason, detail):
                    counters.add(Count.READINGS_REFUSED, reason=reason)
                    self.happened(Refused(detail), number)
                case Declined():
                    self.happened(Refused(str(answer)), number)

        link.read_stats(ask.balloon_path, take)

    def _count_refused(self, refused: Mapping[str, Refusal]) -> None:
        for statistic, refusal in refused.items():
            self._services.counters.add(Count.STATISTICS_REFUSED, reason=refusal)
            if len(self._refused) < _REFUSED_LOGGED_MAX and (statistic, refusal) not in self._refused:
                self._refused.add((statistic, refusal))
                path = str(self.poller.endpoint.address)
                log.warning("statistic refused", path=path, statistic=statistic, reason=refusal.value)


def _first(errors: BaseExceptionGroup[Unreachable]) -> Unreachable:
    for error in errors.exceptions:
        return error if isinstance(error, Unreachable) else _first(error)
    raise AssertionError("an exception group is never empty")
