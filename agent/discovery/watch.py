"""Scans as the file system changes.

Each round watches the directories that the last scan read, scans, and waits for a change there or for the
rescan. Each round creates its watches again: a directory that was removed and created (by a service's
restart) is another one under the same name, and a watch on the old one reports nothing.
"""

import errno
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol, cast

import anyio
from inotify_simple import INotify, flags, parse_events

from agent.discovery.globs import Settings
from agent.discovery.locks import Locks
from agent.discovery.scan import RefusedPath, RefusedReason, Scan, Survey, survey
from agent.discovery.walk import matches
from agent.threads import in_thread

_HURRIES_MAX = 5
"""How often in a row to scan again at once because new directories appeared before they were watched."""

_WATCHED_MAX = 2_000
"""Directories watched. 8,192 was long the kernel's default for all watches of a user."""

_GATHER_S = 0.1
"""Changes within this time of each other are taken together: QEMU creates its socket, then listens on it."""

_SCANNING_SHARE_MAX = 0.2
"""Of the time, spent on scans while something changes all the time: any user can make changes without end."""

_READ_MAX_BYTES = 64 << 10
"""Of changes, read at a time: some thousand."""

_CHANGES = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.ATTRIB
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)

_CLOSE_WITHIN_S = 1.0

_ALWAYS_MATTER = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.Q_OVERFLOW
"""The directory itself changed, or the kernel dropped changes."""

_NO_RESOURCES = (OSError, MemoryError, RuntimeError)
"""What a scan raises if the host is out of memory or threads ("can't start new thread")."""

_NOTHING = Survey(Scan((), ()), {})


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
            began_s = anyio.current_time()
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
            await watcher.wait(settings.rescan_s)
            # One change leads to a scan at once; a stream of them to no more scans than this.
            await anyio.sleep_until(looked_at_s + pause_s(settings, looked_at_s - began_s))
        finally:
            # The kernel takes milliseconds to remove the watches.
            with anyio.move_on_after(_CLOSE_WITHIN_S, shield=True):
                try:
                    await in_thread(watcher.close)
                except _NO_RESOURCES:
                    watcher.close()


def pause_s(settings: Settings, took_s: float) -> float:
    """Return the time from a scan that took so long to the next one, if something changes at once."""
    return max(settings.gather_s, min(took_s * (1 / _SCANNING_SHARE_MAX - 1), settings.rescan_s))


async def _try(look: Callable[[], Survey], last: Survey) -> Survey:
    """Return a scan; while the host has no memory or threads for it, the last one with the reason."""
    try:
        return await in_thread(look)
    except _NO_RESOURCES as error:
        why = f"cannot be scanned: {error or type(error).__name__}"
        detail = f"{why}; the agent keeps the results of the last scan; free memory or threads"
        kept = RefusedPath("/", RefusedReason.UNREADABLE, detail)
        others = tuple(each for each in last.scan.refused if each.path != kept.path)
        return replace(last, scan=_with_refused(replace(last.scan, refused=others), (kept,)))


def _look(settings: Settings, locks: Locks) -> Survey:
    found = survey(settings)
    return replace(found, scan=locks.claim(found.scan))


class _Event(Protocol):
    """inotify(7): `name` is empty if the directory itself changed."""

    wd: int
    mask: int
    name: str


class _Watcher:
    """The kernel's watches on some directories. Create it and call `close` in worker threads."""

    def __init__(self, places: Mapping[str, frozenset[str]]) -> None:
        self._places = places
        self._notify: INotify | None = None
        self._directories: dict[int, list[str]] = {}  # of each watch: symbolic links lead to one from several
        self.refused: tuple[RefusedPath, ...] = ()
        if not places:
            return
        try:
            self._notify = INotify(nonblocking=True)
        except OSError as error:
            self.refused = (_unwatched(min(places), str(error), "raise fs.inotify.max_user_instances"),)
            return
        for directory in places:
            if len(self._directories) == _WATCHED_MAX:
                why = f"the globs cover more than {_WATCHED_MAX} directories"
                self.refused = (_unwatched(directory, why, "narrow the globs"),)
                return
            try:
                number = self._notify.add_watch(directory, _CHANGES)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # the directory above reports that it comes, or changes its mode
            except OSError as error:
                self.refused = (_unwatched(directory, str(error)),)
                if error.errno in (errno.ENOSPC, errno.ENOMEM):
                    return
                continue
            self._directories.setdefault(number, []).append(directory)

    async def wait(self, rescan_s: float) -> None:
        """Return at a change that matters, or after `rescan_s`."""
        with anyio.move_on_after(rescan_s):
            if self._notify is None:
                await anyio.sleep_forever()
            else:
                await self._change(self._notify)

    async def _change(self, notify: INotify) -> None:
        changed = False
        while not changed:
            await anyio.wait_readable(notify.fd)
            events = cast("list[_Event]", parse_events(os.read(notify.fd, _READ_MAX_BYTES)))
            changed = any(map(self._matters, events))
            await anyio.sleep(_GATHER_S)

    def _matters(self, event: _Event) -> bool:
        if event.mask & _ALWAYS_MATTER:
            return True
        directories = self._directories.get(event.wd, ())
        return any(matches(part, event.name) for place in directories for part in self._places[place])

    def close(self) -> None:
        """Remove the watches."""
        if self._notify is not None:
            self._notify.close()


def _unwatched(directory: str, why: str, remedy: str = "raise fs.inotify.max_user_watches") -> RefusedPath:
    detail = (
        "changes in this directory, and in others that could not be watched, are noticed only at rescans:"
        f" {why}; {remedy}"
    )
    return RefusedPath(directory, RefusedReason.UNWATCHED, detail)


def _with_refused(scan: Scan, more: tuple[RefusedPath, ...]) -> Scan:
    return replace(scan, refused=tuple(sorted((*scan.refused, *more), key=lambda found: found.path)))
