"""The agent as a service: what it tells who has started it, and SIGHUP: the configuration is read anew."""

import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.watching import Lines
from tests.lab.agent import agent
from tests.lab.sim import SimulatedVm, simulated


class Manager:
    """A service manager's socket, and what was told there."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(30)
        self.env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"}

    def hear(self, word: str, *, not_before: str = "") -> list[str]:
        """Return the fields told until one is `word`."""
        heard: list[str] = []
        while not heard or heard[-1] != word:
            heard += self._socket.recv(4096).decode().split("\n")
            assert not_before not in heard[:-1] or not not_before
        return heard

    def close(self) -> None:
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


def interval_of(vm: SimulatedVm) -> object:
    return vm.state()["interval_s"]


def epochs(lines: Lines, vm: SimulatedVm) -> set[str]:
    return {each["epoch"] for each in lines.samples(vm.name)}


def sequences(lines: Lines, vm: SimulatedVm) -> list[int]:
    return [each["sequence"] for each in lines.samples(vm.name)]


def test_a_reload_takes_the_new_configuration_in_the_same_process_and_loses_nothing(folder: Path) -> None:
    file = folder / "b.yaml"
    write(file, folder, "1s")
    with (
        simulated(folder, vms=1) as hypervisor,
        managed(folder) as manager,
        agent(folder, "--config", str(file), env=manager.env) as process,
    ):
        vm, lines = hypervisor.vms[0], Lines(process)
        manager.hear("READY=1")
        lines.wait_for_samples(vm.name, 2)
        write(file, folder, "2s")
        process.process.send_signal(signal.SIGHUP)
        during = manager.hear("READY=1")
        lines.wait(lambda: interval_of(vm) == 1, "the interval is followed, not given back")
        count = len(lines.samples(vm.name))
        lines.wait_for_samples(vm.name, count + 2)
        ended = process.stop()

        told = sequences(lines, vm)
        assert "RELOADING=1" in during
        assert any(each.startswith("MONOTONIC_USEC=") for each in during)
        assert "STOPPING=1" not in during
        assert len(epochs(lines, vm)) == 1
        assert told == list(range(1, len(told) + 1))
        assert ended == 0
        assert interval_of(vm) == 0  # a stop, not a reload: it is given back
        manager.hear("STOPPING=1")


def test_what_was_changed_holds_after_a_reload(folder: Path) -> None:
    file = folder / "b.yaml"
    write(file, folder, "1s")
    with (
        simulated(folder, vms=1) as hypervisor,
        managed(folder) as manager,
        agent(folder, "--config", str(file), env=manager.env) as process,
    ):
        manager.hear("READY=1")
        write(file, folder, "1s", "host: {name: renamed}\n")
        process.process.send_signal(signal.SIGHUP)
        manager.hear("READY=1")
        lines = Lines(process)
        lines.wait(
            lambda: any(each["host"]["name"] == "renamed" for each in lines.samples(hypervisor.vms[0].name)),
            "a sample under the new name",
        )


def test_a_configuration_that_is_wrong_is_not_taken_and_the_run_goes_on(folder: Path) -> None:
    file = folder / "b.yaml"
    write(file, folder, "1s")
    with (
        simulated(folder, vms=1) as hypervisor,
        managed(folder) as manager,
        agent(folder, "--config", str(file), env=manager.env) as process,
    ):
        vm, lines = hypervisor.vms[0], Lines(process)
        manager.hear("READY=1")
        write(file, folder, "soon")
        process.process.send_signal(signal.SIGHUP)
        process.wait_for_log("configuration not taken")
        count = len(lines.samples(vm.name))
        lines.wait_for_samples(vm.name, count + 2)
        assert "polling.interval" in process.stderr.read_text()
        assert "reload" not in process.stdout.read_text()
        assert process.stop() == 0


def test_the_watchdog_is_fed_with_the_state_of_things_while_the_loop_turns(
    folder: Path,
) -> None:
    with (
        simulated(folder, vms=2, preset=1) as hypervisor,
        managed(folder) as manager,
        agent(folder, "--monitor", f"{folder}/*.qmp", env=manager.env),
    ):
        assert len(hypervisor.vms) == 2
        manager.hear("STATUS=2 of 2 VMs report")
        for _ in range(3):
            assert "WATCHDOG=1" in manager.hear("STATUS=2 of 2 VMs report")


def test_a_manager_that_does_not_listen_holds_up_nothing(folder: Path) -> None:
    env = {"NOTIFY_SOCKET": f"{folder}/nobody", "WATCHDOG_USEC": "400000"}
    with (
        simulated(folder, vms=1, preset=1) as hypervisor,
        agent(folder, "--monitor", f"{folder}/*.qmp", env=env) as process,
    ):
        Lines(process).wait_for_samples(hypervisor.vms[0].name, 2)
        assert process.stop() == 0
