"""Calls of a Kafka sink that may hang: the resolver, a disk, a token endpoint."""

from collections.abc import Callable
from typing import Any, TypeVar

from agent.threads import Call, WorkerThread

T = TypeVar("T")


class Blocking:
    """Makes calls that may hang, one at a time, in one daemon thread that is started when it is needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: WorkerThread | None = None
        self._newest: Call[Any] | None = None

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns. It is called once the call that is still running has ended."""
        if self._newest is not None:
            await self._newest.done.wait()
        if self._thread is None:
            self._thread = WorkerThread(self._name)
        call = self._newest = self._thread.submit(function)
        return await call.wait()

    def end(self) -> None:
        """End the thread after the present call, without waiting. Safe to call twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()
