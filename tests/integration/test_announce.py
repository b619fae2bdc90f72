"""The signal and the command that make a running agent repeat all current states, for a new reader."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.integration.watching import Document, Lines, watch
from tests.lab.agent import AgentProcess, agent, barograph
from tests.lab.sim import simulated

HEARTBEAT_MS = 3600 * 1000
RARELY = {"BAROGRAPH_POLLING__HEARTBEAT": "1h"}


def repeated(lines: Lines) -> list[Document]:
    return [each for each in lines.all() if ".state/" in each["schema"] and each["heartbeat"]]


def numbered(documents: Sequence[Document]) -> None:
    """Assert that the states of each VM and of the agent have sequences without a gap."""
    newest: dict[str, int] = {}
    for each in documents:
        if ".state/" in each["schema"]:
            key = each.get("vm", {}).get("path", "agent")
            assert each["sequence"] == newest.get(key, 0) + 1
            newest[key] = each["sequence"]


def announced(process: AgentProcess) -> int:
    return process.stderr.read_text().count("states announced")


def test_the_command_repeats_the_state_of_every_vm_and_of_the_agent(folder: Path) -> None:
    with (
        simulated(folder, vms=40, preset=1) as hypervisor,
        agent(folder / "agent", *watch(folder), state=folder / "state", env=RARELY) as process,
    ):
        lines, vms = Lines(process), hypervisor.vms
        for vm in vms:
            lines.wait_for_state(vm.qmp, "reporting")
        vms[3].order("pause")
        vms[4].kill()  # its socket file stays
        lines.wait_for_state(vms[3].qmp, "paused")
        lines.wait_for_state(vms[4].qmp, "gone")
        assert repeated(lines) == []
        asked_ms = time.time_ns() // 1_000_000

        done = barograph("announce", "--state-directory", str(folder / "state"))

        assert (done.returncode, str(process.process.pid) in done.stdout) == (0, True), done.stderr
        lines.wait(lambda: len(repeated(lines)) >= 41, "every state again")
        states = {each["vm"]["path"]: each for each in repeated(lines) if "vm" in each}
        (own,) = [each for each in repeated(lines) if "vm" not in each]
        assert process.stop() == 0
        everything = lines.all()

    assert set(states) == {str(vm.qmp) for vm in vms}
    assert states[str(vms[3].qmp)]["state"] == "paused"
    assert states[str(vms[4].qmp)]["state"] == "gone"
    assert own["state"] == "running"
    for each in (*states.values(), own):
        assert each["observed_at_ms"] >= asked_ms
        assert each["next_heartbeat_by_ms"] >= each["observed_at_ms"] + HEARTBEAT_MS
    numbered(everything)


def test_requests_that_come_too_early_become_one_delayed_request(folder: Path) -> None:
    with (
        simulated(folder, vms=1, preset=1) as hypervisor,
        agent(folder / "agent", *watch(folder), state=folder / "state", env=RARELY) as process,
    ):
        lines, (vm,) = Lines(process), hypervisor.vms
        lines.wait_for_state(vm.qmp, "reporting")
        process.process.send_signal(signal.SIGUSR1)
        lines.wait(lambda: announced(process) == 1, "the first announcement")
        for _ in range(5):
            process.process.send_signal(signal.SIGUSR1)
        lines.wait(lambda: "states not announced yet" in process.stderr.read_text(), "the delay in the log")
        lines.wait(lambda: announced(process) == 2, "the second announcement")
        assert process.stop() == 0
        first, second = (each for each in repeated(lines) if "vm" in each)

    assert second["observed_at_ms"] - first["observed_at_ms"] >= 9_000


def test_a_signal_while_the_agent_stops_does_not_end_it(folder: Path) -> None:
    with (
        simulated(folder, vms=1, preset=1) as hypervisor,
        agent(folder / "agent", *watch(folder), state=folder / "state", env=RARELY) as process,
    ):
        lines, (vm,) = Lines(process), hypervisor.vms
        lines.wait_for_state(vm.qmp, "reporting")
        process.process.send_signal(signal.SIGTERM)
        while process.process.poll() is None:
            process.process.send_signal(signal.SIGUSR1)
            time.sleep(0.002)

    assert process.process.returncode == 0, process.stderr.read_text()


def test_without_an_agent_nothing_is_signaled(folder: Path) -> None:
    done = barograph("announce", "--state-directory", str(folder))

    assert (done.returncode, done.stdout) == (1, "")
    assert f"{folder}: no agent uses this state directory" in done.stderr


def test_a_command_that_holds_the_lock_is_not_signaled(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from agent.spool.directory_lock import lock;"
        "lock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"

        done = barograph("announce", "--state-directory", str(folder))

        still_there = holder.poll() is None
        holder.communicate(b"")

    assert done.returncode == 1
    assert still_there
    assert holder.returncode == os.EX_OK
