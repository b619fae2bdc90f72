"""How many connections wait to be accepted at a monitor's socket, as the kernel shows it.

Linux lists them by sock_diag(7), family AF_UNIX (linux/unix_diag.h): each listening socket with the device
and inode of its file and the number of connections not accepted yet, in the caller's network namespace only.
A free QEMU accepts within a millisecond; one that is held or wedged leaves connections waiting, including
those that their clients gave up.
"""

import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3  # SOCK_DIAG_BY_FAMILY, NLMSG_ERROR, NLMSG_DONE
_REQUEST_DUMP = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_LISTENING = 1 << 10  # TCP_LISTEN
_SHOW_VFS, _SHOW_RQLEN = 0x2, 0x10  # UDIAG_SHOW_VFS, UDIAG_SHOW_RQLEN
_VFS, _RQLEN = 1, 4  # UNIX_DIAG_VFS, UNIX_DIAG_RQLEN

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, pid
_START = struct.Struct("=IH")  # of a nlmsghdr
_ASK = struct.Struct("=BBHIIIII")  # unix_diag_req: family, protocol, pad, states, inode, show, cookie
_ANSWER = struct.Struct("=BBBBIII")  # unix_diag_msg: family, type, state, pad, inode, cookie
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_PAIR = struct.Struct("=II")
_ERROR_CODE = struct.Struct("=i")

# A listener with a file: header, message; the attributes VFS, RQLEN (each 12 bytes) and SHUTDOWN.
_USUAL = struct.Struct("=IH26xIIIII4x8x")
_USUAL_VFS, _USUAL_RQLEN = (
    int.from_bytes(_ATTRIBUTE.pack(12, type), sys.byteorder) for type in (_VFS, _RQLEN)
)

# The shortest entry with a file and a queue: a listener without a file (an abstract name) has a shorter one.
_SHORTEST = _HEADER.size + _ANSWER.size + 2 * (_ATTRIBUTE.size + _PAIR.size)

_LOOKING_SHARE_MAX = 0.2
"""Of the time, spent on looks: any user can make the list long."""

_SHORT_LOOK_S = 0.1
"""A look that takes no longer delays no other. 100,000 listeners take so long; a host has thousands."""

_ANSWER_WITHIN_S = 1.0
_READ_BYTES = 1 << 16


File = tuple[int, int]
"""A socket file as the kernel lists it: inode, device."""


def file_of(device: int, inode: int) -> File:
    """Return a socket file, by its status's `st_dev` and `st_ino`, as the kernel lists it."""
    return inode & 0xFFFF_FFFF, os.major(device) << 20 | os.minor(device)  # as in linux/kdev_t.h


Look = Callable[[], dict[File, int]]
"""Returns how many connections wait at each socket file, or raises OSError, as `queues` does."""


def waiting(status: os.stat_result, look: Look | None = None) -> int | None:
    """Return how many connections wait to be accepted at a socket file. Call it in a worker thread.

    Args:
        status: of the socket file.
        look: `None`: `queues`.

    Returns:
        `None` if the kernel does not show it, or the listener is in another network namespace.
    """
    try:
        return (look or queues)().get(file_of(status.st_dev, status.st_ino))
    except OSError:
        return None


def queues() -> dict[File, int]:
    """Return how many connections wait to be accepted at each socket file. Call it in a worker thread.

    Raises:
        OSError: the kernel did not answer, or in a way that is not understood.
    """
    try:
        return dict(_listeners())
    except struct.error as error:
        raise OSError(errno.EPROTO, f"sock_diag: {error}") from error


class SharedLooks:
    """The kernel's list, read for at most a fifth of the time. Call it in worker threads.

    Another user of the host can have a million sockets, and the list has them all.
    """

    def __init__(self, look: Look = queues, clock: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet; `clock` returns seconds."""
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[File, int] = {}
        self._not_before_s = clock()

    def __call__(self) -> dict[File, int]:
        """Return the list; the same one again if reading it takes long.

        Raises:
            OSError: as `queues` does.
        """
        with self._lock:
            if self._clock() >= self._not_before_s:
                self._read()
            return self._seen

    def newest(self) -> dict[File, int]:
        """Return the list as it is now.

        Raises:
            OSError: as `queues` does, or reading it takes long and would be too often.
        """
        if self._lock.acquire(timeout=_SHORT_LOOK_S):
            try:
                if self._clock() >= self._not_before_s:
                    self._read()
                    return self._seen
            finally:
                self._lock.release()
        raise OSError(errno.EBUSY, "sock_diag: the list of sockets is long")

    def _read(self) -> None:
        began_s = self._clock()
        self._seen = self._look()
        ended_s = self._clock()
        took_s = ended_s - began_s
        if took_s > _SHORT_LOOK_S:
            self._not_before_s = ended_s + took_s * (1 / _LOOKING_SHARE_MAX - 1)


def _listeners() -> Iterator[tuple[tuple[int, int], int]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_WITHIN_S)
        ask = _ASK.pack(socket.AF_UNIX, 0, 0, _LISTENING, 0, _SHOW_VFS | _SHOW_RQLEN, 0, 0)
        kernel.send(_HEADER.pack(_HEADER.size + len(ask), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + ask)
        while True:
            data = kernel.recv(_READ_BYTES)
            usual = _usual(data)
            if usual is not None:
                yield from usual
                continue
            at = 0
            while at < len(data):
                length, kind = _START.unpack_from(data, at)
                if length < _HEADER.size:
                    raise OSError(errno.EPROTO, "sock_diag: a message without a length")
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-_ERROR_CODE.unpack_from(data, at + _HEADER.size)[0], "sock_diag")
                if length >= _SHORTEST:
                    found = dict(_attributes(data[at + _HEADER.size + _ANSWER.size : at + length]))
                    if _VFS in found and _RQLEN in found:
                        yield _PAIR.unpack(found[_VFS]), _PAIR.unpack(found[_RQLEN])[0]
                at += _aligned(length)


def _usual(data: bytes) -> list[tuple[File, int]] | None:
    """Return what `data` lists if it has only listeners with a file; a host of VMs has thousands."""
    if len(data) % _USUAL.size:
        return None
    rows = [
        ((inode, device), count)
        for length, kind, vfs, inode, device, rqlen, count in _USUAL.iter_unpack(data)
        if length == _USUAL.size and kind == _BY_FAMILY and vfs == _USUAL_VFS and rqlen == _USUAL_RQLEN
    ]
    return rows if len(rows) * _USUAL.size == len(data) else None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(max(length, _ATTRIBUTE.size))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
