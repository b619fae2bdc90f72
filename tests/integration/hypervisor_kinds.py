"""The kinds of VM on which the contract tests run, and their clients."""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Protocol, cast

from tests.lab import qemu
from tests.lab.qemu import BALLOON
from tests.lab.sim import Hypervisor, simulated

Shape = Literal["usual", "bare", "anonymous", "silent", "pluggable", "saved", "destination", "transitional"]

INTERVAL = "guest-stats-polling-interval"
UNSET = 2**64 - 1
QUICK_S = 10.0  # limit on a busy host for what usually happens at once


class Guest(Protocol):
    """What every kind of VM supports."""

    def order(self, order: str, /, timeout_s: float = 30.0) -> object: ...


class Vm(Guest, Protocol):
    """What VMs with a monitor of their own for the tests support."""

    truth: Path
    qmp: Path

    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...


class Watcher:
    """What any client can do with a VM and its balloon; names and units are QEMU's."""

    def stats(self) -> tuple[int, dict[str, int]]:
        """Return last-update and the statistics; unset ones are `UNSET` or absent."""
        raise NotImplementedError

    def interval(self, value: object) -> object:
        """Set the polling interval; the result is `{}` on success."""
        raise NotImplementedError

    def interval_now(self) -> int:
        """Return the polling interval."""
        raise NotImplementedError

    def pause(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError

    def run_state(self) -> str:
        raise NotImplementedError

    def resize(self, size_bytes: int) -> None:
        """Resize the guest's memory by its balloon."""
        raise NotImplementedError

    def actual(self) -> int:
        """Return the memory that the balloon leaves to the guest, in bytes."""
        raise NotImplementedError

    def wait_for(self, names: list[str], timeout_s: float = 180.0) -> list[dict[str, object]]:
        """Return the events up to the last of `names`, which must arrive in that order."""
        raise NotImplementedError

    def silence(self, duration_s: float) -> None:
        """Assert that no message arrives."""
        raise NotImplementedError

    def next_update(
        self,
        timeout_s: float = 180.0,
        *,
        after: tuple[int, dict[str, int]] | None = None,
        every_s: float = 0.004,
    ) -> tuple[float, int]:
        """Return when (monotonic) the reading first differs from now or from `after`, and its last-update."""
        before = self.stats() if after is None else after
        deadline = time.monotonic() + timeout_s
        while (now := self.stats()) == before:
            assert time.monotonic() < deadline, f"still {before[0]}"
            time.sleep(every_s)
        return time.monotonic(), now[0]

    def stands(self, duration_s: float) -> None:
        """Assert that the reading does not change."""
        before = self.stats()
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            assert self.stats() == before
            time.sleep(0.05)


class Client(Watcher):
    """A QMP client that records answers and events in the order of their arrival."""

    def __init__(self, path: Path, *, negotiate: bool = True) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._rest = b""
        self.events: list[dict[str, object]] = []
        self.greeting: dict[str, object] | None = None
        if negotiate:
            self.greeting = self.receive()
            assert self.ask("qmp_capabilities") == {}

    def receive(self, timeout_s: float = 120.0) -> dict[str, object] | None:
        """Return the next message; `None`: none arrived in time."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                got = self._socket.recv(65536)
            except TimeoutError:
                return None
            if not got:
                raise ConnectionError("disconnected")
            self._rest += got
        line, self._rest = self._rest.split(b"\n", 1)
        return cast(dict[str, object], json.loads(line))

    def send(self, data: bytes) -> None:
        """Send bytes unchanged."""
        self._socket.sendall(data)

    def answer(self, timeout_s: float = 120.0) -> dict[str, object] | None:
        """Return the next answer; earlier events are kept for `wait_for`."""
        while (message := self.receive(timeout_s)) is not None and "event" in message:
            self.events.append(message)
        return message

    def ask(self, command: str, **arguments: object) -> object:
        """Send a command; return the value of `return`, or class and description of the error."""
        self.send(json.dumps({"execute": command, "arguments": arguments}).encode())
        answer = self.answer()
        assert answer is not None
        if "return" in answer:
            return answer["return"]
        error = cast(dict[str, str], answer["error"])
        return error["class"], error["desc"]

    def wait_for(self, names: list[str], timeout_s: float = 180.0) -> list[dict[str, object]]:
        missing = list(names)
        seen = self.events[:]
        self.events.clear()
        for event in seen:
            if missing and event["event"] == missing[0]:
                missing.pop(0)
        deadline = time.monotonic() + timeout_s
        while missing:
            message = self.receive(max(deadline - time.monotonic(), 0.001))
            assert message is not None, f"no {missing}, but {seen}"
            seen.append(message)
            if message.get("event") == missing[0]:
                missing.pop(0)
        return seen

    def silence(self, duration_s: float) -> None:
        assert self.receive(duration_s) is None

    # the balloon; a test may change its path

    balloon = BALLOON

    def interval(self, value: object) -> object:
        return self.ask("qom-set", path=self.balloon, property=INTERVAL, value=value)

    def interval_now(self) -> int:
        return cast(int, self.ask("qom-get", path=self.balloon, property=INTERVAL))

    def stats(self) -> tuple[int, dict[str, int]]:
        answer = cast(dict[str, object], self.ask("qom-get", path=self.balloon, property="guest-stats"))
        return cast(int, answer["last-update"]), cast(dict[str, int], answer["stats"])

    def resize(self, size_bytes: int) -> None:
        assert self.ask("balloon", value=size_bytes) == {}

    def actual(self) -> int:
        return cast(dict[str, int], self.ask("query-balloon"))["actual"]

    # the VM

    def pause(self) -> None:
        assert self.ask("stop") == {}

    def resume(self) -> None:
        assert self.ask("cont") == {}

    def reset(self) -> None:
        assert self.ask("system_reset") == {}

    def run_state(self) -> str:
        return cast(dict[str, str], self.ask("query-status"))["status"]

    def close(self) -> None:
        self._socket.close()


def make_disk(folder: Path, disk: Path) -> None:
    """Create an empty qcow2 image by QMP commands, since `qemu-img` is a package of its own."""
    size = 256 << 20  # room for a snapshot
    with qemu.bare(folder, "maker") as maker, maker.monitor() as monitor:

        def run(**options: object) -> None:
            monitor.command("blockdev-create", **{"job-id": "job", "options": options})
            while not (jobs := cast(list[dict[str, str]], monitor.command("query-jobs"))) or (
                jobs[0]["status"] != "concluded"
            ):
                time.sleep(0.01)
            assert "error" not in jobs[0], jobs
            monitor.command("job-dismiss", id="job")

        run(driver="file", filename=str(disk), size=0)
        monitor.command("blockdev-add", driver="file", filename=str(disk), **{"node-name": "file"})
        run(driver="qcow2", file="file", size=size)


class AnyKind:
    """Creates VMs of one kind, and clients for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = ExitStack()

    def guest(self, shape: Literal["usual", "silent"] = "usual") -> Guest:
        raise NotImplementedError

    def watch(self, guest: Guest) -> Watcher:
        raise NotImplementedError


class Kind(AnyKind):
    """Creates VMs with a second monitor for the tests."""

    def guest(self, shape: Literal["usual", "silent"] = "usual") -> Guest:
        return self.vm(shape)

    def watch(self, guest: Guest) -> Watcher:
        return self.client(cast(Vm, guest))

    def vm(self, shape: Shape = "usual", name: str = "vm") -> Vm:
        raise NotImplementedError

    def client(self, vm: Vm, *, negotiate: bool = True) -> Client:
        client = Client(vm.truth, negotiate=negotiate)
        self.stack.callback(client.close)
        return client

    def wedge(self, vm: Vm) -> Callable[[], None]:
        raise NotImplementedError


class Real(Kind):
    def vm(self, shape: Shape = "usual", name: str = "vm") -> Vm:
        enter = self.stack.enter_context
        incoming = f"unix:{self.folder}/incoming"
        match shape:
            case "usual":
                return enter(qemu.guest(self.folder, name, uuid="11111111-2222-4333-8444-555555555555"))
            case "bare":
                return enter(qemu.bare(self.folder, name))
            case "anonymous":
                return enter(qemu.guest(self.folder, name, "-device", "virtio-balloon-pci", balloon=False))
            case "transitional":
                extra = ("-device", "virtio-balloon-pci-transitional,id=balloon0")
                return enter(qemu.guest(self.folder, name, *extra, balloon=False))
            case "silent":
                return enter(qemu.guest(self.folder, name, driver=False))
            case "pluggable":
                return enter(qemu.guest(self.folder, name, "-M", "pc"))
            case "destination":
                return enter(qemu.guest(self.folder, name, "-incoming", incoming, booted=False))
            case "saved":
                disk = self.folder / "disk.qcow2"
                make_disk(self.folder, disk)
                return enter(qemu.guest(self.folder, name, "-drive", f"file={disk},if=none,format=qcow2"))

    def wedge(self, vm: Vm) -> Callable[[], None]:
        """Block QEMU's main loop by making it open a pipe without a writer; return what unblocks it."""
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        blocker = Client(vm.qmp)
        self.stack.callback(blocker.close)
        node = {"driver": "file", "filename": str(pipe), "node-name": "stuck", "read-only": True}
        blocker.send(json.dumps({"execute": "blockdev-add", "arguments": node}).encode())
        pid = cast(qemu.Vm, vm).pid
        deadline = time.monotonic() + 60
        while not _opens_a_file(pid):
            assert time.monotonic() < deadline, "QEMU does not open the pipe"
            time.sleep(0.01)

        def let_go() -> None:
            os.close(os.open(pipe, os.O_WRONLY))

        return let_go


def _opens_a_file(pid: int) -> bool:
    """Return whether the main thread is in `openat` (proc_pid_syscall(5)), or true if that is hidden."""
    try:
        number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    except OSError:
        time.sleep(2)
        return True
    return number == {"x86_64": "257"}.get(os.uname().machine, "56")


class Simulated(Kind):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hypervisor: Hypervisor = self.stack.enter_context(simulated(folder))

    def vm(self, shape: Shape = "usual", name: str = "vm") -> Vm:
        specs: dict[Shape, dict[str, object]] = {
            "usual": {"uuid": "11111111-2222-4333-8444-555555555555"},
            "bare": {"bus": "none", "paused": True, "memory_bytes": 0, "title": None},
            "anonymous": {"id": None},
            "transitional": {"bus": "pci-transitional"},
            "silent": {"guest": "silent"},
            "pluggable": {"hotplug": True},
            "destination": {"incoming": f"unix:{self.folder}/incoming"},
            "saved": {},
        }
        return self.hypervisor.add(name, version="7.2", boot_s=1.0, **specs[shape])

    def wedge(self, vm: Vm) -> Callable[[], None]:
        vm.order("wedge")

        def let_go() -> None:
            vm.order("unwedge")

        return let_go
