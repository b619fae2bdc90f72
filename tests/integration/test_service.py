"""Tests of the agent as a service: its messages to the service manager, and the reload on SIGHUP."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.watching import Lines
from tests.lab.agent import AgentProcess, agent
from tests.lab.process import is_running, wait_until
from tests.lab.sim import SimulatedVm, simulated


class Manager:
    """A service manager's socket, and the messages received on it, in order."""

    def __init__(self, folder: Path) -> None:
        self.told: list[str] = []
        self.env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.env["NOTIFY_SOCKET"])
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while datagram := self._socket.recv(4096):
            self.told += datagram.decode().split("\n")

    def hear(self, word: str, after: int = 0) -> int:
        """Wait for the message `word` at index `after` or later; return its index."""
        deadline_s = time.monotonic() + 150
        while word not in self.told[after:]:
            assert time.monotonic() < deadline_s, f"not received: {word!r}: {self.told}"
            time.sleep(0.02)
        return self.told.index(word, after)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.env["NOTIFY_SOCKET"])
        self._thread.join()
        self._socket.close()


@contextmanager
def managed(folder: Path) -> Generator[Manager]:
    manager = Manager(folder)
    try:
        yield manager
    finally:
        manager.close()


def write(file: Path, folder: Path, interval: str, more: str = "") -> None:
    file.write_text(
        f"monitors: ['{folder}/*.qmp']\npolling: {{interval: {interval}, on_exit: give-back}}\n"
        f"spool: {{mode: disk}}\nlines: {{enabled: true}}\n{more}"
    )


@contextmanager
def served(folder: Path) -> Generator[tuple[SimulatedVm, Manager, AgentProcess, Path]]:
    """Yield a VM, the manager, the agent that it has started, and the agent's configuration."""
    file = folder / "b.yaml"
    write(file, folder, "1s")
    with (
        simulated(folder, vms=1) as hypervisor,
        managed(folder) as manager,
        agent(folder, "--config", str(file), env=manager.env) as process,
    ):
        yield hypervisor.vms[0], manager, process, file


def interval_of(vm: SimulatedVm) -> object:
    return vm.state()["interval_s"]


def epochs(lines: Lines, vm: SimulatedVm) -> set[str]:
    return {each["epoch"] for each in lines.samples(vm.name)}


def sequences(lines: Lines, vm: SimulatedVm) -> list[int]:
    return [each["sequence"] for each in lines.samples(vm.name)]


def test_a_reload_keeps_the_process_and_loses_nothing(folder: Path) -> None:
    with served(folder) as (vm, manager, process, file):
        lines = Lines(process)
        manager.hear("READY=1")
        lines.wait_for_samples(vm.name, 2)
        write(file, folder, "2s")
        process.process.send_signal(signal.SIGHUP)
        begun = manager.hear("RELOADING=1")
        manager.hear("READY=1", begun)
        lines.wait(lambda: interval_of(vm) == 2, "the new interval in place of the agent's old one")
        count = len(lines.samples(vm.name))
        lines.wait_for_samples(vm.name, count + 2)
        kept = "given-back" not in process.stderr.read_text()
        ended = process.stop()

        told = sequences(lines, vm)
        assert manager.told[begun + 1].startswith("MONOTONIC_USEC=")
        assert kept
        assert len(epochs(lines, vm)) == 1
        assert told == list(range(1, len(told) + 1))
        assert ended == 0
        assert interval_of(vm) == 0  # restored by a stop, unlike by a reload
        assert manager.hear("STOPPING=1", begun) > manager.hear("READY=1", begun)


def test_a_reload_applies_the_changed_settings(folder: Path) -> None:
    with served(folder) as (vm, manager, process, file):
        manager.hear("READY=1")
        write(file, folder, "1s", "host: {name: renamed}\n")
        process.process.send_signal(signal.SIGHUP)
        manager.hear("READY=1", manager.hear("RELOADING=1"))
        lines = Lines(process)
        lines.wait(
            lambda: any(each["host"]["name"] == "renamed" for each in lines.samples(vm.name)),
            "a sample under the new name",
        )


def test_an_invalid_configuration_is_rejected_and_the_run_continues(folder: Path) -> None:
    with served(folder) as (vm, manager, process, file):
        lines = Lines(process)
        manager.hear("READY=1")
        write(file, folder, "soon")
        process.process.send_signal(signal.SIGHUP)
        process.wait_for_log("configuration rejected")
        count = len(lines.samples(vm.name))
        lines.wait_for_samples(vm.name, count + 2)
        assert "polling.interval" in process.stderr.read_text()
        assert "reload" not in process.stdout.read_text()
        assert process.stop() == 0


AT_A_TERMINAL = (sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])")


def test_closing_the_terminal_stops_the_agent_in_order(folder: Path) -> None:
    """The agent can no longer write its log and its lines."""
    env = {"BAROGRAPH_POLLING__ON_EXIT": "give-back"}
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    with (
        simulated(folder, vms=1) as hypervisor,
        agent(folder, *arguments, env=env, within=AT_A_TERMINAL) as process,
    ):
        (vm,) = hypervisor.vms
        wait_until(lambda: interval_of(vm) == 1, "the interval", process.process, process.stdout, 150)
        terminal = process.process.pid
        (pid,) = map(int, Path(f"/proc/{terminal}/task/{terminal}/children").read_text().split())
        process.process.kill()
        deadline_s = time.monotonic() + 150
        while (lives_on := is_running(pid)) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        if lives_on:
            os.kill(pid, signal.SIGKILL)
        assert not lives_on
        assert interval_of(vm) == 0


def test_the_manager_gets_watchdog_messages_and_a_status_while_the_loop_runs(
    folder: Path,
) -> None:
    with (
        simulated(folder, vms=2, preset=1) as hypervisor,
        managed(folder) as manager,
        agent(folder, "--monitor", f"{folder}/*.qmp", env=manager.env),
    ):
        assert len(hypervisor.vms) == 2
        manager.hear("STATUS=2 of 2 VMs reporting")
        first = manager.hear("WATCHDOG=1")
        assert manager.hear("WATCHDOG=1", manager.hear("WATCHDOG=1", first + 1) + 1) > first


def test_a_manager_without_a_listener_does_not_delay_the_agent(folder: Path) -> None:
    env = {"NOTIFY_SOCKET": f"{folder}/nobody", "WATCHDOG_USEC": "400000"}
    with (
        simulated(folder, vms=1, preset=1) as hypervisor,
        agent(folder, "--monitor", f"{folder}/*.qmp", env=env) as process,
    ):
        Lines(process).wait_for_samples(hypervisor.vms[0].name, 2)
        assert process.stop() == 0
