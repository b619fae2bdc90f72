"""One simulated QEMU process: its sockets, and the faults it can have.

A monitor serves one client. As in QEMU, its socket has a backlog of one: the next client is greeted when the
current one has left. Sockets are read when they become readable and written at once, without a stream object
for each of a thousand connections.
"""

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from simulator.qemu import Qemu
from simulator.spec import Spec


class Outbox:
    """Sends to one client and buffers what it has not read yet, without a limit, as QEMU does."""

    def __init__(self, connection: socket.socket, group: TaskGroup) -> None:
        self._connection = connection
        self._group = group
        self._unsent = b""

    def send(self, line: bytes) -> None:
        """Send a line, or queue it behind those that the client has not read."""
        if self._unsent:
            self._unsent += line
            return
        self._unsent = self._send(line)
        if self._unsent:
            self._group.start_soon(self._drain)

    def _send(self, data: bytes) -> bytes:
        try:
            return data[self._connection.send(data) :]
        except BlockingIOError:
            return data
        except OSError:
            return b""  # the client has left; the task that reads from it ends the session

    async def _drain(self) -> None:
        while self._unsent:
            with suppress(OSError, anyio.ClosedResourceError):
                await anyio.wait_writable(self._connection)
            self._unsent = self._send(self._unsent)


class QemuProcess:
    """A QEMU process with two monitors: `qmp` for the agent, `truth` for observers."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.spec = spec
        self.qmp = folder / f"{spec.name}.qmp"
        self.truth = folder / f"{spec.name}.truth"
        self.qemu: Qemu | None = None  # None: the process does not run
        self.scope = anyio.CancelScope()
        self.scheduled_ns: int | None = None
        self.frozen = False  # as after SIGSTOP: accepts, reads and sends nothing
        self.wedged = False  # the main loop is stuck: greets clients, but answers nothing
        self.hangs_up = False  # disconnects each client after the greeting
        self.listeners: list[socket.socket] = []
        self.clients: dict[int, socket.socket] = {}
        self.flood_s: float | None = None  # seconds between two events; None: no flood
        self.may_read = anyio.Event()
        self.may_accept = anyio.Event()

    @property
    def stuck(self) -> bool:
        """Whether the process is frozen or wedged: time passes, but it does nothing."""
        return self.frozen or self.wedged

    def set_stuck(self, *, frozen: bool | None = None, wedged: bool | None = None) -> None:
        """Freeze or wedge the process, or end that; `None` leaves a condition as it is."""
        self.frozen = self.frozen if frozen is None else frozen
        self.wedged = self.wedged if wedged is None else wedged
        for name, allowed in (("may_accept", not self.frozen), ("may_read", not self.stuck)):
            if allowed:
                getattr(self, name).set()
            else:
                setattr(self, name, anyio.Event())

    def hang_up(self) -> None:
        """Disconnect all clients, and each new client after its greeting."""
        self.hangs_up = True
        _shut_down(self.clients.values())

    def shut_down_sockets(self) -> None:
        """Refuse new clients and disconnect the present ones; the tasks of the sockets close them."""
        _shut_down((*self.listeners, *self.clients.values()))


def _shut_down(sockets: Iterable[socket.socket]) -> None:
    for each in tuple(sockets):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def listen(path: Path) -> socket.socket:
    """Return a listening socket on a path, in place of what was there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(os.fspath(path))
    listener.listen(1)
    return listener
