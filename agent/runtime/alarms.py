"""One timer for all VMs, and a bound on the readings in flight.

A timer, a cancel scope and a task switch for each VM and reading would cost as much as the reading itself.

At the bound (after a host was suspended or the agent was stopped, all VMs are due at once) a VM that is due
waits until a reading ends, in order. Its own reading has not been sent, so no deadline of it runs. A VM with
a reading in flight is woken in time, so that one without an answer becomes overdue and makes room.
"""

import heapq
import math
import time
from itertools import count
from typing import Protocol

import anyio
import anyio.lowlevel

SLEEP_STEP_NS = 1_000_000
"""Event loops count in milliseconds (epoll; libuv rounds to the nearest): a sleep of a fraction ends too
early, and would be repeated until it is over."""

WOKEN_AT_ONCE = 16
"""After so many others run, so that answers are read as soon as they arrive."""

_STALE_MAX = 4
"""Heap entries per alarm that is set; with more, the stale ones are removed."""


class Sleeper(Protocol):
    """What an alarm wakes."""

    def wake(self) -> None: ...


class Alarms:
    """One alarm for each sleeper. Owned by the event loop's thread."""

    def __init__(self, readings_at_once: int) -> None:
        self._readings_at_once = readings_at_once
        self._reading: set[Sleeper] = set()
        self._postponed: dict[Sleeper, None] = {}  # due, and waiting for a reading to end; in order
        self._at_ns: dict[Sleeper, int] = {}
        self._heap: list[tuple[int, int, Sleeper]] = []  # with stale entries of alarms that were set again
        self._serial = count()
        self._sleeps_until_ns: int | None = 0  # None: no alarm is set
        self._earlier = anyio.Event()

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
            self._reading.add(sleeper)
        elif sleeper in self._reading:
            self._reading.remove(sleeper)
            if self._postponed:
                self._earlier.set()
        self._postponed.pop(sleeper, None)
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
        if self._sleeps_until_ns is None or at_ns < self._sleeps_until_ns:
            self._earlier.set()

    async def run(self) -> None:
        """Wake the sleepers in time, until canceled."""
        while True:
            await self._wake_due()
            self._earlier = anyio.Event()
            delay_s = math.inf
            self._sleeps_until_ns = None
            while self._heap and self._at_ns.get(self._heap[0][2]) != self._heap[0][0]:
                heapq.heappop(self._heap)  # stale
            if self._heap:
                self._sleeps_until_ns = self._heap[0][0]
                steps = -((time.monotonic_ns() - self._sleeps_until_ns) // SLEEP_STEP_NS)
                delay_s = max(steps * SLEEP_STEP_NS - 1_000, 0) / 1e9  # just under a whole one
            with anyio.move_on_after(delay_s):
                await self._earlier.wait()

    async def _wake_due(self) -> None:
        self._sleeps_until_ns = 0  # awake: an earlier alarm need not be signaled
        woken = 0
        while (sleeper := self._next_due()) is not None:
            sleeper.wake()
            woken += 1
            if woken % WOKEN_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()

    def _next_due(self) -> Sleeper | None:
        if self._postponed and len(self._reading) < self._readings_at_once:
            sleeper = next(iter(self._postponed))
            del self._postponed[sleeper]
            return sleeper
        while self._heap and self._heap[0][0] <= time.monotonic_ns():
            at_ns, _, sleeper = heapq.heappop(self._heap)
            if self._at_ns.get(sleeper) != at_ns:
                continue
            del self._at_ns[sleeper]
            if sleeper in self._reading or len(self._reading) < self._readings_at_once:
                return sleeper
            self._postponed[sleeper] = None
        return None
