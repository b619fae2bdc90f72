"""Many simulated QEMUs in one process: their sockets, the passing of time, and what may go wrong with them.

A monitor serves one client. Its socket has QEMU's backlog of one; who waits there is greeted when the client
before has left. Sockets are read as they become readable and written at once, without a stream object for
each of a thousand connections.
"""

import heapq
import os
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import anyio
from anyio.abc import TaskGroup

from simulator.qemu import Machine, Now, Refused, Spec
from simulator.qmp_session import Session

FLUSH_NS = 100_000_000


def clocks() -> Now:
    """Read the host's two clocks."""
    return Now(time.monotonic_ns(), time.time_ns())


class UpdatesLog:
    """Every update of every VM, a JSON line each.

    `[path of the truth monitor, Unix nanoseconds, last-update, {statistics as on the wire}]`: the form is
    the lab's observer's, so the same comparison reads both.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)
        self._flushed_ns = 0
        self._waiting = False

    def write(self, path: Path, last_update_s: int, stats_json: str, seen_ns: int) -> None:
        """Add an update."""
        statistics = stats_json[len('{"stats": ') : stats_json.rindex("}, ") + 1]
        self._file.write(f'["{path}", {seen_ns}, {last_update_s}, {statistics}]\n'.encode())
        self._waiting = True

    def due_ns(self) -> int | None:
        """Return when `flush` has something to do."""
        return self._flushed_ns + FLUSH_NS if self._waiting else None

    def flush(self, mono_ns: int) -> None:
        """Let readers see it all."""
        self._file.flush()
        self._flushed_ns, self._waiting = mono_ns, False

    def close(self) -> None:
        """Write the rest."""
        self._file.close()


class _Outbox:
    """What one client has not read yet. QEMU buffers without a bound, too; so does this."""

    def __init__(self, connection: socket.socket, group: TaskGroup) -> None:
        self._connection = connection
        self._group = group
        self._waiting = b""

    def send(self, line: bytes) -> None:
        if self._waiting:
            self._waiting += line
            return
        self._waiting = self._try(line)
        if self._waiting:
            self._group.start_soon(self._drain)

    def _try(self, data: bytes) -> bytes:
        try:
            return data[self._connection.send(data) :]
        except BlockingIOError:
            return data
        except OSError:
            return b""  # it has left: whoever reads from it will see

    async def _drain(self) -> None:
        while self._waiting:
            with suppress(OSError, anyio.ClosedResourceError):
                await anyio.wait_writable(self._connection)
            self._waiting = self._try(self._waiting)


class Process:
    """One simulated QEMU: a machine and its monitors, `qmp` and `truth`."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.spec = spec
        self.qmp = folder / f"{spec.name}.qmp"
        self.truth = folder / f"{spec.name}.truth"
        self.machine: Machine | None = None  # None: not running
        self.scope = anyio.CancelScope()
        self.scheduled_ns: int | None = None
        self.frozen = False  # as by SIGSTOP: nothing is accepted, read or said
        self.wedged = False  # its main loop is stuck: it greets, and answers nothing
        self.hangs_up = False  # on each client, once greeted
        self.listeners: list[socket.socket] = []
        self.clients: dict[int, socket.socket] = {}
        self.flood_s: float | None = None  # between two events
        self.may_read = anyio.Event()
        self.may_accept = anyio.Event()

    @property
    def held(self) -> bool:
        """Whether time passes without anything done."""
        return self.frozen or self.wedged

    def hold(self, *, frozen: bool | None = None, wedged: bool | None = None) -> None:
        """Freeze, wedge, or let go."""
        self.frozen = self.frozen if frozen is None else frozen
        self.wedged = self.wedged if wedged is None else wedged
        for name, go in (("may_accept", not self.frozen), ("may_read", not self.held)):
            if go:
                getattr(self, name).set()
            else:
                setattr(self, name, anyio.Event())

    def hang_up(self) -> None:
        """Hang up on whoever is there, and on every client from now on."""
        self.hangs_up = True
        _shut(self.clients.values())

    def refuse(self) -> None:
        """Refuse everybody from this moment; the sockets are closed by their tasks."""
        _shut((*self.listeners, *self.clients.values()))


