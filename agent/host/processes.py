"""QEMU processes as /proc shows them. Every file is read once, with a bound, and may be absent at any time.

The directory of a process is opened first and its files below that: a process that has ended makes all of
them fail, also once another process has its pid. Source: proc_pid_stat(5), proc_pid_status(5),
proc_pid_cgroup(5).
"""

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from agent.core.numbers import EXACT_MAX
from agent.core.reading import SERVICE_MANAGER_PID, Peer
from agent.core.shares import ROOT
from agent.host.files import read_at

_STAT_MAX_BYTES = 4096
_STATUS_MAX_BYTES = 16 * 1024
_CGROUP_MAX_BYTES = 16 * 1024

_START_FIELD = 22 - 3  # counted from the one after the name
_LINE = re.compile(rb"(VmSize|VmRSS|VmSwap|HugetlbPages):\s*(\d{1,16}) kB")
_USERS = re.compile(
    rb"^Uid:((?:\s+\d{1,10}){4})$", re.MULTILINE
)  # real, effective, saved, of the file system
_KIB = 1024

_HOST_PID_NAMESPACE = 0xEFFFFFFC
"""Its inode (the kernel's PROC_PID_INIT_INO)."""

_QEMU_NAMES = (b"qemu-", b"kvm)")
"""How the name of a QEMU process begins, with what ends it: QEMU's programs, and Debian's link."""


@dataclass(frozen=True, slots=True)
class ProcessFiles:
    """What the files of one process show, in bytes. `None`: the kernel does not show it."""

    resident_bytes: int
    swap_bytes: int | None
    hugetlb_bytes: int | None
    mapped_bytes: int
    cgroup: str | None  # of version 2: the path that /proc/PID/cgroup has


def identify(pid: int, user_id: int, proc: str = "/proc") -> Peer | None:
    """Return the process that has this pid now; `None`: there is none, or it is hidden from this user.

    `user_id` is the user that called listen(2). `None` also if the process cannot be the one that called it,
    because it runs as other users: the pid may have been reused. A process of root may have changed its user.
    `None` for the service manager. In a container QEMU itself may have its pid.
    """
    try:
        with _directory(pid, proc) as directory:
            stat = read_at(directory, "stat", _STAT_MAX_BYTES)
            if pid == SERVICE_MANAGER_PID and not (_is_contained(proc) and _is_qemu(stat)):
                return None
            started_ticks = start_ticks(stat)
            users = _USERS.search(read_at(directory, "status", _STATUS_MAX_BYTES))
    except OSError:
        return None
    if started_ticks is None or users is None:
        return None
    user_ids = [int(each) for each in users[1].split()]
    if user_id and user_id not in user_ids:
        return None
    return Peer(pid, started_ticks, ROOT if ROOT in user_ids else user_ids[1])


def read_process(peer: Peer, proc: str = "/proc") -> ProcessFiles | None:
    """Return what the files of `peer` show.

    `None`: the process has ended, another one has its pid, or this user may not see it.
    """
    try:
        with _directory(peer.pid, proc) as directory:
            if start_ticks(read_at(directory, "stat", _STAT_MAX_BYTES)) != peer.started_ticks:
                return None
            status = read_at(directory, "status", _STATUS_MAX_BYTES)
            cgroup = read_at(directory, "cgroup", _CGROUP_MAX_BYTES)
    except OSError:
        return None
    sizes = _sizes(status)
    resident_bytes, mapped_bytes = sizes.get("VmRSS"), sizes.get("VmSize")
    if resident_bytes is None or mapped_bytes is None:  # it is ending, and has no memory any more
        return None
    return ProcessFiles(
        resident_bytes, sizes.get("VmSwap"), sizes.get("HugetlbPages"), mapped_bytes, cgroup_path(cgroup)
    )


def own_cgroup(proc: str = "/proc") -> str | None:
    """Return the cgroup of this process; `None`: not of version 2, or not shown."""
    try:
        with _directory(os.getpid(), proc) as directory:
            return cgroup_path(read_at(directory, "cgroup", _CGROUP_MAX_BYTES))
    except OSError:
        return None


def start_ticks(stat: bytes) -> int | None:
    """Return when a process started, from its `stat`; `None`: not such a file.

    The name, in parentheses, may contain anything, also parentheses.
    """
    fields = stat.rpartition(b")")[2].split()
    if len(fields) <= _START_FIELD or not fields[_START_FIELD].isdigit():
        return None
    return int(fields[_START_FIELD])


def cgroup_path(cgroup: bytes) -> str | None:
    """Return the path in the hierarchy of version 2; `None`: there is none, or it is not below this root.

    A process outside the reader's cgroup namespace has a path that begins with "/..".
    """
    for line in cgroup.split(b"\n"):
        if line.startswith(b"0::/"):
            path = os.fsdecode(line.removeprefix(b"0::")).removesuffix(" (deleted)")
            return None if ".." in path.split("/") else path
    return None


def _sizes(status: bytes) -> Mapping[str, int]:
    sizes: dict[str, int] = {}
    for name, kib in _LINE.findall(status):
        if (size := int(kib) * _KIB) <= EXACT_MAX:
            sizes.setdefault(name.decode(), size)
    return sizes


def _is_contained(proc: str) -> bool:
    """Return whether this process is in another PID namespace than the host's."""
    try:
        return os.stat(f"{proc}/self/ns/pid").st_ino != _HOST_PID_NAMESPACE
    except OSError:
        return False


def _is_qemu(stat: bytes) -> bool:
    return stat.partition(b"(")[2].startswith(_QEMU_NAMES)


@contextmanager
def _directory(pid: int, proc: str) -> Generator[int]:
    directory = os.open(f"{proc}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield directory
    finally:
        os.close(directory)
