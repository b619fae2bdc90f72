"""One scan of the file system: which monitors there are, and which must be left alone.

Blocking: call it in a worker thread. What is removed during the scan counts as missing.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.core.address import Address, MonitorPath
from agent.core.labels import NAME_GROUP, matched
from agent.core.reading import NO_LABELS, Access, IntervalPolicy, SocketMark
from agent.core.shares import ROOT, Owner, shown
from agent.discovery import owners
from agent.discovery.globs import MonitorGlob, Settings, has_wildcard
from agent.discovery.links import ForeignLinkError, find
from agent.discovery.walk import Match, Walk


class RefusedReason(StrEnum):
    """Why a path, or a part of a glob, is not used."""

    LIBVIRT = "libvirt"  # libvirt owns this monitor
    INCUS = "incus"  # Incus or LXD owns it
    MANAGER = "manager"  # another manager of VMs owns it
    OTHER_AGENT = "other_agent"  # another agent of this host watches it
    FOREIGN_LINK = "foreign_link"  # reached through a symbolic link that others can change
    NOT_A_SOCKET = "not_a_socket"  # only reported for a glob without wildcards
    UNREADABLE = "unreadable"  # a directory that cannot be read, or a path that cannot be resolved
    UNPRINTABLE = "unprintable"  # a path with characters that cannot be printed
    UNUSABLE = "unusable"  # a libvirt, or a domain of one, that is over a bound or has an unusable definition
    TOO_MANY = "too_many"  # the bound of one scan is reached
    UNWATCHED = "unwatched"  # the kernel does not report changes there: they are seen only at rescans


@dataclass(frozen=True, slots=True)
class Seen:
    """A VM that may be connected to."""

    address: Address  # a path is as the glob has it, with its symbolic links
    mark: SocketMark  # changes at each start of QEMU
    access: Access
    name: str | None  # from the pattern; None: it has none
    labels: Mapping[str, str]  # what else the pattern found in the path
    policy: IntervalPolicy | None = None  # for its interval; None: that of all VMs
    interval_s: int | None = None  # the interval to set; None: that of all VMs
    holds_unseen: bool = False  # `access: hold` is configured, so also where other clients cannot be seen
    owner: Owner = ROOT  # of the share that it counts to


@dataclass(frozen=True, slots=True)
class RefusedPath:
    """A path that matches and is not used, or a directory that could not be read."""

    path: str
    reason: RefusedReason
    detail: str  # a text: why, and what to do


_OWNERS_NAMED_MAX = 3

_NOT_OURS = frozenset(
    {
        RefusedReason.LIBVIRT,
        RefusedReason.INCUS,
        RefusedReason.MANAGER,
        RefusedReason.OTHER_AGENT,
        RefusedReason.FOREIGN_LINK,
    }
)


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan found, sorted by path."""

    seen: tuple[Seen, ...]
    refused: tuple[RefusedPath, ...]
    left_out: frozenset[Owner] = frozenset()  # their paths were covered only in part: the bound was reached

    def unlooked(self, known: Iterable[Seen]) -> set[Address]:
        """Return the VMs, of those, that may be there without being seen: they were not looked for."""
        places = {each.path.rstrip("/") for each in self.refused if each.reason is RefusedReason.UNREADABLE}
        return {
            each.address
            for each in known
            if isinstance(each.address, MonitorPath)
            and (
                each.owner in self.left_out
                or ROOT in self.left_out
                or any(place in places for place in _and_above(each.address.path))
            )
        }

    def refusing(self, addresses: Iterable[Address]) -> set[Address]:
        """Return the VMs, of those, that must not be watched although there is a socket at the path."""
        paths = {each.path for each in self.refused if each.reason in _NOT_OURS}
        return {address for address in addresses if str(address) in paths}


@dataclass(frozen=True, slots=True)
class Survey:
    """A scan, and the directories in which its result may change."""

    scan: Scan
    # Directory, which may be missing -> the parts of globs that its entries were compared with.
    places: Mapping[str, frozenset[str]]


def scan(settings: Settings) -> Scan:
    """Scan once. Of two paths to one socket the first is used, by order of globs and then of names."""
    return survey(settings).scan


