"""A host with 40 simulated VMs and several troubles at once, to practice on: `python -m tests.lab.on_call`.

It prints the agent's address and runs until Ctrl-C. Find out with `barograph status --url`, `barograph top
--url` or the page which VMs are in trouble, since when, why, and what to do. At the end it prints the answer:
what was done to each VM.
"""

import json
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.agent import AgentProcess, agent
from tests.lab.local_http import OPENER
from tests.lab.process import free_port
from tests.lab.qemu import Monitor
from tests.lab.sim import Hypervisor, simulated

HEALTHY = 32


@dataclass(frozen=True, slots=True)
class Trouble:
    """The trouble of one VM: its state, the possible reasons, what was done to it, and its pressure level."""

    state: str
    reasons: Sequence[str]
    done: str
    level: str | None = None


TROUBLES: Mapping[str, Trouble] = {
    "billing-2": Trouble("stalled", ("no_advance",), "the guest unloaded its balloon driver"),
    "search-1": Trouble("unreachable", ("no_answer",), "QEMU is stopped (SIGSTOP)"),
    "mail-3": Trouble("no-greeting", ("silent", "busy"), "another client holds the monitor"),
    "cache-4": Trouble("off", ("contended",), "another client sets the interval to 0"),
    "legacy-5": Trouble("waiting", ("no_update_yet",), "the guest has no balloon driver"),
    "build-6": Trouble("paused", ("paused",), "an administrator paused the VM"),
    "appliance-7": Trouble("no-balloon", ("no_device",), "the VM has no balloon"),
    "shop-8": Trouble("reporting", ("advancing",), "the guest's kernel killed a process", level="oom"),
}
SINK = "kafka.samples"
"""The trouble of the agent itself: no broker listens at the address of Kafka."""


@contextmanager
def host_in_trouble(folder: Path, env: Mapping[str, str]) -> Generator[tuple[AgentProcess, str]]:
    """Run an agent and its VMs until the block ends, with all troubles. Yield the agent and its URL."""
    port = free_port()
    more = {
        "BAROGRAPH_WEB__ENABLED": "true",
        "BAROGRAPH_WEB__LISTEN": f"127.0.0.1:{port}",
        "BAROGRAPH_POLLING__SET_AGAIN": "1s",
        **env,
    }
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", f"127.0.0.1:{free_port()}")
    with ExitStack() as stack:
        hypervisor = stack.enter_context(simulated(folder, vms=HEALTHY))
        for name in TROUBLES:
            kind = "silent" if name == "legacy-5" else "steady"
            bus = "none" if name == "appliance-7" else "pci"
            hypervisor.add(name, guest=kind, bus=bus, version="10.0")  # this version passes OOM kills on
        stack.callback(Monitor(hypervisor.vm("mail-3").qmp).close)
        process = stack.enter_context(agent(folder / "agent", *words, env=more))
        process.wait_for_log(" web ", 120)
        url = f"http://127.0.0.1:{port}/"
        _begin(hypervisor, url)
        yield process, url


def _begin(hypervisor: Hypervisor, url: str) -> None:
    def reasons() -> dict[str, str]:
        with OPENER.open(f"{url}status", timeout=60) as answer:
            states = [vm["state"] for vm in json.load(answer)["vms"]]
        return {Path(each["vm"]["path"]).stem: each["reason"] for each in states}

    with hypervisor.vm("cache-4").monitor() as rival:
        deadline = time.monotonic() + 180
        while (found := reasons()).get("cache-4") != "contended" or found.get("shop-8") != "advancing":
            if time.monotonic() > deadline:
                raise RuntimeError(f"cache-4 is not contended, or shop-8 does not report: {found}")
            with suppress(RuntimeError):
                rival.set_interval(0)
            time.sleep(0.5)
    hypervisor.vm("shop-8").order("dirty 90")
    hypervisor.vm("shop-8").order("oom")
    hypervisor.vm("billing-2").order("unload")
    hypervisor.vm("search-1").freeze()
    hypervisor.vm("build-6").order("pause")


def main() -> int:
    """Run until Ctrl-C, then print what was wrong."""
    with (
        tempfile.TemporaryDirectory(prefix="bo-", dir="/tmp") as folder,
        host_in_trouble(Path(folder), {}) as (process, url),
        suppress(KeyboardInterrupt),
    ):
        print(f"{HEALTHY + len(TROUBLES)} VMs, the agent is at {url}; Ctrl-C ends", flush=True)
        process.process.wait()
    for name, trouble in TROUBLES.items():
        print(f"{name}: {trouble.done}: {trouble.level or trouble.state}")
    print(f"{SINK}: no broker listens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
