"""Where monitor sockets are: settings, and what is wrong with a glob."""

import glob as globbing
from collections.abc import Iterator
from dataclasses import dataclass

from agent.core.address import mistake_in_path
from agent.core.labels import mistakes_in_pattern
from agent.core.reading import Access, IntervalPolicy


@dataclass(frozen=True, slots=True)
class MonitorGlob:
    """Where monitor sockets are, how to use them, and what their paths say about the VMs."""

    # Absolute; `*`, `?`, `[...]` within one name, `**` for any number of directories. As in a shell, a
    # leading dot is matched by a dot only.
    glob: str
    # None: HOLD, but SHARE for sockets under a `qemu-server` directory, which Proxmox's tools use too.
    access: Access | None = None
    # A regular expression searched for in the path. Its named groups become labels; the group `name` is the
    # VM's name. None: no labels.
    pattern: str | None = None
    policy: IntervalPolicy | None = None  # for the intervals of these VMs; None: that of all VMs
    interval_s: int | None = None  # the interval to set; None: that of all VMs


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which monitors to look for, and how often."""

    monitors: tuple[MonitorGlob, ...]  # if two match one socket, the first applies
    # Changes are seen at once where the kernel reports them; this is for where it does not. Above 0.
    rescan_s: float = 10.0
    # Sockets, and directories read, in one scan: far above any host, so that a glob that matches half of the
    # disk costs little.
    found_max: int = 10_000
    # A burst of changes (a host that starts its VMs) is gathered for at most this long.
    gather_s: float = 0.5


def mistakes(monitor: MonitorGlob) -> Iterator[str]:
    """Yield what is wrong with a glob and its pattern and what to do; nothing: it can be used."""
    mistake = mistake_in_path(monitor.glob)
    if mistake is not None:
        yield mistake
    elif not monitor.glob.startswith("/"):
        yield f"{monitor.glob!r} is not an absolute path; start it with /"
    elif monitor.glob.endswith("/"):
        yield f"{monitor.glob!r} is a directory; add the sockets in it, as in {monitor.glob}*.sock"
    elif ".." in monitor.glob.split("/"):
        yield f"{monitor.glob!r} contains '..'; write the path without it"
    if any("**" in part and part != "**" for part in monitor.glob.split("/")):
        yield f"{monitor.glob!r} has ** next to other characters; put it alone between two slashes"
    if monitor.pattern is not None:
        yield from mistakes_in_pattern(monitor.pattern)


def has_wildcard(part: str) -> bool:
    """Return whether one part of a glob matches more than itself."""
    return globbing.has_magic(part)
