"""The bridge between the event loop and threads for calls that block and may hang.

A `WorkerThread` calls the functions it is given in order, one at a time, and returns each result to the event
loop. It is used instead of a thread of anyio's pool where a call may hang (a disk, a daemon, a backend), for
three reasons:

- it is a daemon thread, so that a hung call does not hold up the end of the process;
- a hung call occupies no thread that others wait for;
- whatever the functions use (a connection, an exporter) is used by one thread alone.

Cancellation: a thread cannot be interrupted. If the task that waits for a call is canceled, the call
continues, its result is discarded, and the next call of the same thread waits for it. Who starts calls must
therefore bound how many of them hang (agent/libvirt/readings.py, agent/sinks/otlp.py,
agent/sinks/kafka_blocking.py).

No other module starts threads by other means: the interpreter waits at its end for the threads of
`anyio.to_thread` and of the event loop's default executor (tests/unit/test_threads.py). `in_thread` makes a
single call.

Once the event loop has ended, nothing waits for results any more: a thread makes the calls submitted so far,
among which may be one that closes a file, and ends.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar, cast

import anyio
from anyio.lowlevel import RunVar

T = TypeVar("T")


_CALLS_MAX = 40
"""Calls of `in_thread` at a time, those included that were canceled and have not ended."""

_ABANDON_AFTER_S = 0.2
"""How long a canceled caller waits for its call, which is only longer if the call hangs."""

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("_limiter")


async def in_thread(function: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
    """Call a function that may block in a daemon thread of its own.

    If canceled, it waits for `_ABANDON_AFTER_S` at most, and then the call continues without it.

    Args:
        function: called in the thread.
        discard: called with the result if the caller was canceled, to release it: on the event loop, or in
            the thread if the loop has ended.
    """
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(_CALLS_MAX)
        _limiter.set(limiter)
    borrower = object()
    await limiter.acquire_on_behalf_of(borrower)
    try:
        thread = WorkerThread("blocking call")
    except BaseException:  # the host has no thread or no memory left
        limiter.release_on_behalf_of(borrower)
        raise
    abandoned = False

    def ended() -> None:
        limiter.release_on_behalf_of(borrower)
        if abandoned:
            release()

    def release() -> None:
        if discard is not None and call.error is None:
            discard(cast("T", call.result))

    call = thread.submit(function, ended, release)
    thread.end()
    try:
        await call.done.wait()
    except BaseException:
        with anyio.move_on_after(_ABANDON_AFTER_S, shield=True):
            await call.done.wait()
        if call.done.is_set():
            release()
        abandoned = True
        raise
    return call.outcome()  # not by `wait`, which may be canceled and would lose it


class Call(Generic[T]):
    """A function handed to a thread, and its outcome once `done` is set."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    async def wait(self) -> T:
        """Return what the function returned, or raise what it raised. If canceled, the call continues."""
        await self.done.wait()
        return self.outcome()

    def outcome(self) -> T:
        """Return what the function returned, or raise what it raised. Call it once `done` is set."""
        if self.error is not None:
            raise self.error
        return cast("T", self.result)

    def perform(self) -> None:
        """Call the function and keep its outcome. Runs in the thread."""
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised in the task that waits
            self.error = error


_Job: TypeAlias = tuple[Call[Any], Callable[[], None], Callable[[], None]]


class WorkerThread:
    """One daemon thread. Made on an event loop and used from it, until `end`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def submit(
        self,
        function: Callable[[], T],
        ended: Callable[[], None] = lambda: None,
        orphaned: Callable[[], None] = lambda: None,
    ) -> Call[T]:
        """Have `function` called after those submitted before.

        Args:
            function: called in the thread.
            ended: called on the event loop after `done` is set, also if nothing waits for the call.
            orphaned: called in the thread instead if the event loop has ended.
        """
        call = Call(function)
        self._jobs.put((call, ended, orphaned))
        return call

    async def run(self, function: Callable[[], T]) -> T:
        """Submit `function` and wait for it."""
        return await self.submit(function).wait()

    def end(self) -> None:
        """Let the thread end after the calls submitted so far. Does not wait."""
        self._jobs.put(None)

    def report(self, function: Callable[[], object]) -> bool:
        """Have `function` called on the event loop. Called from the thread, which does not wait.

        Return whether there still is an event loop.
        """
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, ended, orphaned = job
            call.perform()

            def finish(call: Call[Any] = call, ended: Callable[[], None] = ended) -> None:
                call.done.set()
                ended()

            if not self.report(finish):
                self.end()
                orphaned()
            del job, call, ended, orphaned, finish  # an idle thread keeps no result
