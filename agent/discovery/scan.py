"""One scan of the file system: which monitors there are, and which must be left alone.

Blocking: call it in a worker thread. What is removed during the scan counts as missing.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.core.address import Address, MonitorPath
from agent.core.labels import NAME_GROUP, matched
from agent.core.reading import NO_LABELS, Access, IntervalPolicy, SocketMark
from agent.discovery import owners
from agent.discovery.globs import MonitorGlob, Settings, has_wildcard
from agent.discovery.links import ForeignLinkError, find
from agent.discovery.walk import TooManyError, Walk


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


@dataclass(frozen=True, slots=True)
class RefusedPath:
    """A path that matches and is not used, or a directory that could not be read."""

    path: str
    reason: RefusedReason
    detail: str  # a text: why, and what to do


_COULD_NOT_LOOK = frozenset({RefusedReason.UNREADABLE, RefusedReason.TOO_MANY})
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

    @property
    def incomplete(self) -> bool:
        """Return whether there may be monitors that the scan did not reach."""
        return any(each.reason in _COULD_NOT_LOOK for each in self.refused)

    def could_not_look(self, address: Address) -> bool:
        """Return whether a VM that was not seen may still be there: the scan did not reach its path."""
        return isinstance(address, MonitorPath) and any(
            each.reason is RefusedReason.TOO_MANY
            or address.path == each.path
            or address.path.startswith(each.path.rstrip("/") + "/")
            for each in self.refused
            if each.reason in _COULD_NOT_LOOK
        )

    def refuses(self, address: Address) -> bool:
        """Return whether a VM must not be watched any more, although there is a socket at its path."""
        return any(each.path == str(address) and each.reason in _NOT_OURS for each in self.refused)


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
    for monitor in settings.monitors:
        for found in _judge_all(walk, monitor, settings.found_max):
            if isinstance(found, RefusedPath):
                refused.setdefault(found.path, found)
            elif (file := (found.mark.device, found.mark.inode)) not in taken:
                taken.add(file)
                seen[str(found.address)] = found
    for directory, detail in walk.unreadable.items():
        path = _shown(directory)
        refused.setdefault(path, RefusedPath(path, RefusedReason.UNREADABLE, detail))
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
        detail = f"more than {bound} paths or directories match, and the rest is left out: narrow the glob"
        yield RefusedPath(monitor.glob, RefusedReason.TOO_MANY, detail)


def _judge(
    path: str, monitor: MonitorGlob, pattern: re.Pattern[str] | None, *, literal: bool
) -> Seen | RefusedPath | None:
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
