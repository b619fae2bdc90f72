"""One look at the file system: which monitors are there, and which must be left alone.

Blocking: for a worker thread. What vanishes meanwhile was not there.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.core.address import Address, MonitorPath
from agent.core.reading import NO_LABELS, Access, IntervalPolicy, SocketMark
from agent.discovery import owners
from agent.discovery.links import ForeignLinkError, resolve
from agent.discovery.settings import MonitorGlob, Settings, has_wildcard
from agent.discovery.walk import TooManyError, Walk

_NAME_GROUP = "name"


class RefusedReason(StrEnum):
    """Why a path, or part of a glob, is not used."""

    LIBVIRT = "libvirt"  # libvirt owns this monitor
    INCUS = "incus"  # Incus or LXD owns it
    OTHER_AGENT = "other_agent"  # another agent of this host watches it
    FOREIGN_LINK = "foreign_link"  # reached through a symbolic link that others may change
    NOT_A_SOCKET = "not_a_socket"  # only said where the glob names one file
    UNREADABLE = "unreadable"  # a directory we may not look into, or a path that cannot be followed
    UNPRINTABLE = "unprintable"  # a path that cannot stand in our output
    TOO_MANY = "too_many"  # the bound of one scan
    UNWATCHED = "unwatched"  # the kernel will not tell of changes there: they are seen at rescans only


@dataclass(frozen=True, slots=True)
class Seen:
    """A monitor socket that may be connected to."""

    address: Address  # a path is as the glob has it, links included
    mark: SocketMark  # moves at each start of QEMU
    access: Access
    name: str | None  # what the pattern calls the VM; None: it says nothing
    labels: Mapping[str, str]  # what else the pattern took from the path
    policy: IntervalPolicy | None = None  # who decides its interval; None: as for all


@dataclass(frozen=True, slots=True)
class RefusedPath:
    """A path that matches and is left alone, or a place that could not be looked into."""

    path: str
    reason: RefusedReason
    detail: str  # for people: why, and what to do


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look found, each sorted by path."""

    seen: tuple[Seen, ...]
    refused: tuple[RefusedPath, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """A scan, and where what it finds may change."""

    scan: Scan
    # Directory, which may not exist, -> the parts of globs that its entries were compared with.
    places: Mapping[str, frozenset[str]]


def scan(settings: Settings) -> Scan:
    """Look once. Two paths to one socket: the first counts, by order of globs and then of names."""
    return survey(settings).scan


def survey(settings: Settings) -> Survey:
    """Look once, and say where to watch."""
    walk = Walk(settings.found_max)
    seen: dict[str, Seen] = {}
    refused: dict[str, RefusedPath] = {}
    taken: set[tuple[int, int]] = set()
    for monitor in settings.monitors:
        for found in _judge_all(walk, monitor, settings.found_max):
            if isinstance(found, RefusedPath):
                refused.setdefault(found.path, found)
            elif (file := (found.mark.device, found.mark.inode)) not in taken:
                taken.add(file)
                seen[str(found.address)] = found
    for directory, error in walk.unreadable.items():
        detail = f"cannot look into it: {error.strerror}; let the agent's user read and enter it"
        refused.setdefault(directory, RefusedPath(directory, RefusedReason.UNREADABLE, detail))
    return Survey(
        Scan(
            tuple(sorted(seen.values(), key=lambda found: str(found.address))),
            tuple(sorted(refused.values(), key=lambda found: found.path)),
        ),
        {directory: frozenset(parts) for directory, parts in walk.places.items()},
    )


def _judge_all(walk: Walk, monitor: MonitorGlob, bound: int) -> Iterator[Seen | RefusedPath]:
    literal = not has_wildcard(monitor.glob)
    pattern = None if monitor.pattern is None else re.compile(monitor.pattern)
    try:
        for path in walk.expand(monitor.glob):
            found = _judge(path, monitor, pattern, literal=literal)
            if found is not None:
                yield found
    except TooManyError:
        detail = f"more than {bound} paths match, or as many directories: narrow it; the rest is left out"
        yield RefusedPath(monitor.glob, RefusedReason.TOO_MANY, detail)


def _judge(
    path: str, monitor: MonitorGlob, pattern: re.Pattern[str] | None, *, literal: bool
) -> Seen | RefusedPath | None:
    try:
        status = os.stat(path)
        is_socket = stat.S_ISSOCK(status.st_mode)
        if not is_socket and not literal:
            return None
        real = resolve(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ForeignLinkError as error:
        detail = f"{error.link} is a symbolic link that others may change: name the place it leads to"
        return RefusedPath(path, RefusedReason.FOREIGN_LINK, detail)
    except OSError as error:
        return RefusedPath(path, RefusedReason.UNREADABLE, f"cannot be reached: {error.strerror}")
    if not path.isprintable():
        return RefusedPath(
            ascii(path), RefusedReason.UNPRINTABLE, "has characters that cannot be shown: rename it"
        )
    if not is_socket:
        return RefusedPath(
            path, RefusedReason.NOT_A_SOCKET, "not a socket: name the one that -qmp unix:... made"
        )
    # By either path: a link may hide whose it is, and a mount may change where it leads.
    for name in (path, real):
        if (detail := owners.owned_by_libvirt(name)) is not None:
            return RefusedPath(path, RefusedReason.LIBVIRT, detail)
        if (detail := owners.owned_by_incus(name)) is not None:
            return RefusedPath(path, RefusedReason.INCUS, detail)
    groups = _groups(pattern, path)
    access = monitor.access or (Access.SHARE if any(map(owners.shared, (path, real))) else Access.HOLD)
    mark = SocketMark(status.st_dev, status.st_ino, status.st_mtime_ns)
    return Seen(MonitorPath(path), mark, access, groups.pop(_NAME_GROUP, None), groups or NO_LABELS)


def _groups(pattern: re.Pattern[str] | None, path: str) -> dict[str, str]:
    match = None if pattern is None else pattern.search(path)
    if match is None:
        return {}
    return {name: value for name, value in match.groupdict().items() if value}
