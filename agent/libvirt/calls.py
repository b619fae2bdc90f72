"""Calls into libvirt, several at a time, each in a thread of its own.

A call returns when QEMU or libvirt's daemon answers, or never. An abandoned call keeps its thread until it
returns; its late result is discarded and counted.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from agent.core.shares import Owner
from agent.threads import Call, WorkerThread

T = TypeVar("T")


OWNERS_FACTOR = 4
"""From so many times the bound of threads in all on, no owner gets one more: owners may be many."""


class HeldThreads:
    """Counts the threads that are held by calls nothing waits for any more, by libvirt, by owner and in all.

    A libvirt may belong to any user, and one that never answers holds a thread for each attempt. The count
    outlives a connection, so that a socket that is created again does not get new threads.
    """

    def __init__(self, each_max: int, all_max: int | None = None) -> None:
        """Create it.

        Args:
            each_max: threads of one libvirt from which on it is refused.
            all_max: threads in all from which on the libvirts of owners with their share of them are refused,
                and from `OWNERS_FACTOR` times as many on all libvirts; `None`: no bound.
        """
        self._each_max = each_max
        self._all_max = all_max
        self._held: Counter[str] = Counter()
        self._held_of: Counter[Owner] = Counter()

    def refusal(self, uri: str, owner: Owner) -> str | None:
        """Return why no call may be made to this libvirt now; `None`: it may."""
        held = self._held[uri]
        if held >= self._each_max:
            return f"the daemon does not answer: {held} calls have not ended; restart it"
        total = self._held.total()
        if self._all_max is None or total < self._all_max:
            return None
        share = max(1, self._all_max // len(self._held_of))
        if self._held_of[owner] < share and total < self._all_max * OWNERS_FACTOR:
            return None
        return f"too many libvirt daemons do not answer: {total} calls have not ended; restart them"

    def hold(self, uri: str, owner: Owner) -> None:
        """Count a thread."""
        self._held[uri] += 1
        self._held_of[owner] += 1

    def release(self, uri: str, owner: Owner) -> None:
        """Stop counting a thread: its call has ended."""
        _subtract(self._held, uri)
        _subtract(self._held_of, owner)


def _subtract(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


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