class Host:
    """All of them."""

    def __init__(self, folder: Path, *, truths: bool = True, log: UpdatesLog | None = None) -> None:
        """Take a folder for the sockets.

        Args:
            folder: short: a socket's path may have 107 bytes.
            truths: whether each VM has a second monitor.
            log: of updates.
        """
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self._truths = truths
        self._log = log
        self._heap: list[tuple[int, str]] = []
        self._wake = anyio.Event()
        self._group: TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Let time pass, until cancelled."""
        async with anyio.create_task_group() as self._group:
            task_status.started()
            while True:
                await self._wait(self._turn())

    async def _wait(self, due_ns: int | None) -> None:
        self._wake = anyio.Event()
        wait_s = 3600.0 if due_ns is None else max((due_ns - time.monotonic_ns()) / 1e9, 0)
        with anyio.move_on_after(wait_s):
            await self._wake.wait()

    def _turn(self) -> int | None:
        """Do what is due; return when to come back."""
        now = clocks()
        while self._heap and self._heap[0][0] <= now.mono_ns:
            due_ns, name = heapq.heappop(self._heap)
            process = self.processes.get(name)
            if process is None or process.scheduled_ns != due_ns or process.machine is None or process.held:
                continue
            process.scheduled_ns = None
            process.machine.advance(clocks())
            self.schedule(process)
        dues = [self._heap[0][0]] if self._heap else []
        if self._log is not None and (flush_ns := self._log.due_ns()) is not None:
            if flush_ns <= now.mono_ns:
                self._log.flush(now.mono_ns)
            else:
                dues.append(flush_ns)
        return min(dues, default=None)

    def flush_log(self) -> None:
        """Write what the log has."""
        if self._log is not None:
            self._log.flush(time.monotonic_ns())

    def schedule(self, process: Process) -> None:
        """After anything was done to a machine."""
        machine = process.machine
        if machine is None or process.held:
            return
        if machine.exited:
            self.end(process, unlink=True)
            return
        due_ns = machine.due_ns()
        if due_ns is None or due_ns == process.scheduled_ns:
            return
        process.scheduled_ns = due_ns
        if not self._heap or due_ns < self._heap[0][0]:
            self._wake.set()
        heapq.heappush(self._heap, (due_ns, process.spec.name))

    def add(self, spec: Spec) -> Process:
        """Start a QEMU.

        Raises:
            Refused: there is one of that name.
        """
        if spec.name in self.processes:
            raise Refused(f"{spec.name} exists")
        process = self.processes[spec.name] = Process(spec, self.folder)
        self.start(process)
        return process

    def start(self, process: Process) -> None:
        """Start its process (again), on the same paths."""
        assert self._group is not None
        self.end(process)
        process.hold(frozen=False, wedged=False)
        process.scope, process.scheduled_ns = anyio.CancelScope(), None
        process.listeners = listeners = [_listen(path) for path in self._paths(process)]
        process.machine = Machine(
            process.spec, clocks(), find_incoming=self._incoming, touched=self._touched, updated=self._updated
        )
        self._group.start_soon(self._live, process, process.machine, process.scope, listeners)
        self.schedule(process)

    def end(self, process: Process, *, unlink: bool = False) -> None:
        """End its process: killed, its sockets' files stay; at its own end it removes them."""
        process.machine = None
        process.refuse()
        process.scope.cancel()
        if unlink:
            for path in self._paths(process):
                path.unlink(missing_ok=True)

    def flood(self, process: Process, rate: float) -> None:
        """Send so many events a second to each of its clients; 0: no more."""
        assert self._group is not None
        was, process.flood_s = process.flood_s, 1 / rate if rate else None
        if process.flood_s is not None and was is None:
            self._group.start_soon(self._flood, process)

    async def _flood(self, process: Process) -> None:
        sent, since_s = 0, time.monotonic()
        while process.flood_s is not None:
            now = clocks()
            if process.machine is None or process.held:
                sent, since_s = 0, time.monotonic()
            elif (time.monotonic() - since_s) / process.flood_s > sent:
                for _ in range(50):
                    process.machine.events.emit("RTC_CHANGE", {"offset": sent}, now.mono_ns, now.wall_ns)
                    sent += 1
            await anyio.sleep(min(process.flood_s * 50, 0.01))

    def _paths(self, process: Process) -> list[Path]:
        return [process.qmp, process.truth] if self._truths else [process.qmp]

    def _incoming(self, address: str) -> Machine | None:
        for process in self.processes.values():
            machine = process.machine
            if machine and machine.run_state == "inmigrate" and process.spec.incoming == address:
                return None if process.held else machine
        return None

    def _touched(self, machine: Machine) -> None:
        self.schedule(self.processes[machine.spec.name])

    def _updated(self, machine: Machine, now: Now) -> None:
        if self._log is not None and machine.balloon is not None:
            truth = self.processes[machine.spec.name].truth
            self._log.write(truth, machine.balloon.last_update_s, machine.guest_stats_json(), now.wall_ns)

    # ---- sockets

    async def _live(
        self, process: Process, machine: Machine, scope: anyio.CancelScope, listeners: list[socket.socket]
    ) -> None:
        with ExitStack() as sockets, scope:
            for listener in listeners:
                sockets.enter_context(listener)
            async with anyio.create_task_group() as group:
                for listener in listeners:
                    group.start_soon(self._serve, process, machine, listener, group)

    async def _serve(
        self, process: Process, machine: Machine, listener: socket.socket, group: TaskGroup
    ) -> None:
        """Serve one client after the other."""
        while True:
            await anyio.wait_readable(listener)
            await process.may_accept.wait()
            with suppress(BlockingIOError):
                connection, _ = listener.accept()
                with connection:
                    connection.setblocking(False)
                    process.clients[connection.fileno()] = connection
                    session = Session(machine, _Outbox(connection, group).send)
                    try:
                        if not process.hangs_up:
                            await self._converse(process, session, connection)
                    finally:
                        session.close()
                        process.clients.pop(connection.fileno(), None)

    async def _converse(self, process: Process, session: Session, connection: socket.socket) -> None:
        while not process.hangs_up:
            await anyio.wait_readable(connection)
            if process.held:
                await process.may_read.wait()
            try:
                data = connection.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            session.receive(data, clocks())
            self.schedule(process)


def _shut(sockets: Iterable[socket.socket]) -> None:
    for each in tuple(sockets):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(os.fspath(path))
    listener.listen(1)
    return listener
