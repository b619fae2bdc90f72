"""PID 1 of the host of `cgroup_host.py`: QEMUs in cgroups as the kubelet, libvirt and systemd create them.

It also runs the agent, and writes a JSON document to the second serial port. It contains for each VM the
parts `cgroup` and `process` of its memory record, and the files of cgroups read before and after that record.
"""

import json
import os
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.integration.watching import Lines
from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.setup import QEMU

MIB = 1 << 20
ROOT = Path("/sys/fs/cgroup")
LAB = Path("/run/lab")
UID = "5f0c1e4e-28a6-4f0e-9a5f-0123456789ab"
POD = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"
CONTAINER = f"{POD}/cri-containerd-{'0' * 63}1.scope"
SCOPE = "machine.slice/machine-qemu\\x2d1\\x2ddomain.scope"
EMULATOR = f"{SCOPE}/libvirt/emulator"
SERVICES = ("system.slice/a.service", "system.slice/b.service")
BOX = "system.slice/box.scope"
VOLUME = LAB / f"pods/{UID}/volumes/sockets"  # shorter than the kubelet's: a socket's path is limited
GLOBS = ("--monitor", f"{LAB}/*.qmp", "--monitor", f"{VOLUME}/*.qmp")

_MOUNTS = (("proc", "/proc"), ("sysfs", "/sys"), ("cgroup2", "/sys/fs/cgroup"), ("tmpfs", "/run"))
_FILES = ("memory.current", "memory.swap.current", "memory.max", "memory.pressure")
_ENV = {
    "BAROGRAPH_MEMORY__INTERVAL": "1s",
    "BAROGRAPH_HOST__ID": "4c8ad2f0e1b74b6d9a37c5f2d86e9b10",
    "BAROGRAPH_HOST__NAME": "host",  # the kernel has no host name yet
}
_JOIN = 'echo 0 > "$0"/cgroup.procs && exec "$@"'  # $0 is the folder of the cgroup
_IN_A_POD = ("unshare", "--cgroup", "--pid", "--fork", "--kill-child", "--mount-proc")
_IN_A_CONTAINER = ("sh", "-c", _JOIN, str(ROOT / BOX), "unshare", "--cgroup", "--mount", "sh", "-c")
_MOUNT_AGAIN = 'umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$0" "$@"'


def main() -> None:
    """Mount a host's file systems, observe, and write the result. When it returns, the host stops."""
    for kind, place in _MOUNTS:
        subprocess.run(["/bin/mount", "-t", kind, kind, place], check=True)
    os.environ |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": "/run", "HOME": "/run"}
    answer = ""
    try:
        answer = json.dumps(observe())
    finally:
        if not answer:
            traceback.print_exc()
            for log in (*LAB.rglob("*.err"), *LAB.rglob("*.log")):
                print(log, log.read_text(errors="replace")[-2000:], flush=True)
        Path("/dev/ttyS1").write_text(f"{answer}\n")


def observe() -> Mapping[str, Any]:
    """Return the observations by name."""
    _lay_out()
    seen: dict[str, Any] = {"kernel": os.uname().release}
    with ExitStack() as stack:

        def vm(name: str, cgroup: str, folder: Path = LAB, size_mib: int = 48) -> qemu.Vm:
            _say(f"{name} starts")
            ram = ("-object", f"memory-backend-ram,id=ram,size={size_mib}M,prealloc=on")
            words = (*ram, "-machine", "memory-backend=ram", "-m", str(size_mib), "-S")
            within = ("sh", "-c", _JOIN, str(ROOT / cgroup), QEMU)
            return stack.enter_context(qemu.idle(folder, name, *words, command=within))

        vm("pod", CONTAINER, VOLUME, 96)
        vm("domain", EMULATOR)
        moved = vm("moved", SERVICES[0])
        vm("root", "")
        vm("inner", f"{BOX}/inner")
        _press(CONTAINER)

        _say("the agent of a host starts")
        with agent(LAB / "host", *GLOBS, env=_ENV) as process:
            lines = Lines(process)
            seen["pod"] = _beside(lines, "pod", CONTAINER)
            seen["domain"] = _beside(lines, "domain", EMULATOR, f"{SCOPE}/libvirt")
            seen["service"] = _beside(lines, "moved", SERVICES[0])
            _put(SERVICES[1], "cgroup.procs", moved.pid)
            seen["moved"] = _beside(lines, "moved", SERVICES[1])
            seen["root"] = _beside(lines, "root", "")
            if (ROOT / SCOPE / "libvirt/cgroup.pressure").exists():  # absent with psi=0
                _put(f"{SCOPE}/libvirt", "cgroup.pressure", 0)
            seen["without_pressure"] = _beside(lines, "domain", f"{SCOPE}/libvirt")
        _say("the agent of a pod starts")
        with agent(LAB / "pod", *GLOBS, env=_ENV, within=_IN_A_POD) as process:
            lines = Lines(process)
            seen["pod_from_a_pod"] = _beside(lines, "pod", POD)
            seen["domain_from_a_pod"] = _beside(lines, "domain", f"{SCOPE}/libvirt")
        _say("the agent of a container starts")
        with agent(LAB / "box", *GLOBS, env=_ENV, within=(*_IN_A_CONTAINER, _MOUNT_AGAIN)) as process:
            lines = Lines(process)
            seen["inner_from_its_container"] = _beside(lines, "inner", BOX)
            seen["domain_from_a_container"] = _beside(lines, "domain", f"{SCOPE}/libvirt")
    return seen


