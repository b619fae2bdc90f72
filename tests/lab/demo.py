"""Run `make demo`: three real guests, the agent, and the records that arrive in Kafka, live for a minute.

The demo shows only what it reads from the topics, like any other reader. Meanwhile one guest's balloon driver
is unloaded, so that the VM becomes `stalled`, and loaded again; the QEMU of the guest without a driver is
killed. Where QEMU or the guests are not available, the demo reports that and runs `barograph demo` instead.
"""

import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console, Group

from simulator.demo.measure import PROMISED_MS, STEADY_AFTER
from simulator.demo.process import AgentProcess
from simulator.demo.screen import readings, render, summary
from simulator.demo.show import Step, show
from tests.lab import qemu, setup
from tests.lab.agent import agent, barograph
from tests.lab.demo_reader import PARTITIONS, TOPICS, Reader
from tests.lab.embedded_kafka import embedded_kafka
from tests.lab.observer import Observer
from tests.lab.process import no_child_left

SECONDS = 60
START_TIMEOUT_S = 240
UNLOAD_AT_S, LOAD_AT_S, KILL_AT_S = 12, 26, 38
STEADY_AT_S = LOAD_AT_S + STEADY_AFTER + 3
"""From here on the agent knows the cadence of the two remaining guests."""

HEARTBEAT = {"BAROGRAPH_POLLING__HEARTBEAT": "2s"}
"""The heartbeat carries the agent's counters; its default is five minutes."""


def run(console: Console, folder: Path) -> int:
    """Run the demo and return the exit code."""
    with ExitStack() as stack:
        console.print("booting three guests (software emulation, some seconds)…")
        steady = stack.enter_context(qemu.guest(folder, "steady", booted=False))
        churning = stack.enter_context(qemu.guest(folder, "churning", booted=False))
        driverless = stack.enter_context(qemu.guest(folder, "driverless", driver=False, booted=False))
        vms = (steady, churning, driverless)
        for vm in vms:
            vm.wait_until_booted()
        churning.order("churn")
        kafka = stack.enter_context(embedded_kafka())
        for topic in TOPICS:
            kafka.create_topic(topic, PARTITIONS)
        observer = stack.enter_context(Observer([vm.truth for vm in vms], folder))
        reader = Reader(kafka.bootstrap)
        arguments = ["--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", kafka.bootstrap]
        console.print(f"barograph run {' '.join(arguments)}", soft_wrap=True)
        process = stack.enter_context(agent(folder, *arguments, env=HEARTBEAT))
        began_ms = time.time() * 1000
        interrupted = False
        try:
            wait_for_agent(process, reader)
            began_ms = time.time() * 1000
            follow(console, process, reader, began_ms, steady, driverless)
        except KeyboardInterrupt:
            interrupted = True
            console.print("interrupted; stopping")
        until_ms = time.time() * 1000 - PROMISED_MS
        code = process.stop()
        reader.close(0 if code else 5)  # an agent interrupted during its start sends no last record
        shown = observer.stop()
        console.print("\nupdates seen on a second monitor, read every 5 ms, and samples received from Kafka:")
        faults = summary(console, reader, {vm.name: shown.get(vm.truth, []) for vm in vms}, until_ms)
        console.print(readings(reader, began_ms + STEADY_AT_S * 1000))
        console.print("barograph give-back")
        settled = barograph("give-back", "--state-directory", str(folder / "state"))
        for each in (settled.stdout + settled.stderr).splitlines():
            console.print(f"  {each}", soft_wrap=True, highlight=False)
        return 130 if interrupted else (1 if faults else 0) or code or settled.returncode


def wait_for_agent(process: AgentProcess, reader: Reader) -> None:
    """Wait until the agent has discovered the monitors; the minute begins then.

    Raises:
        RuntimeError: the agent has ended, or did not start within the timeout.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not any(record["state"] == "running" for record in reader.agent):
        process.must_be_running()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the agent did not start within {START_TIMEOUT_S} s")
        time.sleep(0.05)


def follow(
    console: Console,
    process: AgentProcess,
    reader: Reader,
    began_ms: float,
    steady: qemu.Vm,
    driverless: qemu.Vm,
) -> None:
    """Show the demo for a minute and perform its actions on the guests.

    Raises:
        RuntimeError: the agent has ended.
    """
    steps = (
        Step(UNLOAD_AT_S, "steady", "the guest unloads its balloon driver", lambda: steady.order("unload")),
        Step(LOAD_AT_S, "steady", "the guest loads its balloon driver", lambda: steady.order("load")),
        Step(KILL_AT_S, "driverless", "QEMU is killed", driverless.kill),
    )

    def draw(remaining: str) -> Group:
        title = f"real guests under QEMU, as read from Kafka{remaining}"
        where = f"newest sample: {reader.newest_sample}" if reader.newest_sample else ""
        return render(console, reader, began_ms, title, where=where)

    show(console, reader, steps, began_ms=began_ms, seconds=SECONDS, poll=process.must_be_running, draw=draw)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo in a temporary folder."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        setup.qemu()
        setup.guest()
    except setup.CannotHave as error:
        console.print(
            f"real guests are not available: {error}\n\n"
            "Running `barograph demo` with simulated guests instead. For real guests: on Debian 12 or 13 for "
            "amd64, run `make demo` as root or with sudo, which installs QEMU; elsewhere install "
            "qemu-system-x86_64 and what is named above, then run `make demo` again.\n",
            markup=False,
            highlight=False,
        )
        os.execv(sys.executable, [sys.executable, "-m", "agent", "demo"])
    except KeyboardInterrupt:
        return 130
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with no_child_left(), tempfile.TemporaryDirectory(prefix="bd-", dir="/tmp") as folder:
            code = run(console, Path(folder))
    except (RuntimeError, setup.CannotHave) as error:
        console.print(f"the demo failed: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print("all processes of the demo have ended")
    return code


if __name__ == "__main__":
    sys.exit(main())
