"""Calls that block, each in a daemon thread, their results back on the event loop.

Threads of our own instead of the pool's: a call into libvirt ends when QEMU does, or never, and must not hold
up the end of the process. A call that nobody waits for any more goes on; its result is dropped, and counted.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import anyio
import anyio.from_thread
from anyio.lowlevel import EventLoopToken, current_token

T = TypeVar("T")


class Call(Generic[T]):
    """A call under way."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.done = anyio.Event()
        self.abandoned = False
        self.result: T | None = None
        self.error: Exception | None = None

    async def wait(self) -> T:
        """Return what the function returned, or raise what it raised. Cancelled, the call goes on."""
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return cast("T", self.result)


class Caller:
    """Makes calls for one connection. Owned by the event loop's thread."""

    def __init__(self, name: str, on_late: Callable[[], None]) -> None:
        """Make it; `on_late` is told of each result that came too late for whoever waited for it."""
        self._loop: EventLoopToken = current_token()
        self._name = name
        self._on_late = on_late
        self._idle: list[queue.SimpleQueue[Call[Any] | None]] = []
        self._closed = False
        self.late = 0
        """Abandoned calls that have not returned: each has a thread here, and a worker of the daemon's."""

    def begin(self, function: Callable[[], T]) -> Call[T]:
        """Have `function` called now."""
        call = Call(function)
        if not self._idle:
            jobs: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(jobs,), name=self._name, daemon=True).start()
        else:
            jobs = self._idle.pop()
        jobs.put(call)
        return call

    async def call(self, function: Callable[[], T]) -> T:
        """The same, and wait for it; cancelled, it is abandoned."""
        call = self.begin(function)
        try:
            return await call.wait()
        finally:
            self.abandon(call)

    def abandon(self, call: Call[Any]) -> None:
        """Nobody waits for it any more; one that is done already stays so."""
        if not call.done.is_set() and not call.abandoned:
            call.abandoned = True
            self.late += 1

    def close(self) -> None:
        """Let idle threads end; those that are in a call end after it."""
        self._closed = True
        for jobs in self._idle:
            jobs.put(None)
        self._idle.clear()

    def _work(self, jobs: "queue.SimpleQueue[Call[Any] | None]") -> None:
        while (call := jobs.get()) is not None:
            try:
                call.result = call.function()
            except Exception as error:  # noqa: BLE001 - it is the caller's
                call.error = error
            try:
                anyio.from_thread.run_sync(self._take_in, call, jobs, token=self._loop)
            except RuntimeError:
                return  # the loop has ended: nobody waits any more
            del call

    def _take_in(self, call: Call[Any], jobs: "queue.SimpleQueue[Call[Any] | None]") -> None:
        call.done.set()
        if self._closed:
            jobs.put(None)
        else:
            self._idle.append(jobs)
        if call.abandoned:
            self.late -= 1
            self._on_late()
