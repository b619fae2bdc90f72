"""Real QEMUs, with and without a guest. Whatever starts here dies with the process that started it."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

from tests.lab import setup
from tests.lab.boot_slot import boot_slot
from tests.lab.process import kill, start, wait_until

BALLOON = "/machine/peripheral/balloon0"


class Monitor:
    """A blocking QMP client for one more monitor than the agent's. Not the agent's code, on purpose."""

    def __init__(self, path: Path, timeout_s: float = 10.0, *, patience_s: float = 10.0) -> None:
        """Connect, waiting for a listener at most `patience_s`, and for each answer at most `timeout_s`."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._stream = self._socket.makefile("rwb")
        self._event_ms: dict[str, float] = {}
        try:
            self._connect(path, patience_s)
            self.greeting = self._read()
            self.command("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _connect(self, path: Path, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self._socket.connect(str(path))
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

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
            self._note(message)

    def event_ms(self, name: str) -> float:
        """Wait for an event since the monitor was opened; return when it was, in Unix milliseconds."""
        while name not in self._event_ms:
            self._note(self._read())
        return self._event_ms[name]

    def _note(self, message: dict[str, object]) -> None:
        if "event" in message:
            at = cast(dict[str, int], message["timestamp"])
            self._event_ms[str(message["event"])] = at["seconds"] * 1000 + at["microseconds"] / 1000

    @property
    def version(self) -> tuple[int, int, int]:
        """QEMU's version, as it greeted."""
        said = cast(dict[str, dict[str, dict[str, int]]], self.greeting["QMP"])["version"]["qemu"]
        return said["major"], said["minor"], said["micro"]

    def human(self, words: str) -> None:
        """Have a command of the human monitor carried out.

        Raises:
            RuntimeError: it said something, which is how it complains.
        """
        said = self.command("human-monitor-command", **{"command-line": words})
        if said:
            raise RuntimeError(f"{words}: {said}")

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

    def wait_for_update(self, timeout_s: float = 90.0) -> int:
        """Return the `last-update` of the first update after now. The interval must be set.

        Raises:
            TimeoutError: none came: no driver in the guest, or it does not answer.
        """
        before, _ = self.guest_stats()
        deadline = time.monotonic() + timeout_s
        while (now := self.guest_stats()[0]) <= before:
            if time.monotonic() > deadline:
                raise TimeoutError(f"last-update is still {now} after {timeout_s} s")
            time.sleep(0.01)
        return now

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the monitor to others. Harmless where QEMU has hung up, whatever it was not told."""
        with suppress(ConnectionError):
            self._stream.close()
        self._socket.close()

    def _read(self) -> dict[str, object]:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("QEMU has hung up")
        return cast(dict[str, object], json.loads(line))


class Orders:
    """A guest's second serial port, from which it takes orders: see `guest_init.sh`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def give(self, words: str, timeout_s: float = 30.0) -> None:
        """Give an order and wait until it has been followed.

        Raises:
            RuntimeError: the guest could not, or its QEMU is gone.
        """
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(str(self._path))
        self._socket.settimeout(timeout_s)
        self._socket.sendall(words.encode() + b"\n")
        answer = b""
        try:
            while not answer.endswith(b"\n"):
                got = self._socket.recv(100)
                if not got:
                    raise RuntimeError(f"{self._path.stem}: {words}: QEMU is gone")
                answer += got
        except BaseException:
            self.forget()  # a late answer must not pass for the next one's
            raise
        if answer.strip() != b"ok":
            raise RuntimeError(f"{self._path.stem}: {words}: the guest says {answer!r}")

    def forget(self) -> None:
        """Leave the port; the next order comes to it anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Vm:
    """One QEMU process. `qmp` is the agent's monitor, `truth` the tests' own."""

    def __init__(
        self, folder: Path, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.folder = folder
        self.qmp = folder / f"{name}.qmp"
        self.truth = folder / f"{name}.truth"
        self.console = folder / f"{name}.console"
        self.log = folder / f"{name}.log"
        self._orders = Orders(folder / f"{name}.orders")
        self.hands = folder / f"{name}.hands"  # theirs to act through, while an observer has `truth`
        self._argv = argv
        self._env = None if env is None else {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._boots = 1
        self.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return once its monitors answer.

        Raises:
            RuntimeError: QEMU did not; the message has its log.
        """
        self._process = start(self._argv, self.log, env=self._env)
        self._boots = 1
        try:
            wait_until(self._answers, self.name, self._process, self.log, 20)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        try:
            Monitor(self.hands, patience_s=0).close()
        except (FileNotFoundError, ConnectionError):
            return False
        return True

    def monitor(self) -> Monitor:
        """Open the tests' own monitor."""
        return Monitor(self.truth)

    def order(self, words: str, timeout_s: float = 90.0) -> None:
        """Give the guest an order and wait until it has followed it.

        Raises:
            RuntimeError: the guest could not.
        """
        self._orders.give(words, timeout_s)
        if words == "reboot":
            self._boots += 1

    def wait_until_booted(self, timeout_s: float = 180.0) -> None:
        """Return once the guest takes orders; after the order `reboot`, once it does so again.

        Raises:
            RuntimeError: it did not; the message has the path of its console.
        """
        assert self._process is not None

        def ready() -> bool:
            return self.console.exists() and self.console.read_bytes().count(b"ready") >= self._boots

        wait_until(ready, f"{self.name} boots, see {self.console}", self._process, self.log, timeout_s)

    def freeze(self) -> None:
        """SIGSTOP: a wedged QEMU."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; the sockets' files stay, as they do."""
        if self._process is not None:
            kill(self._process)
            self._process = None
        self._orders.forget()

    def restart(self) -> None:
        """Another process on the same paths."""
        self.kill()
        self.console.unlink(missing_ok=True)
        self.start()


def _monitors(folder: Path, name: str) -> list[str]:
    return [
        *("-qmp", f"unix:{folder / name}.qmp,server=on,wait=off"),
        *("-qmp", f"unix:{folder / name}.truth,server=on,wait=off"),
        *("-qmp", f"unix:{folder / name}.hands,server=on,wait=off"),
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
def idle(folder: Path, name: str, *extra: str, command: Sequence[str] = ()) -> Generator[Vm]:
    """A running QEMU with a balloon and nothing to boot: its interval can be set, no update ever comes."""
    argv = [*(command or (str(setup.qemu()),)), "-M", "q35", "-accel", "tcg", "-m", "64", "-name", name]
    device = ["-nodefaults", "-display", "none", "-device", "virtio-balloon-pci,id=balloon0"]
    vm = Vm(folder, name, [*argv, *device, *_monitors(folder, name), *extra])
    try:
        yield vm
    finally:
        vm.kill()


def kernel_words(*, driver: bool) -> str:
    """Return the command line of a guest's kernel; without `driver` it loads virtio_balloon only on order."""
    words = "console=ttyS0 quiet random.trust_cpu=on panic=0 iomem=relaxed memhp_default_state=online"
    return words if driver else f"{words} barograph.balloon=off"


@contextmanager
def guest(
    folder: Path,
    name: str,
    *extra: str,
    driver: bool = True,
    balloon: bool = True,
    uuid: str | None = None,
    booted: bool = True,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    image: Path | None = None,
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
        env: variables for QEMU on top of ours.
        command: which QEMU, with arguments that make it find its files; the machine's by default.
        image: the folder of the kernel and its initrd; `setup.guest()` by default.
    """
    image = image or setup.guest()
    words = kernel_words(driver=driver)
    argv = [
        *(command or (str(setup.qemu()),)),
        *("-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "128", "-name", name),
        *("-nodefaults", "-display", "none", "-append", words),
        *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.gz")),
        *("-serial", f"file:{folder / name}.console"),
        *("-serial", f"unix:{folder / name}.orders,server=on,wait=off"),
        *(("-device", "virtio-balloon-pci,id=balloon0") if balloon else ()),
        *(("-uuid", uuid) if uuid else ()),
    ]
    with boot_slot() if booted else nullcontext():
        vm = Vm(folder, name, [*argv, *_monitors(folder, name), *extra], env)
        try:
            if booted:
                vm.wait_until_booted()
        except BaseException:
            vm.kill()
            raise
    try:
        yield vm
    finally:
        vm.kill()
