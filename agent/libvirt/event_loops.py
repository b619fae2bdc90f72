"""Event loops for libvirt's client library, one for each connection.

The library waits for its sockets and timers in an event loop that the application provides. Its own has one
thread for the process, where a daemon that keeps one dispatch busy (the kernel closes a descriptor there that
the daemon has sent, and closing may last) would stop the events and keepalive messages of all other daemons.

The library does not say to which connection a handle or timer belongs. It adds them in the thread that opens
or uses the connection, so that thread names the loop with `EventLoops.using`; the thread of a loop adds to
that loop.

The library may hold a lock of the connection while it calls a function here, and a callback waits for that
lock. So no lock of this module is held during a callback. What belongs to a handle or timer is freed by the
loop's thread between two callbacks, and never while one runs: the library requires both.
"""

import itertools
import os
import select
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

READABLE, WRITABLE, ERROR, HANGUP = 1, 2, 4, 8
"""What a handle waits for and is called with: bits of libvirt's virEventHandleType."""

_FAILED = -1

_PAUSE_AFTER_FAILURE_S = 1.0

_BITS = (
    (READABLE, select.EPOLLIN),
    (WRITABLE, select.EPOLLOUT),
    (ERROR, select.EPOLLERR),
    (HANGUP, select.EPOLLHUP),
)
"""Events of libvirt and of epoll(7)."""

_READY_MAX = 16
"""Descriptors that are looked at in one turn; a connection has one."""

_HandleCallback: TypeAlias = Callable[[int, int, int, Any], object]  # number, descriptor, events, opaque
_TimerCallback: TypeAlias = Callable[[int, Any], object]  # number, opaque


@dataclass(slots=True)
class _Handle:
    """A descriptor that a connection waits for."""

    descriptor: int
    events: int
    callback: _HandleCallback
    opaque: Any


@dataclass(slots=True)
class _Timer:
    """A timer, which fires again and again."""

    every_ms: int  # below 0: never; 0: each time the loop turns
    due_ns: int
    callback: _TimerCallback
    opaque: Any