def survey(settings: Settings) -> Survey:
    """Scan once, and return where to watch."""
    walk = Walk(settings.found_max)
    seen: dict[str, Seen] = {}
    refused: dict[str, RefusedPath] = {}
    taken: set[tuple[int, int]] = set()
    for found in _judge_all(walk, settings.monitors):
        if isinstance(found, RefusedPath):
            refused.setdefault(found.path, found)
        elif (file := (found.mark.device, found.mark.inode)) not in taken:
            taken.add(file)
            seen[str(found.address)] = found
    for directory, detail in walk.unreadable.items():
        path = _shown(directory)
        refused.setdefault(path, RefusedPath(path, RefusedReason.UNREADABLE, detail))
    for number in sorted(set(walk.left_out.values())):
        glob = settings.monitors[number].glob
        owners = [owner for owner, left in walk.left_out.items() if left == number]
        detail = (
            f"more than {settings.found_max} paths or directories match; the agent ignores some paths of the"
            f" owners that have the most: {_named(owners)}; narrow the glob"
        )
        refused[glob] = RefusedPath(glob, RefusedReason.TOO_MANY, detail)
    return Survey(
        Scan(
            tuple(sorted(seen.values(), key=lambda found: str(found.address))),
            tuple(sorted(refused.values(), key=lambda found: found.path)),
            frozenset(walk.left_out),
        ),
        {directory: frozenset(parts) for directory, parts in walk.places.items()},
    )


def _judge_all(walk: Walk, monitors: tuple[MonitorGlob, ...]) -> list[Seen | RefusedPath]:
    """Return what was found, by order of globs and then of names."""
    literal = [not has_wildcard(monitor.glob) for monitor in monitors]
    patterns = [None if monitor.pattern is None else re.compile(monitor.pattern) for monitor in monitors]
    found: list[tuple[int, Seen | RefusedPath]] = []
    for match in walk.expand(*(monitor.glob for monitor in monitors)):
        number = match.glob
        judged = _judge(match, monitors[number], patterns[number], literal=literal[number])
        if judged is not None:
            found.append((number, judged))
    found.sort(key=lambda each: each[0])
    return [judged for _, judged in found]


def _named(owners: list[Owner]) -> str:
    others = f" and {len(owners) - _OWNERS_NAMED_MAX} more" if len(owners) > _OWNERS_NAMED_MAX else ""
    return ", ".join(map(shown, owners[:_OWNERS_NAMED_MAX])) + others


def _and_above(path: str) -> Iterator[str]:
    """Yield a path without a slash at its end, and each directory above it; the root is the empty text."""
    path = path.rstrip("/")
    yield path
    while path:
        path = path.rpartition("/")[0].rstrip("/")
        yield path


def _judge(
    match: Match, monitor: MonitorGlob, pattern: re.Pattern[str] | None, *, literal: bool
) -> Seen | RefusedPath | None:
    path = match.path
    try:
        real, status = find(path)
        is_socket = stat.S_ISSOCK(status.st_mode)
        if not is_socket and not literal:
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ForeignLinkError as error:
        if not literal and not _leads_to_socket(path):
            return None
        detail = f"{_shown(error.link)} is a link that others can change: use the path that it leads to"
        return RefusedPath(_shown(path), RefusedReason.FOREIGN_LINK, detail)
    except OSError as error:
        detail = f"cannot be reached: {error.strerror}; check the path"
        return RefusedPath(_shown(path), RefusedReason.UNREADABLE, detail)
    if not path.isprintable():
        detail = "has characters that cannot be printed: rename it"
        return RefusedPath(_shown(path), RefusedReason.UNPRINTABLE, detail)
    if not is_socket:
        return RefusedPath(path, RefusedReason.NOT_A_SOCKET, "not a socket: use the path of -qmp unix:...")
    # Both paths: a link may hide the owner's path, and a mount may change where it leads.
    for name in (path, real):
        if (detail := owners.owned_by_libvirt(name)) is not None:
            return RefusedPath(path, RefusedReason.LIBVIRT, detail)
        if (detail := owners.owned_by_incus(name)) is not None:
            return RefusedPath(path, RefusedReason.INCUS, detail)
        if (detail := owners.owned_by_another(name)) is not None:
            return RefusedPath(path, RefusedReason.MANAGER, detail)
    groups = dict(matched(pattern, path))
    access = monitor.access or (Access.SHARE if any(map(owners.shared, (path, real))) else Access.HOLD)
    mark = SocketMark(status.st_dev, status.st_ino, status.st_mtime_ns)
    return Seen(
        MonitorPath(path),
        mark,
        access,
        groups.pop(NAME_GROUP, None),
        groups or NO_LABELS,
        monitor.policy,
        monitor.interval_s,
        holds_unseen=monitor.access is Access.HOLD,
        owner=match.owner,
    )


def _shown(path: str) -> str:
    """Return a path for logs and terminals. A path that is not printable is that of no VM."""
    return path if path.isprintable() else ascii(path)


def _leads_to_socket(path: str) -> bool:
    """Return whether the path leads to a socket now. For what to report only: it may lead elsewhere next."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
