"""Scans as the file system changes.

Each round watches the directories that the last scan read, scans, and waits for a change there or for the
rescan. Each round creates its watches again: a directory that was removed and created (by a service's
restart) is another one under the same name, and a watch on the old one reports nothing.
"""

import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from functools import partial

import anyio

# The one documented way to open the watch, look, and only then wait: watchfiles.watch() does all in one.
from watchfiles._rust_notify import (  # pyright: ignore[reportPrivateUsage]
    RustNotify,
    WatchfilesRustInternalError,
)

from agent.discovery.globs import Settings
from agent.discovery.locks import Locks
from agent.discovery.scan import RefusedPath, RefusedReason, Scan, Survey, survey
from agent.discovery.walk import matches
from agent.threads import WorkerThread, in_thread

_HURRIES_MAX = 5
"""How often in a row to scan again at once because new directories appeared before they were watched."""

_WATCHED_MAX = 2_000
"""Directories watched. 8,192 was long the kernel's default for all watches of a user."""

_OPENINGS_MAX = 3
"""How often directories may vanish while watches are created, before a round does without watches."""

_STEP_MS = 50
"""Changes within this time of each other are taken together."""

_NO_RESOURCES = (OSError, MemoryError, RuntimeError)
"""What a scan raises if the host is out of memory or threads ("can't start new thread")."""

_NOTHING = Survey(Scan((), ()), {})

_POLL_MS = 300
"""Has no effect, since nothing is polled."""


_STOPS_WITHIN_S = 1.0
"""Far more than a thread takes to notice that it must stop."""


async def watch(settings: Settings, locks: Locks | None = None) -> AsyncGenerator[Scan, None]:
    """Yield a scan at once, and each later one that differs from the one before.

    A new mark counts as a difference: a scan is yielded when a QEMU has been started again on its path, or a
    socket was touched. Monitors that `locks` cannot lock for this agent are refused. Close the generator
    (`contextlib.aclosing`); canceled while waiting, it ends within a tenth of a second.
    """
    look = partial(_look, settings, locks or Locks(None))
    last = await _try(look, _NOTHING)
    yield last.scan
    hurries = 0
    while True:
        places = last.places
        try:
            watcher = await in_thread(partial(_Watcher, places), discard=_Watcher.close)
        except _NO_RESOURCES:
            watcher = _Watcher({})
        try:
            found = await _try(look, last)
            found = replace(found, scan=_with_refused(found.scan, watcher.refused))
            looked_at_s = anyio.current_time()
            if found.scan != last.scan:
                yield found.scan
            last = found
            if found.places != places and hurries < _HURRIES_MAX:
                hurries += 1
                continue
            hurries = 0
            await _wait(watcher, settings)
            # One change leads to a scan at once; a stream of them to no more scans than this.
            await anyio.sleep_until(looked_at_s + settings.gather_s)
        finally:
            watcher.close()


async def _try(look: Callable[[], Survey], last: Survey) -> Survey:
    """Return a scan; while the host has no memory or threads for it, the last one with the reason."""
    try:
        return await in_thread(look)
    except _NO_RESOURCES as error:
        why = f"cannot be scanned: {error or type(error).__name__}"
        detail = f"{why}; what was found before is kept; free memory or threads"
        kept = RefusedPath("/", RefusedReason.UNREADABLE, detail)
        others = tuple(each for each in last.scan.refused if each.path != kept.path)
        return replace(last, scan=_with_refused(replace(last.scan, refused=others), (kept,)))


def _look(settings: Settings, locks: Locks) -> Survey:
    found = survey(settings)
    return replace(found, scan=locks.claim(found.scan))


async def _wait(watcher: "_Watcher", settings: Settings) -> None:
    stop = threading.Event()
    thread = WorkerThread("watching")
    call = thread.submit(partial(watcher.wait, settings.rescan_s, settings.gather_s, stop))
    thread.end()
    try:
        await call.wait()
    finally:  # a thread cannot be canceled, only asked to stop; the watcher is closed after that
        stop.set()
        with anyio.move_on_after(_STOPS_WITHIN_S, shield=True):
            await call.done.wait()


class _Watcher:
    """The kernel's watches on some directories. Create it and call `wait` in worker threads."""

    def __init__(self, places: Mapping[str, frozenset[str]]) -> None:
        self._places = places
        self._notify: RustNotify | None = None
        self.refused: tuple[RefusedPath, ...] = ()
        for _ in range(_OPENINGS_MAX):
            existing = [directory for directory in places if os.path.isdir(directory)]
            try:
                self._notify = _open(existing[:_WATCHED_MAX])
            except FileNotFoundError as error:  # one was removed meanwhile
                self.refused = (_unwatched(existing[0], str(error)),)
            except (OSError, MemoryError, WatchfilesRustInternalError) as error:
                self.refused = (_unwatched(existing[0], str(error)),)
                return
            else:
                left = existing[_WATCHED_MAX:]
                why = f"the globs cover more than {_WATCHED_MAX} directories"
                self.refused = (_unwatched(left[0], why, "narrow the globs"),) if left else ()
                return

    def wait(self, rescan_s: float, gather_s: float, stop: threading.Event) -> None:
        """Return at a change that matters, after `rescan_s`, or soon after `stop` is set."""
        deadline_s = time.monotonic() + rescan_s
        while not stop.is_set() and (left_s := deadline_s - time.monotonic()) > 0:
            if self._notify is None:
                stop.wait(left_s)
                return
            changes = self._notify.watch(int(gather_s * 1000), _STEP_MS, max(1, int(left_s * 1000)), stop)
            if isinstance(changes, set) and any(self._matters(path) for _, path in changes):
                return

    def _matters(self, path: str) -> bool:
        directory, name = os.path.split(path)
        return any(matches(part, name) for part in self._places.get(directory, ()))

    def close(self) -> None:
        """Remove the watches."""
        if self._notify is not None:
            self._notify.close()


def _open(directories: list[str]) -> RustNotify:
    return RustNotify(
        directories,
        debug=False,
        force_polling=False,
        poll_delay_ms=_POLL_MS,
        recursive=False,
        ignore_permission_denied=True,
    )


def _unwatched(directory: str, why: str, remedy: str = "raise fs.inotify.max_user_watches") -> RefusedPath:
    detail = f"changes here and below are seen only at rescans: {why}; {remedy}"
    return RefusedPath(directory, RefusedReason.UNWATCHED, detail)


def _with_refused(scan: Scan, more: tuple[RefusedPath, ...]) -> Scan:
    return replace(scan, refused=tuple(sorted((*scan.refused, *more), key=lambda found: found.path)))