class EventLoop:
    """The handles and timers of one connection, and the daemon thread that calls back."""

    def __init__(
        self,
        free: Callable[[Any], object],
        of_thread: threading.local,
        step_in: Callable[[int], object] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            free: called in the thread with what belonged to a handle or timer that was removed.
            of_thread: each thread's `loop`, which it adds handles and timers to.
            step_in: called with a descriptor before the loop waits for it, in the thread that adds it.

        Raises:
            OSError: there is no descriptor left.
            RuntimeError: there is no thread left.
        """
        self._free = free
        self._of_thread = of_thread
        self._step_in = step_in
        self._lock = threading.RLock()  # the garbage collector may run anything, also a removal
        self._handles: dict[int, _Handle] = {}
        self._timers: dict[int, _Timer] = {}
        self._removed: list[Any] = []
        self._closed = False
        self._ended = False
        self._woken = False
        self._sleeps_until_ns: int | None = None
        # Shared with the threads that make calls, which therefore need not wake this one.
        self._epoll = select.epoll()
        self._thread = threading.Thread(target=self._run, name="libvirt events", daemon=True)
        self._wakeup = -1
        try:
            self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll.register(self._wakeup, select.EPOLLIN)
            self._thread.start()
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Let the thread end once no handle and no timer is left. Does not wait."""
        with self._lock:
            self._closed = True
            self._wake()

    def join(self) -> None:
        """Wait until the thread has ended, which takes as long as the daemon keeps a callback busy."""
        self._thread.join()

    def _release(self) -> None:
        self._epoll.close()
        if self._wakeup >= 0:
            os.close(self._wakeup)

    def add_handle(self, number: int, handle: _Handle) -> bool:
        """Wait for a handle from now on. Return whether that is possible.

        It is not if the loop has ended, another handle waits for the same descriptor, or `step_in` fails.
        """
        if self._step_in is not None:
            try:
                self._step_in(handle.descriptor)
            except (OSError, RuntimeError):
                return False
        with self._lock:
            if self._ended:
                return False
            self._handles[number] = handle
            if self._watch(handle, 0):
                return True
            del self._handles[number]
            return False

    def add_timer(self, number: int, timer: _Timer) -> bool:
        """Wait for a timer from now on. Return whether the loop still runs."""
        with self._lock:
            if self._ended:
                return False
            self._timers[number] = timer
            self._wake_for(timer)
        return True

    def update_handle(self, number: int, events: int) -> None:
        """Wait for other events of a handle; 0: for none."""
        with self._lock:
            handle = self._handles.get(number)
            if handle is not None:
                before, handle.events = handle.events, events
                self._watch(handle, before)

    def update_timer(self, number: int, every_ms: int, now_ns: int) -> None:
        """Start a timer again with another interval, or disable it."""
        with self._lock:
            timer = self._timers.get(number)
            if timer is not None:
                timer.every_ms, timer.due_ns = every_ms, _due_ns(every_ms, now_ns)
                self._wake_for(timer)

    def remove(self, number: int) -> None:
        """Remove a handle or timer. A callback of it may be running and goes on."""
        with self._lock:
            handle, timer = self._handles.pop(number, None), self._timers.pop(number, None)
            if handle is not None:
                before, handle.events = handle.events, 0
                self._watch(handle, before)
            for removed in (handle, timer):
                if removed is not None:
                    self._removed.append(removed.opaque)
                    self._wake()

    def _watch(self, handle: _Handle, before: int) -> bool:
        """Wait for the events of a handle that was watched for `before`; return whether that is possible."""
        try:
            if handle.events and before:
                self._epoll.modify(handle.descriptor, _to_epoll(handle.events))
            elif handle.events:
                self._epoll.register(handle.descriptor, _to_epoll(handle.events))
            elif before:  # epoll reports errors also without events
                self._epoll.unregister(handle.descriptor)
        except OSError:
            return False
        return True

    def _wake_for(self, timer: _Timer) -> None:
        """Wake the thread if it would sleep too long: each message of the daemon's puts a timer off."""
        if timer.every_ms >= 0 and (self._sleeps_until_ns is None or timer.due_ns < self._sleeps_until_ns):
            self._wake()

    def _wake(self) -> None:
        if not self._woken and not self._ended and threading.current_thread() is not self._thread:
            self._woken = True
            os.eventfd_write(self._wakeup, 1)

    # --- in the thread ---

    def _run(self) -> None:
        self._of_thread.loop = self
        while True:
            try:
                if not self._turn():
                    return
            except Exception:  # noqa: BLE001 - the host is out of memory; the connection needs the thread
                time.sleep(_PAUSE_AFTER_FAILURE_S)

    def _turn(self) -> bool:
        """Free what was removed, wait, and call back what is ready. Return whether anything is left."""
        while self._removed:
            self._call(self._free, self._removed.pop())
        with self._lock:
            if self._closed and not (self._handles or self._timers or self._removed):
                self._ended = True
                self._release()
                return False
            due_ns = [timer.due_ns for timer in self._timers.values() if timer.every_ms >= 0]
            self._sleeps_until_ns = min(due_ns, default=None)
            wait_s = 0 if self._removed else self._wait_s()
        ready = dict(self._epoll.poll(wait_s, _READY_MAX))
        with self._lock:
            if ready.pop(self._wakeup, 0):
                os.eventfd_read(self._wakeup)
                self._woken = False
            timers, handles = list(self._timers.items()), list(self._handles.items()) if ready else []
        self._call_timers(timers)
        self._call_handles(handles, ready)
        return True

    def _wait_s(self) -> float | None:
        """Return how long to wait for the first timer; `None`: without end."""
        if self._sleeps_until_ns is None:
            return None
        return max(0, self._sleeps_until_ns - time.monotonic_ns()) / 1e9

    def _call_timers(self, timers: list[tuple[int, _Timer]]) -> None:
        now_ns = time.monotonic_ns()
        for number, timer in timers:
            # A callback before may have changed or removed it.
            if number in self._timers and timer.every_ms >= 0 and timer.due_ns <= now_ns:
                timer.due_ns = _due_ns(timer.every_ms, now_ns)
                self._call(timer.callback, number, timer.opaque)

    def _call_handles(self, handles: list[tuple[int, _Handle]], ready: dict[int, int]) -> None:
        for number, handle in handles:
            events = _from_epoll(ready.get(handle.descriptor, 0))
            if events and number in self._handles and handle.events:
                self._call(handle.callback, number, handle.descriptor, events, handle.opaque)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:  # noqa: BLE001 - as in `_run`; the others are called all the same
            time.sleep(_PAUSE_AFTER_FAILURE_S)


class EventLoops:
    """The functions that the library calls, and the loop that each handle and timer belongs to."""

    def __init__(self, free: Callable[[Any], object] = lambda _opaque: None) -> None:
        """Start no thread yet.

        Args:
            free: called with what belonged to a handle or timer that was removed.
        """
        self._free = free
        self._numbers = itertools.count(1)
        self._loops: dict[int, EventLoop] = {}
        self._of_thread = threading.local()
        self._lock = threading.RLock()
        self._shared: EventLoop | None = None

    def register(self, library: Any) -> None:
        """Have the library use these loops. It must have no connection yet."""
        self._free = library.virEventInvokeFreeCallback
        library.virEventRegisterImpl(
            self.add_handle, self.update_handle, self.remove, self.add_timer, self.update_timer, self.remove
        )

    def open(self, step_in: Callable[[int], object] | None = None) -> EventLoop:
        """Return a new loop. Its thread ends after `close`.

        Args:
            step_in: called with each descriptor before the loop waits for it.

        Raises:
            OSError: there is no descriptor left.
            RuntimeError: there is no thread left.
        """
        return EventLoop(self._free, self._of_thread, step_in)

    @contextmanager
    def using(self, loop: EventLoop) -> Generator[None]:
        """Have what this thread adds in the block belong to `loop`."""
        before = getattr(self._of_thread, "loop", None)
        self._of_thread.loop = loop
        try:
            yield
        finally:
            self._of_thread.loop = before

    def add_handle(self, descriptor: int, events: int, callback: _HandleCallback, opaque: Any) -> int:
        """Return the number of a new handle, or -1."""
        number, loop = next(self._numbers), self._loop()
        self._loops[number] = loop
        return self._added(number, loop.add_handle(number, _Handle(descriptor, events, callback, opaque)))

    def add_timer(self, every_ms: int, callback: _TimerCallback, opaque: Any) -> int:
        """Return the number of a new timer, or -1."""
        number, loop = next(self._numbers), self._loop()
        self._loops[number] = loop
        due_ns = _due_ns(every_ms, time.monotonic_ns())
        return self._added(number, loop.add_timer(number, _Timer(every_ms, due_ns, callback, opaque)))

    def _added(self, number: int, was_added: bool) -> int:
        if was_added:
            return number
        del self._loops[number]
        return _FAILED

    def _loop(self) -> EventLoop:
        """Return the loop of this thread, or one that all others share."""
        loop: EventLoop | None = getattr(self._of_thread, "loop", None)
        if loop is not None:
            return loop
        with self._lock:
            if self._shared is None:
                self._shared = self.open()
            return self._shared

    def update_handle(self, number: int, events: int) -> None:
        """Wait for other events of a handle."""
        loop = self._loops.get(number)
        if loop is not None:
            loop.update_handle(number, events)

    def update_timer(self, number: int, every_ms: int) -> None:
        """Start a timer again with another interval, or disable it."""
        loop = self._loops.get(number)
        if loop is not None:
            loop.update_timer(number, every_ms, time.monotonic_ns())

    def remove(self, number: int) -> int:
        """Remove a handle or timer; return 0, or -1 if there is none."""
        loop = self._loops.pop(number, None)
        if loop is None:
            return _FAILED
        loop.remove(number)
        return 0


@cache
def event_loops() -> EventLoops:
    """Return the loops of this process: the library can be told of them once."""
    return EventLoops()


def _due_ns(every_ms: int, now_ns: int) -> int:
    return now_ns + every_ms * 1_000_000


def _to_epoll(events: int) -> int:
    return sum(theirs for ours, theirs in _BITS if events & ours)


def _from_epoll(events: int) -> int:
    return sum(ours for ours, theirs in _BITS if events & theirs)
