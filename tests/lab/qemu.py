"""Real QEMUs, with and without a guest. They die with the process that started them."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import cast

from tests.lab import setup
from tests.lab.boot_slot import boot_slot
from tests.lab.cache import made, place, run
from tests.lab.monitor import BALLOON, Monitor, Orders
from tests.lab.process import freeze, kill, start, thaw, wait_until

__all__ = ["BALLOON", "Monitor", "Orders", "Vm", "bare", "guest", "idle", "kernel_words"]


class Vm:
    """One QEMU process. `qmp` is the agent's monitor, `truth` the tests' own."""

    def __init__(
        self,
        folder: Path,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        state: Path | None = None,
    ) -> None:
        """Start QEMU. `state` is a file written by `save`, which it resumes instead of booting."""
        self.name = name
        self.folder = folder
        self.qmp = folder / f"{name}.qmp"
        self.truth = folder / f"{name}.truth"
        self.console = folder / f"{name}.console"
        self.log = folder / f"{name}.log"
        self._orders = Orders(folder / f"{name}.orders")
        self.hands = folder / f"{name}.hands"  # the tests' monitor for commands while an observer has `truth`
        self._argv = argv
        self._env = None if env is None else {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._boots = 1
        self.start(state)

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, state: Path | None = None) -> None:
        """Start QEMU. Return once its monitors answer and, with a saved state, once the VM runs.

        Raises:
            RuntimeError: QEMU failed to start; the message has the end of its log.
        """
        resumed = () if state is None else ("-incoming", f"exec:cat {state}")
        self._process = start([*self._argv, *resumed], self.log, env=self._env)
        self._boots = 0 if resumed else 1
        try:
            wait_until(self._answers, self.name, self._process, self.log, 120)
            if resumed:
                wait_until(self._runs, f"{self.name} resumes", self._process, self.log, 120)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        try:
            Monitor(self.hands, patience_s=0).close()
        except (FileNotFoundError, ConnectionError):
            return False
        return True

    def _runs(self) -> bool:
        with Monitor(self.hands) as monitor:
            return cast(dict[str, bool], monitor.command("query-status"))["running"]

    def save(self, state: Path) -> None:
        """Write the VM's state to a file that QEMUs with the same devices can resume. The VM stops.

        Free memory is zeroed first, so that it takes no space.

        Raises:
            RuntimeError: QEMU cannot save the state.
        """
        self.order("dirty 56")
        self.order("clean")
        with self.monitor() as monitor:
            monitor.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            monitor.command("migrate", uri=f"exec:cat > {state}")
            while (now := cast(dict[str, str], monitor.command("query-migrate")))["status"] != "completed":
                if now["status"] in ("failed", "cancelled"):
                    raise RuntimeError(f"{self.name}: not saved: {now}")
                time.sleep(0.02)

    def monitor(self) -> Monitor:
        """Open the tests' own monitor."""
        return Monitor(self.truth)

    def order(self, words: str, timeout_s: float = 120.0) -> None:
        """Give the guest an order and wait until it has carried it out.

        Raises:
            RuntimeError: the guest could not carry it out.
        """
        self._orders.give(words, timeout_s)
        if words == "reboot":
            self._boots += 1

    def wait_until_booted(self, timeout_s: float = 300.0) -> None:
        """Return once the guest accepts orders; after the order `reboot`, once it does so again.

        Raises:
            RuntimeError: the guest did not boot in time; the message has the path of its console.
        """
        assert self._process is not None

        def ready() -> bool:
            return self.console.exists() and self.console.read_bytes().count(b"ready") >= self._boots

        wait_until(ready, f"{self.name} boots, see {self.console}", self._process, self.log, timeout_s)

    def wait_for_exit(self, hangs_after_s: float = 20.0) -> None:
        """Return once QEMU has exited, after its guest has shut down or panicked.

        QEMU may hang while it exits if a QMP command was in flight. Then send SIGTERM, as a manager does.
        """
        assert self._process is not None
        try:
            self._process.wait(hangs_after_s)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait(120)

    def freeze(self) -> None:
        """Send SIGSTOP, as if QEMU hung."""
        freeze(self.pid)

    def thaw(self) -> None:
        """Send SIGCONT."""
        thaw(self.pid)

    def kill(self) -> None:
        """Send SIGKILL. The socket files stay."""
        if self._process is not None:
            kill(self._process)
            self._process = None
        self._orders.forget()

    def restart(self) -> None:
        """Replace QEMU with another process on the same paths."""
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
    """Run a QEMU without a machine, which answers QMP within milliseconds and has no balloon."""
    argv = [str(setup.qemu()), "-machine", "none", "-nodefaults", "-display", "none", "-S"]
    vm = Vm(folder, name, [*argv, *_monitors(folder, name), *extra])
    try:
        yield vm
    finally:
        vm.kill()


