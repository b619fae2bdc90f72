"""Locks on monitors and libvirts, so that two agents of a host do not watch the same VM.

All agents of a host open one file and lock one byte of it for each monitor, at an offset made from the
socket's device and inode, and for each libvirt, at an offset made from its URI. The kernel releases the locks
however an agent ends. Agents that cannot see the same file (in other containers) are kept off a monitor only
by QEMU, which serves one client at a time, and off a libvirt by nothing: the chart runs one agent on a node.
"""

import fcntl
import os
import struct
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from agent.core.reading import SocketMark
from agent.discovery.scan import RefusedPath, RefusedReason, Scan, Seen

HELD_MAX = 20_000
"""Locks that are kept, with those of monitors that the last scan did not look for."""

_DETAIL = "another agent on this host watches it; give each agent its own globs, or stop one"

# struct flock of 64-bit Linux: type, whence, start, length, pid (fcntl(2)); the pid must be 0.
_FLOCK = struct.Struct("@hhqqi0q")


class Locks:
    """The locks of this agent. Blocks briefly; `claim` is for one thread at a time."""

    def __init__(self, path: Path | None) -> None:
        """Open the file; if `path` is `None` or cannot be opened, nothing is locked."""
        self.problem: str | None = None  # why nothing is locked
        self._held: dict[int, Seen] = {}
        self._file: int | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            _make_private(self._file)
        except OSError as error:
            self.problem = f"{path}: {error.strerror}"

    def claim(self, scan: Scan) -> Scan:
        """Return `scan` with what others watch among the refused; unlock what is not seen any more."""
        file = self._file
        if file is None:
            return scan
        places = {_place(seen.mark): seen for seen in scan.seen}
        missing = {place: seen for place, seen in self._held.items() if place not in places}
        unlooked = scan.unlooked(missing.values())  # these may still be watched
        for place, seen in missing.items():
            if seen.address not in unlooked or len(self._held) > HELD_MAX:
                _lock(file, place, fcntl.F_UNLCK)
                del self._held[place]
        for place, seen in places.items():
            if place in self._held or _lock(file, place, fcntl.F_WRLCK):
                self._held[place] = seen
        taken = [seen for place, seen in places.items() if place not in self._held]
        if not taken:
            return scan
        ours = tuple(seen for seen in scan.seen if _place(seen.mark) in self._held)
        refused = (*scan.refused, *(_refused(seen) for seen in taken))
        return replace(scan, seen=ours, refused=tuple(sorted(refused, key=lambda found: found.path)))

    def take(self, uri: str) -> bool:
        """Lock a libvirt; return whether this agent has it for itself, or nothing is locked."""
        return self._file is None or _lock(self._file, _place_of(uri), fcntl.F_WRLCK)

    def let_go(self, uri: str) -> None:
        """Unlock a libvirt."""
        if self._file is not None:
            _lock(self._file, _place_of(uri), fcntl.F_UNLCK)

    def close(self) -> None:
        """Release every lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def default_path(user_id: int, runtime_directory: str | None, service_directory: str | None) -> Path | None:
    """Return the path of the file that all agents of a user open; `None`: there is none.

    Args:
        user_id: the agent's; 0 is root.
        runtime_directory: the value of `$XDG_RUNTIME_DIR`.
        service_directory: the value of `$RUNTIME_DIRECTORY`, set by systemd (systemd.exec(5)): barograph's
            service has the same directory as root.
    """
    if service_directory:
        return Path(service_directory.partition(":")[0]) / "monitors.lock"
    if user_id == 0:
        return Path("/run/barograph/monitors.lock")
    return None if not runtime_directory else Path(runtime_directory) / "barograph" / "monitors.lock"


def _make_private(file: int) -> None:
    """Deny other users access to a file of an earlier version: a user who may read it may lock it."""
    status = os.fstat(file)
    if status.st_uid == os.geteuid() and status.st_nlink == 1 and status.st_mode & 0o077:
        os.fchmod(file, 0o600)


def _lock(file: int, place: int, kind: int) -> bool:
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
    except BlockingIOError:
        return False
    return True


def _place(mark: SocketMark) -> int:
    # Without the modification time: a socket that was touched is still the same monitor.
    return _place_of(f"{mark.device}:{mark.inode}")


def _place_of(name: str) -> int:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def _refused(seen: Seen) -> RefusedPath:
    return RefusedPath(str(seen.address), RefusedReason.OTHER_AGENT, _DETAIL)
