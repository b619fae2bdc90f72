"""A host with 40 simulated VMs and several troubles at once, to practice on: `python -m tests.lab.on_call`.

It prints the agent's address and runs until Ctrl-C. Find out with `barograph status --url`, `barograph top
--url` or the page which VMs are in trouble, since when, why, and what to do; then compare with what was done
to them, which is printed at the end.
"""

import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.agent import AgentProcess, agent
from tests.lab.process import free_port
from tests.lab.qemu import Monitor
from tests.lab.sim import Hypervisor, simulated

HEALTHY = 33


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with one VM: the state and its possible reasons, and what was done."""

    state: str
    reasons: Sequence[str]
    done: str


TROUBLES: Mapping[str, Trouble] = {
    "billing-2": Trouble("stalled", ("no_advance",), "the guest unloaded its balloon driver"),
    "search-1": Trouble("unreachable", ("no_answer",), "QEMU is stopped (SIGSTOP)"),
    "mail-3": Trouble("no-greeting", ("silent", "busy"), "another client holds the monitor"),
    "cache-4": Trouble("off", ("contended",), "another client sets the interval to 0"),
    "legacy-5": Trouble("waiting", ("no_update_yet",), "the guest has no balloon driver"),
    "build-6": Trouble("paused", ("paused",), "an administrator paused the VM"),
    "appliance-7": Trouble("no-balloon", ("no_device",), "the VM has no balloon"),
}
SINK = "kafka.samples"
"""No broker listens at the address of Kafka: the trouble of the agent itself."""


@contextmanager
def host_in_trouble(folder: Path, env: Mapping[str, str]) -> Generator[tuple[AgentProcess, str]]:
    """An agent and its VMs; all troubles begin at once. Yield the agent and its URL."""
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
            hypervisor.add(name, guest=kind, bus="none" if name == "appliance-7" else "pci")
        stack.callback(Monitor(hypervisor.vm("mail-3").qmp).close)
        process = stack.enter_context(agent(folder / "agent", *words, env=more))
        process.wait_for_log(" web ", 120)
        _begin(hypervisor, process)
        yield process, f"http://127.0.0.1:{port}/"


def _begin(hypervisor: Hypervisor, process: AgentProcess) -> None:
    def contended() -> bool:
        lines = process.stderr.read_text().splitlines()
        return any("cache-4" in line and "reason=contended" in line for line in lines)

    with hypervisor.vm("cache-4").monitor() as rival:
        deadline = time.monotonic() + 180
        while not contended():
            if time.monotonic() > deadline:
                raise RuntimeError("the agent does not leave cache-4 to the other client")
            with suppress(RuntimeError):
                rival.set_interval(0)
            time.sleep(0.5)
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
        print(f"{name}: {trouble.done}: {trouble.state}")
    print(f"{SINK}: no broker listens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
