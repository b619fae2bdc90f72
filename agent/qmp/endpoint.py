"""Connect to a monitor's socket file without blocking, also if its path is longer than 108 bytes."""

import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass

from agent.core.reading import SERVICE_MANAGER_PID, Peer, SocketMark
from agent.core.shares import ROOT
from agent.errors import LinkFault, QmpUnreachable, SocketReplaced
from agent.qmp import backlog

_ATTEMPTS = 3
"""How often the socket may be replaced while connecting before the attempt fails."""

_FAULTS = {
    errno.ENOENT: LinkFault.MISSING,
    errno.ENOTDIR: LinkFault.MISSING,
    errno.ELOOP: LinkFault.MISSING,  # links that form a loop
    errno.ECONNREFUSED: LinkFault.REFUSED,
    errno.EACCES: LinkFault.DENIED,
    errno.EPERM: LinkFault.DENIED,
    errno.EAGAIN: LinkFault.BUSY,
    errno.EPROTOTYPE: LinkFault.NOT_QMP,  # a datagram socket
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A connected, non-blocking socket, the mark of the socket file it was connected through, and its peer.

    `peer` None: the process is in another PID namespace, has ended, or is hidden from this user.
    `owner_id` None: the user whose VM it is, is not known.
    """

    connection: socket.socket
    mark: SocketMark
    peer: Peer | None
    owner_id: int | None


Identify = Callable[[int, int], Peer | None]
"""Returns the process that has a pid now and belongs to a user; `None`: it is not known."""


def unknown_peer(pid: int, user_id: int) -> None:
    """Return `None`: no process is known."""


def connect(
    path: str,
    *,
    look_first: bool = False,
    expected: SocketMark | None = None,
    identify: Identify = unknown_peer,
) -> Endpoint:
    """Connect to the socket file at `path`, without waiting for the peer. Call it in a worker thread.

    The file is opened first (O_PATH) and connected to through /proc/self/fd. So the mark is that of the file
    connected to, whatever happens to the path meanwhile, and the path may have any length (sun_path holds 108
    bytes).

    With `look_first` it is BUSY, and nothing is connected, if the kernel shows that other connections wait to
    be accepted, including one that the agent gave up.

    With `expected` nothing is connected if the path leads to any other socket: discovery has not judged that
    one, and another user may have made the path lead there.

    Raises:
        SocketReplaced: the path leads to another socket than `expected`.
        QmpUnreachable: MISSING, REFUSED, DENIED, BUSY, NOT_QMP (not a socket), or HUNG_UP for the rest.
    """
    try:
        for _ in range(_ATTEMPTS):
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                status = os.fstat(file)
                if expected is not None and mark_of(status) != expected:
                    raise SocketReplaced(path)
                if not stat.S_ISSOCK(status.st_mode):
                    raise QmpUnreachable(path, LinkFault.NOT_QMP, "not a socket")
                if look_first and backlog.waiting(status):
                    raise QmpUnreachable(
                        path, LinkFault.BUSY, "connections are already queued for the monitor"
                    )
                try:
                    connection = _connect_through(file)
                    return Endpoint(connection, mark_of(status), *_peer_of(connection, identify))
                except ConnectionRefusedError:
                    # The opened file refused: a new one may have replaced it.
                    if mark_of(os.stat(path)) == mark_of(status):
                        raise
            finally:
                os.close(file)
    except OSError as error:
        fault = _FAULTS.get(error.errno or 0, LinkFault.HUNG_UP)
        raise QmpUnreachable(path, fault, f"cannot connect: {error.strerror or error}") from error
    raise QmpUnreachable(path, LinkFault.HUNG_UP, "the socket was replaced repeatedly while connecting")


def _connect_through(file: int) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Non-blocking: with a full backlog, connect would wait; now it fails with EAGAIN.
        connection.setblocking(False)
        connection.connect(f"/proc/self/fd/{file}")
    except BaseException:
        connection.close()
        raise
    return connection


_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


def _peer_of(connection: socket.socket, identify: Identify) -> tuple[Peer | None, int | None]:
    """Return the process that called listen(2) on the socket, and the user whose VM it is."""
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, user_id, _ = _CREDENTIALS.unpack(credentials)
    except (OSError, struct.error):
        return None, None
    peer = identify(pid, user_id) if pid > 0 else None
    return peer, _owner_of(pid, user_id, peer)


def _owner_of(pid: int, user_id: int, peer: Peer | None) -> int | None:
    """Return the user with whose rights a monitor counts; `None`: not known.

    The kernel keeps the user that called listen(2). Root may have done so for another user, who must not have
    root's rights: as a QEMU that has given up root since (`-run-with user=`), as a process that has left its
    socket to another one and ended, or as a service manager. A process in another PID namespace (pid 0)
    cannot be looked at.
    """
    if user_id != ROOT or pid <= 0:
        return user_id
    if pid == SERVICE_MANAGER_PID or not _runs(pid):
        return None
    return ROOT if peer is None or peer.user_id is None else peer.user_id


def _runs(pid: int) -> bool:
    """Return whether a process runs, also where /proc hides it. One that has ended may still have its pid."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        ended = select.poll()
        ended.register(process, select.POLLIN)
        return not ended.poll(0)
    finally:
        os.close(process)


def mark_of(status: os.stat_result) -> SocketMark:
    """Return what identifies the QEMU process that bound this socket file."""
    return SocketMark(device=status.st_dev, inode=status.st_ino, mtime_ns=status.st_mtime_ns)
