"""When to wake which VM: one timer for all of them, and a bound on the readings under way.

A timer, a cancel scope and a task switch for each VM and reading cost as much as the reading itself.

Where so many readings are under way that the bound is reached (a host that was suspended, an agent that was
stopped: everybody is due at once), whoever is due waits for one of them to end, in order. It has not been
asked yet, so no deadline of its own runs; and whoever has a reading under way is woken in time, so that one
that gets no answer is called overdue and makes room.
"""

import heapq
import math
import time
from itertools import count
from typing import Protocol

import anyio
import anyio.lowlevel

SLEEP_STEP_NS = 1_000_000
"""Loops count in milliseconds (epoll; libuv rounds to the nearest): a sleep that is not whole ends too early,
and would be slept again and again until it is over."""

WOKEN_AT_ONCE = 16
"""Then others have their turn: answers are read as soon as they come."""

_STALE_MAX = 4
"""Entries in the heap for each VM that has one set; more are swept."""


class Sleeper(Protocol):
    """Who is woken."""

    def wake(self) -> None: ...


class Alarms:
    """One alarm for each sleeper. Owned by the event loop's thread."""

    def __init__(self, readings_at_once: int) -> None:
        self._readings_at_once = readings_at_once
        self._reading: set[Sleeper] = set()
        self._postponed: dict[Sleeper, None] = {}  # due, and waiting for room; in order
        self._at_ns: dict[Sleeper, int] = {}
        self._heap: list[tuple[int, int, Sleeper]] = []  # also alarms that were set anew since
        self._serial = count()
        self._sleeps_until_ns: int | None = 0  # None: for ever
        self._earlier = anyio.Event()

    @property
    def held(self) -> int:
        """How many entries it has, those that count no more among them."""
        return len(self._heap)

    def set(self, sleeper: Sleeper, at_ns: int | None, *, reading: bool = False) -> None:
        """Wake `sleeper` once, at `at_ns` (monotonic), and not when it was to be woken so far.

        Args:
            sleeper: whom.
            at_ns: when; `None`: not at all.
            reading: it has a reading under way.
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
        """Wake everybody in time, until cancelled."""
        while True:
            await self._wake_who_is_due()
            self._earlier = anyio.Event()
            delay_s = math.inf
            self._sleeps_until_ns = None
            while self._heap and self._at_ns.get(self._heap[0][2]) != self._heap[0][0]:
                heapq.heappop(self._heap)  # set anew since
            if self._heap:
                self._sleeps_until_ns = self._heap[0][0]
                steps = -((time.monotonic_ns() - self._sleeps_until_ns) // SLEEP_STEP_NS)
                delay_s = max(steps * SLEEP_STEP_NS - 1_000, 0) / 1e9  # a hair under the whole one
            with anyio.move_on_after(delay_s):
                await self._earlier.wait()

    async def _wake_who_is_due(self) -> None:
        self._sleeps_until_ns = 0  # awake: nobody needs to be told of an earlier alarm
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
