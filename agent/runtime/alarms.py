"""One timer for all VMs, and a bound on the readings in flight.

A timer, a cancel scope and a task switch for each VM and reading would cost as much as the reading itself.
The timer is therefore the event loop's own, and VMs are woken in its callback.

At the bound (after a host was suspended or the agent was stopped, all VMs are due at once) a VM that is due
waits until a reading ends. Its own reading has not been sent, so no deadline of it runs. A VM with
a reading in flight is woken in time, so that one without an answer becomes overdue. One that has had none for
a while makes room, and owners have their turns one after the other (core/shares.py): VMs that hang on purpose
delay those of their owner.
"""

import asyncio
import heapq
import time
from itertools import count
from typing import Protocol

from agent.core.shares import FairQueue, Owner

SLEEP_STEP_NS = 1_000_000
"""Event loops count in milliseconds (epoll; libuv rounds to the nearest): a sleep of a fraction ends too
early, and would be repeated until it is over."""

WOKEN_AT_ONCE = 16
"""After so many others run, so that answers are read as soon as they arrive."""

PATIENCE_NS = 50_000_000
"""How long a reading keeps others waiting: QEMU answers within milliseconds."""

_STALE_MAX = 4
"""Heap entries per alarm that is set; with more, the stale ones are removed."""


class Sleeper(Protocol):
    """What an alarm wakes."""

    @property
    def owner(self) -> Owner: ...
    def wake(self) -> None: ...


class Alarms:
    """One alarm for each sleeper. Owned by the event loop's thread."""

    def __init__(self, readings_at_once: int, patience_ns: int = PATIENCE_NS) -> None:
        self._readings_at_once = readings_at_once
        self._patience_ns = patience_ns
        self._reading: set[Sleeper] = set()
        self._counted: dict[Sleeper, int] = {}  # of these, when the recent ones began; in order
        self._postponed = FairQueue[Sleeper]()  # due, and waiting for a reading to end
        self._at_ns: dict[Sleeper, int] = {}
        self._heap: list[tuple[int, int, Sleeper]] = []  # with stale entries of alarms that were set again
        self._serial = count()
        self._goes_off_at_ns: int | None = None  # the timer; None: it is not set
        self._timer: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # None: `run` does not run
        self._end: asyncio.Future[None]

    @property
    def held(self) -> int:
        """How many heap entries there are, including stale ones."""
        return len(self._heap)

    def set(self, sleeper: Sleeper, at_ns: int | None, *, reading: bool = False) -> None:
        """Set the alarm of `sleeper` to `at_ns`, instead of what it was.

        Args:
            sleeper: what to wake, once.
            at_ns: when (monotonic); `None`: not at all.
            reading: whether it has a reading in flight.
        """
        if reading:
            if sleeper not in self._reading:
                self._reading.add(sleeper)
                self._counted[sleeper] = time.monotonic_ns()
        elif sleeper in self._reading:
            self._reading.remove(sleeper)
            self._counted.pop(sleeper, None)
            if self._postponed:
                self._go_off_next()
        self._postponed.discard(sleeper.owner, sleeper)
        if at_ns is None:
            self._at_ns.pop(sleeper, None)
            return
        if self._at_ns.get(sleeper) == at_ns:
            return
        self._at_ns[sleeper] = at_ns
        heapq.heappush(self._heap, (at_ns, next(self._serial), sleeper))
        if len(self._heap) > _STALE_MAX * len(self._at_ns) + WOKEN_AT_ONCE:
            self._heap = [each for each in self._heap if self._at_ns.get(each[2]) == each[0]]
            heapq.heapify(self._heap)
        if self._goes_off_at_ns is None or at_ns < self._goes_off_at_ns:
            self._go_off_next()

    async def run(self) -> None:
        """Wake the sleepers in time, until canceled."""
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        self._go_off_next()
        try:
            await self._end  # only an error sets it
        finally:
            self._loop = None
            self._cancel_timer()

    def _go_off_next(self) -> None:
        """Look for sleepers that are due as soon as the other callbacks that are ready have run."""
        if self._loop is None:
            return
        self._cancel_timer()
        self._goes_off_at_ns = 0
        self._timer = self._loop.call_soon(self._go_off)

    def _go_off(self) -> None:
        self._goes_off_at_ns = 0  # an earlier alarm needs no other timer
        try:
            for _ in range(WOKEN_AT_ONCE):
                sleeper = self._next_due()
                if sleeper is None:
                    self._set_timer()
                    return
                sleeper.wake()
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            if not self._end.done():
                self._end.set_exception(error)
            return
        self._go_off_next()

    def _set_timer(self) -> None:
        while self._heap and self._at_ns.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # stale
        self._cancel_timer()
        times_ns = [self._heap[0][0]] if self._heap else []
        if self._postponed and self._counted:
            times_ns.append(next(iter(self._counted.values())) + self._patience_ns)
        self._goes_off_at_ns = min(times_ns, default=None)
        if self._goes_off_at_ns is None or self._loop is None:
            return
        steps = -((time.monotonic_ns() - self._goes_off_at_ns) // SLEEP_STEP_NS)
        delay_s = max(steps * SLEEP_STEP_NS - 1_000, 0) / 1e9  # just under a whole one
        self._timer = self._loop.call_later(delay_s, self._go_off)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _next_due(self) -> Sleeper | None:
        if self._postponed and self._has_room():
            return self._postponed.take()
        while self._heap and self._heap[0][0] <= time.monotonic_ns():
            at_ns, _, sleeper = heapq.heappop(self._heap)
            if self._at_ns.get(sleeper) != at_ns:
                continue
            del self._at_ns[sleeper]
            if sleeper in self._reading or self._has_room():
                return sleeper
            self._postponed.put(sleeper.owner, sleeper)
        return None

    def _has_room(self) -> bool:
        if len(self._counted) < self._readings_at_once:
            return True
        oldest = next(iter(self._counted))
        if time.monotonic_ns() < self._counted[oldest] + self._patience_ns:
            return False
        del self._counted[oldest]
        return True
