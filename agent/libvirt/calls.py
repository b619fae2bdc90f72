"""Calls into libvirt, several at a time, each in a thread of its own.

A call returns when QEMU or libvirt's daemon answers, or never. An abandoned call keeps its thread until it
returns; its late result is discarded and counted.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from agent.threads import Call, WorkerThread

T = TypeVar("T")


class Caller:
    """Makes the calls of one connection, and reuses idle threads. Owned by the event loop's thread."""

    def __init__(self, name: str, on_late: Callable[[], None]) -> None:
        """Start no thread yet.

        Args:
            name: of the threads.
            on_late: called whenever an abandoned call has returned.
        """
        self._name = name
        self._on_late = on_late
        self._idle: list[WorkerThread] = []
        self._abandoned: set[Call[Any]] = set()
        self._closed = False

    @property
    def late(self) -> int:
        """Abandoned calls that have not returned: each holds a thread here and a worker of the daemon's."""
        return len(self._abandoned)

    def begin(self, function: Callable[[], T]) -> Call[T]:
        """Have `function` called now."""
        thread = self._idle.pop() if self._idle else WorkerThread(self._name)
        call: Call[T] = thread.submit(function, lambda: self._returned(call, thread))
        return call

    async def call(self, function: Callable[[], T]) -> T:
        """Call `function` and wait for it. If canceled, the call is abandoned."""
        call = self.begin(function)
        try:
            return await call.wait()
        finally:
            self.abandon(call)

    def abandon(self, call: Call[Any]) -> None:
        """Discard the result of `call`, unless it has returned already."""
        if not call.done.is_set():
            self._abandoned.add(call)

    def close(self) -> None:
        """Let idle threads end now, and the others after their calls. Does not wait."""
        self._closed = True
        for thread in self._idle:
            thread.end()
        self._idle.clear()

    def _returned(self, call: Call[Any], thread: WorkerThread) -> None:
        if self._closed:
            thread.end()
        else:
            self._idle.append(thread)
        if call in self._abandoned:
            self._abandoned.remove(call)
            self._on_late()