def _lay_out() -> None:
    VOLUME.mkdir(parents=True)
    for path in (CONTAINER, EMULATOR, *SERVICES, f"{BOX}/inner"):
        (ROOT / path).mkdir(parents=True)
    for path in ("", "kubepods.slice", str(Path(POD).parent), POD, "machine.slice", SCOPE, "system.slice"):
        _put(path, "cgroup.subtree_control", "+memory")
    _put(POD, "memory.max", 512 * MIB)
    _put(CONTAINER, "memory.max", 768 * MIB)
    _put(SERVICES[0], "memory.max", 300 * MIB)
    _put(BOX, "memory.max", 400 * MIB)
    _put(EMULATOR, "cgroup.type", "threaded")  # as libvirt does


def _put(path: str, name: str, value: object) -> None:
    """Write a file of a cgroup."""
    (ROOT / path / name).write_text(f"{value}\n")


def _press(path: str) -> None:
    """Let tasks of a cgroup wait for memory. Above memory.high the kernel slows them down."""
    _put(path, "memory.high", int((ROOT / path / "memory.current").read_text()) + MIB)
    write = ("timeout", "10", "dd", "if=/dev/zero", "of=/run/pressure", "bs=64k", "count=128")
    subprocess.run(["sh", "-c", _JOIN, str(ROOT / path), *write], check=False, stderr=subprocess.DEVNULL)
    _put(path, "memory.high", "max")


def _beside(lines: Lines, name: str, *cgroups: str) -> Mapping[str, Any]:
    """Return a new memory record of a VM, with the files of cgroups as read before and after it."""

    def records() -> list[Mapping[str, Any]]:
        kind = "barograph.vm.memory/"
        found = [each for each in lines.all() if each["schema"].startswith(kind)]
        return [each for each in found if each["vm"]["name"] == name]

    before, count = _read(cgroups), len(records())

    def has_two_more() -> bool:  # the first of them may be older than the files read
        time.sleep(1)  # leaves the slow emulated CPU to the agent
        return len(records()) >= count + 2

    lines.wait(has_two_more, f"a memory record of {name}", 900)
    record, after = records()[-1], _read(cgroups)
    _say(f"seen: {name} {record.get('cgroup')}")
    return {part: record.get(part) for part in ("cgroup", "process")} | {"before": before, "after": after}


def _read(paths: Sequence[str]) -> Mapping[str, Mapping[str, str | None]]:
    """Return the contents of the files of cgroups, `None` for a missing file."""
    found: dict[str, dict[str, str | None]] = {}
    for path in paths:
        files = {name: ROOT / path / name for name in _FILES}
        found[path] = {name: file.read_text() if file.exists() else None for name, file in files.items()}
    return found


def _say(words: str) -> None:
    """Print progress on the console."""
    print(f"{time.monotonic():.0f} s: {words}", flush=True)


if __name__ == "__main__":
    assert os.getpid() == 1, "run it only as PID 1: it mounts over /proc, /sys and /run"
    main()
