"""Look which clients wait at the monitors that the agent has links to: one look at the kernel's list for all.

A client that connects to a monitor which the agent holds waits in the listener's queue. Owned by the event
loop's thread; the looks run in a worker thread.
"""

import errno
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from agent.core.events import LinkEvent, OthersUnseen, OthersWait
from agent.core.reading import SocketMark
from agent.qmp import backlog
from agent.threads import WorkerThread

LOOK_S = 0.5
"""A client waits for so long at most until it is seen, and for some milliseconds until the link is closed."""

UNSEEN_LOOKS = 3
"""A listener that is missing in so many looks in a row is not shown by the kernel. One look may miss it: the
list changes while it is read."""

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR})
"""Errors that say nothing of the clients: the host is out of something."""


@dataclass(eq=False, slots=True)
class _Watched:
    file: backlog.File
    tell: Callable[[LinkEvent], None]
    missed: int = 0


class Lookout:
    """The links whose monitors are looked at."""

    def __init__(self, look: backlog.Look = backlog.queues, every_s: float = LOOK_S) -> None:
        """Create it; `look` returns the length of each listener's queue, and runs in a worker thread."""
        self._look = look
        self._every_s = every_s
        self._watched: dict[_Watched, None] = {}
        self._any = anyio.Event()

    @contextmanager
    def watching(self, mark: SocketMark, tell: Callable[[LinkEvent], None]) -> Generator[None]:
        """Call `tell` within the block with `OthersWait` at each look while clients wait for the monitor.

        With `OthersUnseen` once if the kernel does not show them.
        """
        watched = _Watched(backlog.file_of(mark.device, mark.inode), tell)
        self._watched[watched] = None
        self._any.set()
        try:
            yield
        finally:
            del self._watched[watched]

    async def run(self) -> None:
        """Look until canceled. Without links it does not look."""
        thread: WorkerThread | None = None
        last: dict[backlog.File, int] | None = None
        try:
            while True:
                if not self._watched:
                    self._any = anyio.Event()
                    await self._any.wait()
                await anyio.sleep(self._every_s)
                watched = list(self._watched)
                if not watched:
                    continue
                try:
                    thread = thread or WorkerThread("look for clients")
                    queues = await thread.run(self._look)
                except (MemoryError, RuntimeError):  # "can't start new thread"
                    continue
                except OSError as error:
                    if error.errno in _PASSING or isinstance(error, TimeoutError):
                        continue
                    queues = {}  # sock_diag is not available
                if queues is last:  # a long list is not read at each look
                    continue
                last = queues
                for each in watched:
                    if each in self._watched:
                        _judge(each, queues.get(each.file))
        finally:
            if thread is not None:
                thread.end()


def _judge(watched: _Watched, waiting: int | None) -> None:
    if waiting is None:
        watched.missed += 1
        if watched.missed == UNSEEN_LOOKS:
            watched.tell(OthersUnseen())
        return
    watched.missed = 0
    if waiting:
        watched.tell(OthersWait())
