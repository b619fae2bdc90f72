"""Real libvirt daemons with real guests. Several run at the same time, each as if on its own host.

A daemon has its own mounts over libvirt's folders, its own PID namespace and its own host name, so it
disturbs neither the machine's libvirt nor another daemon of the lab. Its QEMUs, which survive libvirtd, end
with the block. It runs without systemd: as root it serves `qemu:///system`, as another user
`qemu:///session`.
"""

import functools
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.lab import cache, setup
from tests.lab.boot_slot import boot_slot
from tests.lab.monitor import Monitor, Orders
from tests.lab.process import cpu_s, freeze, kill, start, thaw, wait_until
from tests.lab.qemu import kernel_words
from tests.lab.saved_domain import copy_as

QEMU_USER = 64055
"""Debian's user and group libvirt-qemu. The driver does not start where the name is unknown."""

# The path within a daemon's mounts. It is the same for all, so that a definition is valid after a migration.
_LAB = "/var/lib/libvirt/lab"
_SCRIPT = r"""
set -e
hostname "$2"
cd "$1"
for each in run:/run/libvirt lib:/var/lib/libvirt etc:/etc/libvirt log:/var/log/libvirt; do
  mkdir -p "${each#*:}"
  mount --bind "$(readlink -f "${each%%:*}")" "${each#*:}"
done
mkdir -p /var/cache/libvirt
mount --bind "$3" /var/cache/libvirt
mount --bind "$4" /var/lib/libvirt/image
cp /etc/passwd /etc/group etc
grep -q ^libvirt-qemu: etc/passwd || echo "libvirt-qemu:x:$5:$5::/nonexistent:/usr/sbin/nologin" >> etc/passwd
grep -q ^libvirt-qemu: etc/group || echo "libvirt-qemu:x:$5:" >> etc/group
mount --bind etc/passwd /etc/passwd
mount --bind etc/group /etc/group
touch begun
sleep infinity &
wait # and so takes in the processes whose parents have ended
"""

# Placeholders in a definition for the name and UUID of a domain.
_NAME = "name-of-the-domain"
_UUID = "b0000000-0000-4000-8000-000000000000"
# Given as QEMU's arguments, because libvirt before 9.1 does not support the device on PCI.
_PANIC_DEVICE = "<qemu:arg value='-device'/><qemu:arg value='pvpanic-pci,bus=pcie.0,addr=0x1e'/>"
_QEMU_CONF = """security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""
_LIBVIRTD_CONF = """auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_ro_perms = "0777"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""


