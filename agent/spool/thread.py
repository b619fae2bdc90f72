"""One daemon thread for what blocks: jobs in order, one at a time, their results back on the event loop.

A thread of our own instead of the pool's: a disk that hangs must not hold up the end of the process, and
SQLite's connection is used by nobody else meanwhile.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import anyio
import anyio.from_thread
from anyio.lowlevel import EventLoopToken, current_token

T = TypeVar("T")


class Job(Generic[T]):
    """A call that the thread will make, and what became of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    async def wait(self) -> T:
        """Return what the function returned, or raise what it raised. Cancelled, the call goes on."""
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return cast("T", self.result)


class DiskThread:
    """Made on an event loop, used from it, until `end`."""

    def __init__(self, name: str) -> None:
        self._loop: EventLoopToken = current_token()
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, function: Callable[[], T]) -> Job[T]:
        """Have `function` called once its turn has come."""
        job = Job(function)
        self._jobs.put(job)
        return job

    async def run(self, function: Callable[[], T]) -> T:
        """The same, and wait for it."""
        return await self.submit(function).wait()

    def end(self) -> None:
        """Let the thread end after the jobs it has."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.result = job.function()
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                job.error = error
            try:
                anyio.from_thread.run_sync(job.done.set, token=self._loop)
            except RuntimeError:
                return  # the loop has ended: nobody waits any more
