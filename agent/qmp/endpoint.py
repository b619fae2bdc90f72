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
from agent.qmp.backlog import Look, queues, waiting
from agent.qmp.descriptors import DescriptorsSentError, MonitorSocket, is_closing

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
    look: Look = queues,
) -> Endpoint:
    """Connect to the socket file at `path`, without waiting for the peer. Call it in a worker thread.

    The file is opened first (O_PATH) and connected to through /proc/self/fd. So the mark is that of the file
    connected to, whatever happens to the path meanwhile, and the path may have any length (sun_path holds 108
    bytes).

    With `look_first` it is BUSY, and nothing is connected, if `look` shows that other connections wait to be
    accepted, including one that the agent gave up.

    With `expected` nothing is connected if the path leads to any other socket: discovery has not judged that
    one, and another user may have made the path lead there.

    Raises:
        SocketReplaced: the path leads to another socket than `expected`.
        QmpUnreachable: MISSING, REFUSED, DENIED, BUSY, NOT_QMP (not a socket), PROTOCOL (an earlier peer sent
            descriptors that are not closed yet), or HUNG_UP for the rest.
    """
    if is_closing(path):
        raise QmpUnreachable(path, LinkFault.PROTOCOL, violation(str(DescriptorsSentError())))
    try:
        for _ in range(_ATTEMPTS):
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                status = os.fstat(file)
                if expected is not None and mark_of(status) != expected:
                    raise SocketReplaced(path)
                if not stat.S_ISSOCK(status.st_mode):
                    raise QmpUnreachable(path, LinkFault.NOT_QMP, "not a socket")
                if look_first and waiting(status, look):
                    raise QmpUnreachable(
                        path, LinkFault.BUSY, "connections are already queued for the monitor"
                    )
                try:
                    connection = _connect_through(path, file)
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


def violation(problem: str) -> str:
    """Return the detail of `LinkFault.PROTOCOL`: what the peer did, and what to do."""
    return f"the peer violated the QMP protocol: {problem:.200}; find out which program created the socket"


def _connect_through(path: str, file: int) -> socket.socket:
    connection = MonitorSocket(path)
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
    if pid <= 0:  # in another PID namespace
        return None, user_id
    try:
        process = _open_process(connection, pid)
    except ProcessLookupError:
        return None, _owner_of(pid, user_id, None, runs=False)
    try:
        peer = identify(pid, user_id)
        # Asked after `identify`: another process cannot have had the pid before this one ended.
        runs = process is None or not _has_ended(process)
    finally:
        if process is not None:
            os.close(process)
    return (peer if runs else None), _owner_of(pid, user_id, peer, runs=runs)


def _owner_of(pid: int, user_id: int, peer: Peer | None, *, runs: bool) -> int | None:
    """Return the user with whose rights a monitor counts; `None`: not known.

    The kernel keeps the user that called listen(2). Root may have done so for another user, who must not have
    root's rights: as a QEMU that has given up root since (`-run-with user=`), as a process that has left its
    socket to another one and ended, or as a service manager.
    """
    if user_id != ROOT:
        return user_id
    if not runs or (pid == SERVICE_MANAGER_PID and peer is None):
        return None
    return ROOT if peer is None or peer.user_id is None else peer.user_id


_SO_PEERPIDFD = getattr(socket, "SO_PEERPIDFD", 77)
"""A descriptor of the process itself, also once another one has its pid (Linux 6.5)."""

_HAS_ENDED = frozenset({errno.EINVAL, errno.ESRCH})
"""How kernels before 6.16 report that the process has ended and its parent has waited for it."""


def _open_process(connection: socket.socket, pid: int) -> int | None:
    """Return a pidfd of the process that called listen(2), also where /proc hides it; `None`: there is none.

    On a kernel without SO_PEERPIDFD it is that of the process that has the pid now.

    Raises:
        ProcessLookupError: it has ended.
    """
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno in _HAS_ENDED:
            raise ProcessLookupError(error.errno, os.strerror(error.errno)) from error
        if error.errno != errno.ENOPROTOOPT:
            return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None


def _has_ended(process: int) -> bool:
    """Return whether a process has ended. Until its parent has waited for it, it keeps its pid."""
    ended = select.poll()
    ended.register(process, select.POLLIN)
    return bool(ended.poll(0))


def mark_of(status: os.stat_result) -> SocketMark:
    """Return what identifies the QEMU process that bound this socket file."""
    return SocketMark(device=status.st_dev, inode=status.st_ino, mtime_ns=status.st_mtime_ns)
