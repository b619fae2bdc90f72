"""What users say about where the monitors are, as values."""

import glob as globbing
import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.core.reading import Access


@dataclass(frozen=True, slots=True)
class MonitorGlob:
    """Where monitor sockets are, how to use them, and what their paths tell."""

    # Absolute; `*`, `?`, `[...]` within one name, `**` for any number of directories. As in a shell, a
    # leading dot is matched by a dot only.
    glob: str
    # None: HOLD, but SHARE for sockets under a `qemu-server` directory: Proxmox's own tools use those.
    access: Access | None = None
    # A regular expression searched for in the path. Its named groups are labels; the one called `name` names
    # the VM. None: paths tell nothing.
    pattern: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to look for, and how often."""

    monitors: tuple[MonitorGlob, ...]  # where two match one socket, the first counts
    # Changes are seen at once where the kernel tells them; this is for where it does not. 0 is not allowed.
    rescan_s: float = 10.0
    # Sockets, and directories looked into, in one scan: far above any host, so that a glob that matches half
    # of the disk costs little.
    found_max: int = 10_000
    # A burst of changes (a host starting its VMs) is gathered for this long at most.
    gather_s: float = 0.5


def mistakes(monitor: MonitorGlob) -> Iterator[str]:
    """Yield what is wrong with a glob and its pattern, each with the way out; nothing: it can be used."""
    if not monitor.glob.startswith("/"):
        yield f"{monitor.glob!r} is not an absolute path: start it with /"
    elif monitor.glob.endswith("/"):
        yield f"{monitor.glob!r} names a directory: add the sockets in it, as in {monitor.glob}*.sock"
    elif ".." in monitor.glob.split("/"):
        yield f"{monitor.glob!r} goes up with '..': write the path without it"
    if any("**" in part and part != "**" for part in monitor.glob.split("/")):
        yield f"{monitor.glob!r} has ** beside other characters: it must stand alone between two slashes"
    if monitor.pattern is None:
        return
    try:
        groups = re.compile(monitor.pattern).groupindex
    except re.error as error:
        yield f"{monitor.pattern!r} is not a regular expression: {error}"
        return
    if not groups:
        yield f"{monitor.pattern!r} has no named group: write (?P<name>...) around what names the VM"


def has_wildcard(part: str) -> bool:
    """Whether one part of a glob matches more than itself."""
    return globbing.has_magic(part)
