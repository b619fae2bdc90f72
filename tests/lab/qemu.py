"""Real QEMUs, with and without a guest. Whatever starts here dies with the process that started it."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tests.lab import setup

BALLOON = "/machine/peripheral/balloon0"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when this process ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Monitor:
    """A blocking QMP client for one more monitor than the agent's. Not the agent's code, on purpose."""

    def __init__(self, path: Path, timeout_s: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._stream = self._socket.makefile("rwb")
        self.greeting = self._read()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> object:
        """Return the answer's `return`.

        Raises:
            RuntimeError: QEMU said no.
        """
        self._stream.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self._stream.flush()
        while True:
            message = self._read()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise RuntimeError(f"{name}: {message['error']}")

    def get(self, name: str, path: str = BALLOON) -> object:
        """Return a QOM property."""
        return self.command("qom-get", path=path, property=name)

    def guest_stats(self) -> tuple[int, dict[str, int]]:
        """Return last-update, and the statistics as on the wire."""
        answer = cast(dict[str, object], self.get("guest-stats"))
        return cast(int, answer["last-update"]), cast(dict[str, int], answer["stats"])

    def set_interval(self, interval_s: int) -> None:
        """Set the polling interval, as another client would."""
        self.command("qom-set", path=BALLOON, property="guest-stats-polling-interval", value=interval_s)

    def interval_s(self) -> int:
        """Read the polling interval."""
        return cast(int, self.get("guest-stats-polling-interval"))

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the monitor to others."""
        self._stream.close()
        self._socket.close()

    def _read(self) -> dict[str, object]:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("QEMU has hung up")
        return cast(dict[str, object], json.loads(line))


class Vm:
    """One QEMU process. `qmp` is the agent's monitor, `truth` the tests' own."""

    def __init__(self, folder: Path, name: str, argv: Sequence[str]) -> None:
        self.name = name
        self.folder = folder
        self.qmp = folder / f"{name}.qmp"
        self.truth = folder / f"{name}.truth"
        self.console = folder / f"{name}.console"
        self._orders_path = folder / f"{name}.orders"
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return once both monitors listen."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        self.monitor().close()  # truth is bound after qmp

    def monitor(self) -> Monitor:
        """Open the tests' own monitor."""
        return Monitor(self.truth)

    def order(self, words: str, timeout_s: float = 30.0) -> None:
        """Give the guest an order and wait until it has followed it.

        Raises:
            RuntimeError: the guest could not.
        """
        if self._orders is None:
            self._orders = socket.socket(socket.AF_UNIX)
            self._orders.connect(str(self._orders_path))
        self._orders.settimeout(timeout_s)
        self._orders.sendall(words.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            got = self._orders.recv(100)
            if not got:
                raise RuntimeError(f"{self.name}: {words}: QEMU is gone")
            answer += got
        if answer.strip() != b"ok":
            raise RuntimeError(f"{self.name}: {words}: the guest says {answer!r}")

    def wait_until_booted(self, timeout_s: float = 60.0) -> None:
        """Return once the guest takes orders."""
        deadline = time.monotonic() + timeout_s
        while b"ready" not in (self.console.read_bytes() if self.console.exists() else b""):
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} did not boot; see {self.console}")
            time.sleep(0.05)

    def freeze(self) -> None:
        """SIGSTOP: a wedged QEMU."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; the sockets' files stay, as they do."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._orders is not None:
            self._orders.close()
            self._orders = None

    def restart(self) -> None:
        """Another process on the same paths."""
        self.kill()
        self.console.unlink(missing_ok=True)
        self.start()


def _monitors(folder: Path, name: str) -> list[str]:
    return [
        *("-qmp", f"unix:{folder / name}.qmp,server=on,wait=off"),
        *("-qmp", f"unix:{folder / name}.truth,server=on,wait=off"),
    ]


@contextmanager
def bare(folder: Path, name: str, *extra: str) -> Generator[Vm]:
    """A QEMU without a machine: answers QMP within milliseconds, has no balloon."""
    argv = [str(setup.qemu()), "-machine", "none", "-nodefaults", "-display", "none", "-S"]
    vm = Vm(folder, name, [*argv, *_monitors(folder, name), *extra])
    try:
        yield vm
    finally:
        vm.kill()


@contextmanager
def guest(
    folder: Path,
    name: str,
    *extra: str,
    driver: bool = True,
    balloon: bool = True,
    uuid: str | None = None,
    booted: bool = True,
) -> Generator[Vm]:
    """A real Linux guest of 128 MiB under TCG: boots in about 3 s.

    Args:
        folder: short, for its sockets.
        name: of the VM and of its files.
        extra: more of QEMU's arguments.
        driver: whether the guest loads virtio_balloon while it boots.
        balloon: whether it has the device.
        uuid: none by default.
        booted: wait until it takes orders.
    """
    image = setup.guest()
    words = "console=ttyS0 quiet random.trust_cpu=on panic=0" + ("" if driver else " barograph.balloon=off")
    argv = [
        *(str(setup.qemu()), "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "128", "-name", name),
        *("-nodefaults", "-display", "none", "-append", words),
        *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.gz")),
        *("-serial", f"file:{folder / name}.console"),
        *("-serial", f"unix:{folder / name}.orders,server=on,wait=off"),
        *(("-device", "virtio-balloon-pci,id=balloon0") if balloon else ()),
        *(("-uuid", uuid) if uuid else ()),
    ]
    vm = Vm(folder, name, [*argv, *_monitors(folder, name), *extra])
    try:
        if booted:
            vm.wait_until_booted()
        yield vm
    finally:
        vm.kill()