class Daemon:
    """One libvirtd and its domains.

    `socket` is its read-write socket, `socket_ro` the read-only one, which only root's libvirtd has.
    """

    def __init__(
        self, folder: Path, name: str, *, runtime: Path | None, socket_name: str, session: bool, config: str
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.session = session
        self.runtime = runtime or self.folder / "run"
        self.lab = self.folder / "lib" / "lab"
        self.socket = self.runtime / socket_name
        self.socket_ro = self.runtime / f"{socket_name}-ro"
        self.log = self.folder / "log" / "libvirtd.log"
        self._pid = 0
        self._orders: list[Orders] = []
        self._lay_out(config)
        inputs = [str(self._found_out), str(setup.guest()), str(QEMU_USER)]
        words = [str(self.folder), f"lab-{name}", *inputs]
        apart = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        log = self.folder / "begin.log"
        self._first = start([*apart, "sh", "-c", _SCRIPT, "sh", *words], log)
        try:
            wait_until((self.folder / "begun").exists, name, self._first, log, 120)
            self._init = int(_children(self._first.pid)[0])
            self.start()
        except BaseException:
            self.end()
            raise

    def _lay_out(self, config: str) -> None:
        self.runtime.mkdir(parents=True, exist_ok=True)
        for each in ("lib/lab", "lib/image", "etc", "log", "cache"):
            (self.folder / each).mkdir(parents=True)
        if self.runtime != self.folder / "run":
            (self.folder / "run").symlink_to(self.runtime)
        user = "" if self.session else 'user = "root"\ngroup = "root"\n'
        (self.folder / "etc" / "qemu.conf").write_text(user + _QEMU_CONF)
        host = f'host_uuid = "{uuid.uuid4()}"\n'  # a migration to the same host is refused
        (self.folder / "etc" / "libvirtd.conf").write_text(config + _LIBVIRTD_CONF + host)
        if self.session:
            ours = [self.folder / each for each in ("lib", "etc", "log")]
            for path in (self.runtime, self.lab, self._found_out, *ours):
                os.chown(path, QEMU_USER, QEMU_USER)

    @property
    def _found_out(self) -> Path:
        """Return the folder of the cached QEMU capabilities, which take 5 s. Root's daemons share it.

        The daemons of another user have their logs there too.
        """
        path = self.folder / "cache" if self.session else cache.cache() / "libvirt-capabilities"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def uri(self) -> str:
        """Return the URI for clients. libvirt's client refuses a socket path of more than 107 bytes."""
        return self._uri(self.socket)

    @property
    def uri_ro(self) -> str:
        """Return the URI of the read-only socket."""
        return self._uri(self.socket_ro)

    def _uri(self, socket: Path | str) -> str:
        return f"qemu+unix:///{'session' if self.session else 'system'}?socket={socket}"

    @property
    def pid(self) -> int:
        """Return the process id of libvirtd."""
        return self._pid

    def cpu_s(self) -> float:
        """Return the user and system CPU time that libvirtd has used so far."""
        return cpu_s(self.pid)

    def start(self) -> None:
        """Start libvirtd and return once its QEMU driver answers.

        Raises:
            RuntimeError: it did not answer; the message contains the error.
        """
        pid_file = self.runtime / "libvirtd.pid"
        pid_file.unlink(missing_ok=True)
        config = "/etc/libvirt/libvirtd.conf"
        argv = ["libvirtd", "--daemon", "--config", config, "--pid-file", f"/run/libvirt/{pid_file.name}"]
        if self.session:
            xdg = {"RUNTIME_DIR": "/run", "CACHE_HOME": "/var/cache", "CONFIG_HOME": "/etc"}
            words = ["HOME=/var/lib/libvirt", *(f"XDG_{name}={path}" for name, path in xdg.items())]
            as_user = ["setpriv", f"--reuid={QEMU_USER}", f"--regid={QEMU_USER}", "--clear-groups"]
            argv = [*as_user, "env", *words, *argv]
        self._run("--pid", "--uts", *argv)
        self._pid = self.seen_from_here(int(pid_file.read_text()))
        for path, plain in ((self.socket, "libvirt-sock"), (self.socket_ro, "libvirt-sock-ro")):
            found = self.runtime / plain
            if path != found and found.exists():
                found.rename(path)  # a rename keeps the inode, by which clients connect
        self.virsh("version")

    def restart(self) -> None:
        """Send SIGTERM, then start libvirtd again on the same socket. The QEMUs keep running."""
        self._end_daemon(signal.SIGTERM)
        self.start()

    def kill(self) -> None:
        """Send SIGKILL. The QEMUs keep running, and the socket files stay."""
        self._end_daemon(signal.SIGKILL)

    def stop(self) -> None:
        """Send SIGSTOP, as if libvirtd hung."""
        freeze(self.pid)

    def cont(self) -> None:
        """Send SIGCONT."""
        thaw(self.pid)

    def _end_daemon(self, number: int) -> None:
        os.kill(self.pid, number)
        _wait(lambda: not Path(f"/proc/{self.pid}").exists(), f"libvirtd {self.name} ends", 120)

    def end(self) -> None:
        """End libvirtd and every QEMU."""
        for each in self._orders:
            each.forget()
        kill(self._first)
        init = getattr(self, "_init", 0)
        _wait(lambda: not init or not Path(f"/proc/{init}").exists(), f"all of {self.name} ends", 120)

    def virsh(self, *words: str, timeout_s: float = 120.0) -> str:
        """Run a command of virsh and return its output.

        Raises:
            RuntimeError: libvirt refused; the message contains its error.
            subprocess.TimeoutExpired: libvirt did not answer.
        """
        return self._run(*self.virsh_argv(*words), timeout_s=timeout_s)

    def virsh_argv(self, *words: str) -> list[str]:
        """Return a virsh command for `inside`, where the path of the socket is short."""
        return ["virsh", "--quiet", "--connect", self._uri(f"/run/libvirt/{self.socket.name}"), *words]

    def inside(self, *argv: str) -> list[str]:
        """Return a command line that runs a command in the daemon's mount namespace."""
        return ["nsenter", "--target", str(self._init), "--mount", *argv]

    def _run(self, *argv: str, timeout_s: float = 120.0) -> str:
        done = subprocess.run(
            self.inside(*argv), check=False, capture_output=True, text=True, timeout=timeout_s
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def seen_from_here(self, pid: int) -> int:
        """Return the id in our PID namespace of a process in the daemon's."""
        theirs = os.readlink(f"/proc/{self._init}/ns/pid")
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(path / "ns" / "pid") != theirs:
                    continue
                status = (path / "status").read_text()
            except OSError:
                continue  # it has ended meanwhile
            if status.split("NSpid:", 1)[1].split("\n", 1)[0].split()[-1] == str(pid):
                return int(path.name)
        raise RuntimeError(f"{self.name}: process {pid} has ended; see {self.log}")

    def orders(self, name: str) -> Orders:
        """Return the orders port of a domain's guest. It is closed when the daemon ends."""
        self._orders.append(Orders(self.lab / f"{name}.orders"))
        return self._orders[-1]

    def domain(
        self,
        name: str,
        *,
        period_s: int = 0,
        driver: bool = True,
        balloon: bool = True,
        metadata: str = "",
        on_crash: str | None = "destroy",
        uuid_: str | None = None,
        transient: bool = False,
        booted: bool = True,
        paused: bool = False,
    ) -> "Domain":
        """Define and start a domain with a Linux guest of 128 MiB under TCG, like `tests.lab.qemu.guest`.

        As there, the guest boots once for all tests, and each test restores the saved domain.

        Args:
            name: of the domain and of its files.
            period_s: the period in `<stats>`; 0 leaves `<stats>` out, which is libvirt's default.
            driver: whether the guest loads virtio_balloon while it boots.
            balloon: whether the domain has the device; otherwise `model='none'`.
            metadata: elements for `<metadata>`, from `nova` or `kubevirt`.
            on_crash: what libvirt does when the guest panics: `destroy`, `preserve`, `restart`. With `None`
                the guest has no panic device, so a panic is not reported.
            uuid_: a random one by default.
            transient: its definition does not outlive it, as in oVirt but not in KubeVirt.
            booted: return when the guest accepts orders. Otherwise return while it boots.
            paused: start it paused before its first instruction, which costs no CPU; not with `booted`.
        """
        stats = f"<stats period='{period_s}'/>" if period_s else ""
        identity = f"<uuid>{uuid_ or uuid.uuid4()}</uuid>"
        metadata = f"<metadata>{metadata}</metadata>" if metadata else ""
        crash = f"<on_crash>{on_crash or 'destroy'}</on_crash>"
        shape = _definition(kernel_words(driver=driver), balloon=balloon, panic=on_crash is not None)

        def redefine(definition: str) -> str:
            """Return a definition, or libvirt's form of it, with the values of this domain."""
            return (
                definition.replace(_NAME, name)
                .replace(f"<uuid>{_UUID}</uuid>", identity + metadata)
                .replace("<on_crash>destroy</on_crash>", crash)
                .replace("<memballoon model='virtio'>", f"<memballoon model='virtio'>{stats}")
            )

        file = self.folder / f"{name}.xml"
        file.write_text(redefine(shape))
        if not transient:
            self.virsh("define", str(file))
        if booted:
            saved = self.lab / f"{name}.saved"
            copy_as(_booted(shape), saved, redefine)
            self.virsh("restore", f"{_LAB}/{saved.name}", timeout_s=180)
            saved.unlink()
        else:
            start = ("create", str(file)) if transient else ("start", name)
            self.virsh(*start, *(["--paused"] if paused else []))
        return Domain(self, name, boots=0 if booted else 1)


class Domain:
    """One domain. `truth` is the tests' own monitor of its QEMU, `hands` another for their commands."""

    def __init__(self, daemon: Daemon, name: str, *, boots: int = 1) -> None:
        self.daemon = daemon
        self.name = name
        self.truth = daemon.lab / f"{name}.truth"
        self.hands = daemon.lab / f"{name}.hands"
        self.console = daemon.lab / f"{name}.console"
        self._orders = daemon.orders(name)
        self._boots = boots

    @property
    def uuid(self) -> str:
        """Return the UUID in libvirt's notation."""
        return self.virsh("domuuid").strip()

    @property
    def pid(self) -> int:
        """Return the process id of its QEMU."""
        folder = self.daemon.runtime / "qemu" / ("run" if self.daemon.session else "")
        inside = (folder / f"{self.name}.pid").read_text()
        return self.daemon.seen_from_here(int(inside))

    @property
    def state(self) -> str:
        """Return the state and reason as virsh shows them, such as `paused (user)`."""
        return self.virsh("domstate", "--reason").strip()

    def virsh(self, command: str, *words: str, timeout_s: float = 120.0) -> str:
        """Run a virsh command for it: `suspend`, `resume`, `destroy`, `reset`, `managedsave`, `undefine`.

        Raises:
            RuntimeError: libvirt refused; the message contains its error.
        """
        return self.daemon.virsh(command, self.name, *words, timeout_s=timeout_s)

    def set_period(self, period_s: int) -> None:
        """Set the polling period of the running domain, as an operator would."""
        self.virsh("dommemstat", "--period", str(period_s), "--live")

    def start(self) -> None:
        """Start the domain again: in a new QEMU, or from its managed save."""
        self._orders.forget()
        self._boots = 1
        self.virsh("start")

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
            TimeoutError: the guest did not boot in time.
        """
        _wait(
            lambda: self.console.exists() and self.console.read_bytes().count(b"ready") >= self._boots,
            f"{self.name} boots, see {self.console}",
            timeout_s,
        )

    def freeze(self) -> None:
        """Send SIGSTOP to its QEMU, as if it hung."""
        freeze(self.pid)

    def thaw(self) -> None:
        """Send SIGCONT."""
        thaw(self.pid)

    def kill(self) -> None:
        """Send SIGKILL to its QEMU."""
        os.kill(self.pid, signal.SIGKILL)

    def begin_migration(self, to: Daemon, *words: str) -> subprocess.Popen[bytes]:
        """Begin a live migration. The process exits with 0 when the migration is complete.

        Call `virsh("migrate-setspeed", "1")` before to slow it down, `virsh("domjobabort")` to cancel it.
        """
        self._orders.forget()
        way = ["--live", "--p2p", "--desturi", to.uri]
        at = ["--migrateuri", f"unix://{self.daemon.folder}/{self.name}.migration"]
        argv = self.daemon.virsh_argv("migrate", self.name, *way, *at, *words)
        return start(self.daemon.inside(*argv), self._migration_log)

    def migrate(self, to: Daemon, *words: str, timeout_s: float = 180.0) -> "Domain":
        """Migrate the domain, and return the domain at the destination.

        Raises:
            RuntimeError: the migration failed; the message contains libvirt's error.
        """
        process = self.begin_migration(to, *words)
        try:
            if process.wait(timeout_s):
                raise RuntimeError(f"{self.name} was not migrated: {self._migration_log.read_text()[-2000:]}")
        finally:
            kill(process)
        return Domain(to, self.name)

    @property
    def _migration_log(self) -> Path:
        return self.daemon.folder / f"{self.name}.migration.log"


def bindings() -> Any:
    """Return libvirt-python, which has no types. Another process needs `setup.libvirt()` in `PYTHONPATH`."""
    folder = str(setup.libvirt())
    if folder not in sys.path:
        sys.path.append(folder)
    return import_module("libvirt")


@contextmanager
def libvirtd(
    folder: Path,
    name: str,
    *,
    runtime: Path | None = None,
    socket_name: str = "libvirt-sock",
    session: bool = False,
    config: str = "",
) -> Generator[Daemon]:
    """Run a libvirtd until the block ends. Its QEMUs end with it.

    Args:
        folder: the parent of its folder `name`; its path must be short for the sockets.
        name: of the daemon and, after `lab-`, of its host.
        runtime: the folder of its sockets, with a path of any length; by default `run` in its own folder.
        socket_name: of the read-write socket; that of the read-only one ends with `-ro`.
        session: whether it runs as a user other than root.
        config: further lines of libvirtd.conf.
    """
    daemon = Daemon(folder, name, runtime=runtime, socket_name=socket_name, session=session, config=config)
    try:
        yield daemon
    finally:
        daemon.end()


@contextmanager
def virt_launcher(kubelet: Path, folder: Path, name: str, *, session: bool = True) -> Generator[Daemon]:
    """Run a libvirtd as in the pod of a KubeVirt VMI: its socket is in the pod's volume below `kubelet`.

    The pod's folder is removed when the block ends. `libvirt-runtime` is KubeVirt's name for the volume,
    the rest of the path is kubelet's (kubevirt, pkg/virt-controller/services/rendervolumes.go).
    """
    pod = kubelet / "pods" / str(uuid.uuid4())
    runtime = pod / "volumes" / "kubernetes.io~empty-dir" / "libvirt-runtime"
    with libvirtd(folder, name, runtime=runtime, socket_name="virtqemud-sock", session=session) as daemon:
        yield daemon
    _remove(pod)


def nova(name: str, project: str) -> str:
    """Return the metadata that OpenStack Nova gives a domain, which it names `instance-0000002a`.

    Shape: nova, virt/libvirt/config.py, LibvirtConfigGuestMetaNovaInstance.
    """
    return (
        "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>"
        "<nova:package version='26.2.1'/>"
        f"<nova:name>{escape(name)}</nova:name><nova:creationTime>2026-11-02 09:14:27</nova:creationTime>"
        "<nova:flavor name='m1.tiny'><nova:memory>128</nova:memory><nova:vcpus>1</nova:vcpus></nova:flavor>"
        f"<nova:owner><nova:user uuid='{uuid.uuid4().hex}'>admin</nova:user>"
        f"<nova:project uuid='{uuid.uuid4().hex}'>{escape(project)}</nova:project></nova:owner>"
        "</nova:instance>"
    )


def kubevirt(uid: str) -> str:
    """Return the metadata that KubeVirt gives a domain, which it names `NAMESPACE_VMI`.

    Shape: kubevirt, pkg/virt-launcher/virtwrap/api/schema.go, KubeVirtMetadata.
    """
    return (
        f"<kubevirt xmlns='http://kubevirt.io'><uid>{escape(uid)}</uid><graceperiod>"
        "<deletionGracePeriodSeconds>5</deletionGracePeriodSeconds></graceperiod></kubevirt>"
    )


def _definition(words: str, *, balloon: bool, panic: bool) -> str:
    """Return the XML of a domain with the name `_NAME`; see libvirt's formatdomain for the elements."""
    monitors = "".join(
        f"<qemu:arg value='-qmp'/><qemu:arg value='unix:{_LAB}/{_NAME}.{which},server=on,wait=off'/>"
        for which in ("truth", "hands")
    )
    return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{_NAME}</name><uuid>{_UUID}</uuid><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>
<kernel>/var/lib/libvirt/image/vmlinuz</kernel><initrd>/var/lib/libvirt/image/initrd.gz</initrd>
<cmdline>{words}</cmdline></os>
<features><acpi/><apic/></features><cpu mode='maximum'/><pm><suspend-to-mem enabled='yes'/></pm>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices><emulator>{setup.qemu()}</emulator><controller type='usb' model='none'/>
<memballoon model='{"virtio" if balloon else "none"}'></memballoon>
<serial type='file'><source path='{_LAB}/{_NAME}.console'/></serial>
<serial type='unix'><source mode='bind' path='{_LAB}/{_NAME}.orders'/></serial></devices>
<qemu:commandline>{monitors}
{_PANIC_DEVICE if panic else ""}</qemu:commandline></domain>
"""


def _booted(shape: str) -> Path:
    """Return the saved state of a booted domain with this definition. The first caller boots it."""
    inputs = f"{shape} {setup.guest()} {cache.run(['libvirtd', '--version'])} {_qemu_version()}"
    name = f"booted-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}"  # several may boot at the same time
    with cache.made(name, inputs) as work:
        if work is not None:
            with (
                tempfile.TemporaryDirectory(prefix="bb-", dir="/tmp") as folder,
                libvirtd(Path(folder), "booted") as daemon,
                boot_slot(),
            ):
                file = Path(folder) / "domain.xml"
                file.write_text(shape)
                daemon.virsh("create", str(file))
                domain = Domain(daemon, _NAME)
                domain.wait_until_booted()
                domain.order("dirty 56")  # zeroes the free memory, so that it takes no space in the file
                domain.order("clean")
                domain.virsh("save", str(work / "state"), timeout_s=300)
    return cache.place(name, inputs) / "state"


@functools.cache
def _qemu_version() -> str:
    return cache.run([str(setup.qemu()), "--version"])


def _children(pid: int) -> Sequence[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _remove(folder: Path) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def _wait(holds: Callable[[], bool], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(0.02)
