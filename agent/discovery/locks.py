"""One agent for each monitor of a host, and for each libvirt: a second one refuses what a first one watches,
until it ends.

All agents of a host open one file and lock one byte of it for each monitor, at the place that the socket's
device and inode give, and for each libvirt, at the place that its URI gives. The kernel lets go of it however
an agent ends. Agents that cannot see the same file (other containers) are kept apart from a monitor by QEMU
alone, which serves one client at a time, and from a libvirt by nothing: the chart has one agent on a node.
"""

import fcntl
import os
import struct
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from agent.core.reading import SocketMark
from agent.discovery.scan import RefusedPath, RefusedReason, Scan, Seen

_DETAIL = "another agent on this host watches it: give each its own globs, or stop one"

# struct flock of 64-bit Linux: type, whence, start, length, pid (fcntl(2)); the pid must be 0.
_FLOCK = struct.Struct("@hhqqi0q")


class Locks:
    """What this agent has for itself. Blocks, for a moment; monitors are claimed by one thread at a time."""

    def __init__(self, path: Path | None) -> None:
        """Make it; where `path` is `None`, or cannot be opened, nothing is locked."""
        self.problem: str | None = None  # why nothing is locked
        self._held: set[int] = set()
        self._file: int | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            self.problem = f"{path}: {error.strerror}"

    def claim(self, scan: Scan) -> Scan:
        """Return `scan` with what others watch among the refused; let go of what is not seen any more."""
        file = self._file
        if file is None:
            return scan
        places = {_place(seen.mark): seen for seen in scan.seen}
        for place in self._held - places.keys():
            _lock(file, place, fcntl.F_UNLCK)
        self._held &= places.keys()
        self._held |= {place for place in places.keys() - self._held if _lock(file, place, fcntl.F_WRLCK)}
        taken = [seen for place, seen in places.items() if place not in self._held]
        if not taken:
            return scan
        ours = tuple(seen for seen in scan.seen if seen not in taken)
        refused = (*scan.refused, *(_refused(seen) for seen in taken))
        return replace(scan, seen=ours, refused=tuple(sorted(refused, key=lambda found: found.path)))

    def take(self, uri: str) -> bool:
        """Take a libvirt; return whether this agent has it for itself, or nothing is locked."""
        return self._file is None or _lock(self._file, _place_of(uri), fcntl.F_WRLCK)

    def let_go(self, uri: str) -> None:
        """Let go of a libvirt."""
        if self._file is not None:
            _lock(self._file, _place_of(uri), fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go of everything."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def default_path(user_id: int, runtime_directory: str | None, service_directory: str | None) -> Path | None:
    """Return where the agents of a user meet; `None`: there is no such place.

    Args:
        user_id: the agent's; 0 is root.
        runtime_directory: what `$XDG_RUNTIME_DIR` says.
        service_directory: what `$RUNTIME_DIRECTORY` says, under systemd (systemd.exec(5)): as a service of
            ours has it the same place as root's.
    """
    if service_directory:
        return Path(service_directory.partition(":")[0]) / "monitors.lock"
    if user_id == 0:
        return Path("/run/barograph/monitors.lock")
    return None if not runtime_directory else Path(runtime_directory) / "barograph" / "monitors.lock"


def _lock(file: int, place: int, kind: int) -> bool:
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
    except BlockingIOError:
        return False
    return True


def _place(mark: SocketMark) -> int:
    # Without the modification time: a socket that somebody touched is still the same monitor.
    return _place_of(f"{mark.device}:{mark.inode}")


def _place_of(name: str) -> int:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def _refused(seen: Seen) -> RefusedPath:
    return RefusedPath(str(seen.address), RefusedReason.OTHER_AGENT, _DETAIL)