@contextmanager
def idle(folder: Path, name: str, *extra: str, command: Sequence[str] = ()) -> Generator[Vm]:
    """Run a QEMU with a balloon and nothing to boot. The interval can be set, but no update ever comes."""
    argv = [*(command or (str(setup.qemu()),)), "-M", "q35", "-accel", "tcg", "-m", "64", "-name", name]
    device = ["-nodefaults", "-display", "none", "-device", "virtio-balloon-pci,id=balloon0"]
    vm = Vm(folder, name, [*argv, *device, *_monitors(folder, name), *extra])
    try:
        yield vm
    finally:
        vm.kill()


def kernel_words(*, driver: bool) -> str:
    """Return a guest's kernel command line. Without `driver` it loads virtio_balloon only on order."""
    # On a busy host, the kernel's check of the timer interrupt fails: the guest loses interrupts, and hangs.
    words = (
        "console=ttyS0 quiet no_timer_check random.trust_cpu=on panic=0 iomem=relaxed"
        " memhp_default_state=online"
    )
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
    """Run a real Linux guest of 128 MiB under TCG until the block ends.

    A guest boots once for all tests, and each test resumes that state, which costs a thirtieth of a boot.
    After a restart or a reset it boots.

    Args:
        folder: for its files; the path must be short because of the sockets.
        name: of the VM and of its files.
        extra: further arguments of QEMU.
        driver: whether the guest loads virtio_balloon while it boots.
        balloon: whether it has the device.
        uuid: none by default.
        booted: return when the guest accepts orders. Otherwise return while it boots.
        env: environment variables for QEMU in addition to ours. With `env`, the guest boots.
        command: the QEMU, with the arguments by which it finds its files; the machine's by default.
        image: the folder of the kernel and its initrd; `setup.guest()` by default.
    """
    qemus = tuple(command) or (str(setup.qemu()),)
    plain = not any(str(folder) in word or word in ("-S", "-incoming") for word in extra)
    resumed = booted and plain and env is None
    image = image or setup.guest()
    argv = _guest_argv(qemus, image, folder, name, extra, driver=driver, balloon=balloon)
    state = _booted(qemus, image, extra, driver=driver, balloon=balloon) if resumed else None
    with boot_slot() if booted and not resumed else nullcontext():
        vm = Vm(folder, name, [*argv, *(("-uuid", uuid) if uuid else ())], env, state=state)
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


def _guest_argv(
    command: Sequence[str],
    image: Path,
    folder: Path,
    name: str,
    extra: Sequence[str],
    *,
    driver: bool,
    balloon: bool,
) -> list[str]:
    return [
        *command,
        *("-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "128", "-name", name),
        *("-nodefaults", "-display", "none", "-append", kernel_words(driver=driver)),
        *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.gz")),
        *("-serial", f"file:{folder / name}.console"),
        *("-serial", f"unix:{folder / name}.orders,server=on,wait=off"),
        *(("-device", "virtio-balloon-pci,id=balloon0") if balloon else ()),
        *_monitors(folder, name),
        *extra,
    ]


def _booted(
    command: Sequence[str], image: Path, extra: Sequence[str], *, driver: bool, balloon: bool
) -> Path:
    """Return the state of a booted guest of the same QEMU and devices. The first caller boots it."""
    shape = _guest_argv(command, image, Path("folder"), "name", extra, driver=driver, balloon=balloon)
    inputs = " ".join([_version(tuple(command)), *shape])
    name = f"booted-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}"  # several may boot at the same time
    with made(name, inputs) as work:
        if work is not None:
            with tempfile.TemporaryDirectory(prefix="bb-", dir="/tmp") as folder, boot_slot():
                os.chmod(folder, 0o777)  # QEMU may run as another user
                argv = _guest_argv(command, image, Path(folder), "g", extra, driver=driver, balloon=balloon)
                vm = Vm(Path(folder), "g", argv)
                try:
                    vm.wait_until_booted()
                    vm.save(Path(folder) / "state")
                finally:
                    vm.kill()
                shutil.move(Path(folder) / "state", work / "state")
    return place(name, inputs) / "state"


@cache
def _version(command: tuple[str, ...]) -> str:
    return run([*command, "--version"])


if __name__ == "__main__":
    for each in ((str(setup.qemu()),), setup.newer_qemu()):
        for with_driver in (True, False):
            _booted(each, setup.guest(), (), driver=with_driver, balloon=True)
