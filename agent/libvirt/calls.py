"""Calls into libvirt, several at a time, each in a thread of its own.

A call returns when QEMU or libvirt's daemon answers, or never. An abandoned call keeps its thread until it
returns; its late result is discarded and counted. If the result is a connection, it is closed in a thread as
well, since closing may block.
"""

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from agent.core.held_threads import HeldThreads
from agent.core.shares import Owner
from agent.threads import Call, WorkerThread

T = TypeVar("T")


class Caller:
    """Makes the calls of one connection, and reuses idle threads. Owned by the event loop's thread."""

    def __init__(
        self,
        name: str,
        on_late: Callable[[], None],
        *,
        uri: str = "",
        owner: Owner = None,
        held: HeldThreads | None = None,
    ) -> None:
        """Start no thread yet.

        Args:
            name: of the threads.
            on_late: called whenever an abandoned call has returned.
            uri: of the libvirt, for `held`.
            owner: of the libvirt, for `held`.
            held: counts the threads that calls hold.
        """
        self._uri = uri
        self._owner = owner
        self._held = held
        self._holding: set[Call[Any]] = set()
        self._name = name
        self._on_late = on_late
        self._idle: list[WorkerThread] = []
        self._abandoned: set[Call[Any]] = set()
        self._discard: dict[Call[Any], Callable[[Any], object]] = {}
        self._closed = False

    @property
    def late(self) -> int:
        """Abandoned calls that have not returned: each holds a thread here and a worker of the daemon's."""
        return len(self._abandoned)

    def begin(self, function: Callable[[], T]) -> Call[T]:
        """Have `function` called now."""
        thread = self._idle.pop() if self._idle else WorkerThread(self._name)
        call: Call[T] = thread.submit(partial(_call, function), lambda: self._returned(call, thread))
        return call

    async def call(self, function: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
        """Call `function` and wait for it. If canceled, the call is abandoned.

        Args:
            function: called in a thread.
            discard: called in a thread with the result if nothing waits for it any more, to release it.
        """
        call = self.begin(function)
        try:
            await call.done.wait()
        except BaseException:
            if discard is not None:
                self._discard[call] = discard
                if call.done.is_set():
                    self._release(call)
            raise
        finally:
            self.abandon(call)
        return call.outcome()

    def _release(self, call: Call[Any]) -> None:
        discard = self._discard.pop(call, None)
        if discard is not None and call.error is None:
            self.leave(partial(discard, call.result))

    def abandon(self, call: Call[Any]) -> None:
        """Discard the result of `call`, unless it has returned already."""
        if not call.done.is_set():
            self._abandoned.add(call)
            self._hold(call)

    def leave(self, function: Callable[[], object]) -> None:
        """Have `function` called, without waiting for it."""
        self._hold(self.begin(function))

    def _hold(self, call: Call[Any]) -> None:
        if self._held is not None and call not in self._holding:
            self._holding.add(call)
            self._held.hold(self._uri, self._owner)

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
        if self._held is not None and call in self._holding:
            self._holding.remove(call)
            self._held.release(self._uri, self._owner)
        if call in self._abandoned:
            self._abandoned.remove(call)
            self._on_late()
        self._release(call)


def _call(function: Callable[[], T]) -> T:
    """Call `function`. An error that it raises keeps none of its handles.

    The thread that releases the last handle closes the connection: it must not be that of the event loop.
    """
    try:
        return function()
    except BaseException as error:
        raised: BaseException | None = error
        while raised is not None:
            traceback.clear_frames(raised.__traceback__)
            raised = raised.__cause__ or raised.__context__
        raise
