"""A simulated host: many QEMU processes in one, their sockets, and the passage of time."""

import heapq
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from simulator.qemu import Now, Qemu, Refused
from simulator.qemu_process import Outbox, QemuProcess, listen
from simulator.qmp_session import Session
from simulator.spec import Spec
from simulator.updates_log import UpdatesLog


def clocks() -> Now:
    """Read both clocks of the host."""
    return Now(time.monotonic_ns(), time.time_ns())


class Host:
    """Runs the processes of all simulated VMs."""

    def __init__(self, folder: Path, *, truths: bool = True, log: UpdatesLog | None = None) -> None:
        """Create a host without VMs.

        Args:
            folder: holds the sockets; the path of a socket has at most 107 bytes (unix(7)).
            truths: whether each VM has the monitor `truth`.
            log: receives the updates.
        """
        self.folder = folder
        self.processes: dict[str, QemuProcess] = {}
        self._truths = truths
        self._log = log
        self._heap: list[tuple[int, str]] = []
        self._wake = anyio.Event()
        self._group: TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the VMs until canceled."""
        async with anyio.create_task_group() as self._group:
            task_status.started()
            while True:
                await self._wait(self._advance())

    async def _wait(self, due_ns: int | None) -> None:
        self._wake = anyio.Event()
        wait_s = 3600.0 if due_ns is None else max((due_ns - time.monotonic_ns()) / 1e9, 0)
        with anyio.move_on_after(wait_s):
            await self._wake.wait()

    def _advance(self) -> int | None:
        """Do everything that is due; return when something is due next."""
        now = clocks()
        while self._heap and self._heap[0][0] <= now.mono_ns:
            due_ns, name = heapq.heappop(self._heap)
            process = self.processes.get(name)
            if process is None or process.scheduled_ns != due_ns or process.qemu is None or process.stuck:
                continue
            process.scheduled_ns = None
            process.qemu.advance(clocks())
            self.schedule(process)
        dues = [self._heap[0][0]] if self._heap else []
        if self._log is not None and (flush_ns := self._log.due_ns()) is not None:
            if flush_ns <= now.mono_ns:
                self._log.flush(now.mono_ns)
            else:
                dues.append(flush_ns)
        return min(dues, default=None)

    def flush_log(self) -> None:
        """Make the log so far visible to readers."""
        if self._log is not None:
            self._log.flush(time.monotonic_ns())

    def schedule(self, process: QemuProcess) -> None:
        """Schedule the next event of a process; call this after every change of its `qemu`."""
        qemu = process.qemu
        if qemu is None or process.stuck:
            return
        if qemu.exited:
            self.end(process, unlink=True)
            return
        due_ns = qemu.due_ns()
        if due_ns is None or due_ns == process.scheduled_ns:
            return
        process.scheduled_ns = due_ns
        if not self._heap or due_ns < self._heap[0][0]:
            self._wake.set()
        heapq.heappush(self._heap, (due_ns, process.spec.name))

    def add(self, spec: Spec) -> QemuProcess:
        """Start a VM.

        Raises:
            Refused: a VM with this name exists.
        """
        if spec.name in self.processes:
            raise Refused(f"VM {spec.name!r} already exists")
        process = self.processes[spec.name] = QemuProcess(spec, self.folder)
        self.start(process)
        return process

    def start(self, process: QemuProcess) -> None:
        """Start a process, or start it again on the same paths."""
        assert self._group is not None
        self.end(process)
        process.set_stuck(frozen=False, wedged=False)
        process.scope, process.scheduled_ns = anyio.CancelScope(), None
        process.listeners = listeners = [listen(path) for path in self._paths(process)]
        process.qemu = Qemu(
            process.spec,
            clocks(),
            find_incoming=self._find_incoming,
            on_change=self._on_change,
            on_update=self._on_update,
        )
        self._group.start_soon(self._run_process, process, process.qemu, process.scope, listeners)
        self.schedule(process)

    def end(self, process: QemuProcess, *, unlink: bool = False) -> None:
        """End a process; its socket files stay, as after a kill, unless `unlink` is set."""
        process.qemu = None
        process.shut_down_sockets()
        process.scope.cancel()
        if unlink:
            for path in self._paths(process):
                path.unlink(missing_ok=True)

    def flood(self, process: QemuProcess, rate: float) -> None:
        """Send `rate` events per second to each client of a process; 0 ends it."""
        assert self._group is not None
        before, process.flood_s = process.flood_s, 1 / rate if rate else None
        if process.flood_s is not None and before is None:
            self._group.start_soon(self._flood, process)

    async def _flood(self, process: QemuProcess) -> None:
        sent, since_s = 0, time.monotonic()
        while process.flood_s is not None:
            now = clocks()
            if process.qemu is None or process.stuck:
                sent, since_s = 0, time.monotonic()
            elif (time.monotonic() - since_s) / process.flood_s > sent:
                for _ in range(50):
                    process.qemu.events.emit("RTC_CHANGE", {"offset": sent}, now.mono_ns, now.wall_ns)
                    sent += 1
            await anyio.sleep(min(process.flood_s * 50, 0.01))

    def _paths(self, process: QemuProcess) -> list[Path]:
        return [process.qmp, process.truth] if self._truths else [process.qmp]

    def _find_incoming(self, address: str) -> Qemu | None:
        for process in self.processes.values():
            qemu = process.qemu
            if qemu and qemu.run_state == "inmigrate" and process.spec.incoming == address:
                return None if process.stuck else qemu
        return None

    def _on_change(self, qemu: Qemu) -> None:
        self.schedule(self.processes[qemu.spec.name])

    def _on_update(self, qemu: Qemu, now: Now) -> None:
        if self._log is not None and qemu.balloon is not None:
            truth = self.processes[qemu.spec.name].truth
            self._log.write(truth, qemu.balloon.last_update_s, qemu.guest_stats_json(), now.wall_ns)

    # ---- sockets

    async def _run_process(
        self, process: QemuProcess, qemu: Qemu, scope: anyio.CancelScope, listeners: list[socket.socket]
    ) -> None:
        with ExitStack() as sockets, scope:
            for listener in listeners:
                sockets.enter_context(listener)
            async with anyio.create_task_group() as group:
                for listener in listeners:
                    group.start_soon(self._serve_clients, process, qemu, listener, group)

    async def _serve_clients(
        self, process: QemuProcess, qemu: Qemu, listener: socket.socket, group: TaskGroup
    ) -> None:
        """Serve the clients of a monitor, one at a time."""
        while True:
            await anyio.wait_readable(listener)
            await process.may_accept.wait()
            with suppress(BlockingIOError):
                connection, _ = listener.accept()
                with connection:
                    connection.setblocking(False)
                    process.clients[connection.fileno()] = connection
                    session = Session(qemu, Outbox(connection, group).send)
                    try:
                        if not process.hangs_up:
                            await self._serve_session(process, session, connection)
                    finally:
                        session.close()
                        process.clients.pop(connection.fileno(), None)

    async def _serve_session(self, process: QemuProcess, session: Session, connection: socket.socket) -> None:
        while not process.hangs_up:
            await anyio.wait_readable(connection)
            if process.stuck:
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
