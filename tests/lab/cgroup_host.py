"""A host with cgroups of version 2 on any machine: a VM with `cgroup_scenario.py` as PID 1.

Its root file system is the machine's own, read-only, through virtiofs, so it has the same QEMU, Python and
agent. Its kernel is that of the newer guest. It writes only to its memory.
"""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, cast

from tests.lab import setup
from tests.lab.process import kill, listens_at, start, wait_until

_TREE = Path(__file__).parents[2]
MEMORY = "1280M"


def observe(folder: Path, *, timeout_s: float, kernel_words: str = "") -> Mapping[str, Any]:
    """Boot the host and return the observations of the scenario.

    Args:
        folder: for its socket and logs; its path must be short.
        timeout_s: for all of it; most of that is the start of QEMU and the agent under emulation.
        kernel_words: added to the kernel's command line.

    Raises:
        RuntimeError: the scenario failed; the message has the end of its console.
    """
    shared = folder / "root.fs"
    console, result = folder / "console", folder / "result"
    words = ["-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always"]
    server = start([setup.virtiofsd(), f"--socket-path={shared}", *words], folder / "virtiofsd.log")
    try:
        wait_until(lambda: listens_at(shared), "virtiofsd", server, folder / "virtiofsd.log", 60)
        vm = start(_argv(shared, console, result, kernel_words), folder / "host.log")
        try:
            with suppress(TimeoutExpired):
                vm.wait(timeout_s)
        finally:
            kill(vm)
    finally:
        kill(server)
    answer = result.read_text(errors="replace").strip() if result.exists() else ""
    if not answer.endswith("}"):
        raise RuntimeError(f"the host ended without a result:\n{console.read_text(errors='replace')[-6000:]}")
    return cast(Mapping[str, Any], json.loads(answer))


def _argv(shared: Path, console: Path, result: Path, kernel_words: str) -> list[str | Path]:
    words = [
        "console=ttyS0 quiet no_timer_check random.trust_cpu=on panic=-1 devtmpfs.mount=1",
        f"root=root rootfstype=virtiofs ro PYTHONPATH={_TREE} init={sys.executable}",
        f"{kernel_words} -- -m tests.lab.cgroup_scenario",
    ]
    return [
        # The kernel crashes under the emulation of QEMU 7.2.
        *(*setup.newer_qemu(), "-accel", "tcg", "-cpu", "max", "-m", MEMORY),
        *("-M", "q35,memory-backend=memory", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-chardev", f"socket,id=root,path={shared}"),
        *("-device", "vhost-user-fs-pci,chardev=root,tag=root"),
        *("-serial", f"file:{console}", "-serial", f"file:{result}"),
        *("-kernel", setup.newer_guest() / "vmlinuz", "-append", " ".join(words)),
    ]
