"""`barograph doctor` on simulated VMs: each check fails on a real cause, and passes once it is gone."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.lab.agent import AgentProcess, agent, barograph
from tests.lab.process import free_port
from tests.lab.sim import Hypervisor, SimulatedVm, simulated

pytestmark = pytest.mark.timeout(900)  # each run of the command has deadlines of its own

UUID = "11111111-2222-4333-8444-555555555555"


def checked(folder: Path, *words: str, within: Sequence[str] = (), **environ: str) -> Mapping[str, str]:
    """Run the command, through the command `within` if given; return the worst level by code."""
    flags = ["--monitor", f"{folder}/*.qmp", "--state-directory", f"{folder}/state"]
    env = {"BAROGRAPH_WEB__ENABLED": "false", **environ}
    done = barograph("doctor", "-o", "json", *flags, *words, env=env, within=within)
    found: list[Mapping[str, Any]] = json.loads(done.stdout)["findings"]
    order = ("ok", "warning", "error")
    levels: dict[str, str] = {}
    for each in found:
        levels[each["code"]] = max(levels.get(each["code"], "ok"), each["level"], key=order.index)
    assert done.returncode == ("error" in levels.values()), done.stderr
    return levels


@pytest.fixture
def hypervisor(folder: Path) -> Generator[Hypervisor]:
    with simulated(folder) as running:
        running.add("good", interval_s=1)
        yield running


def duplicate(hypervisor: Hypervisor) -> Callable[[], object]:
    hypervisor.add("a", interval_s=1, uuid=UUID)
    twin = hypervisor.add("b", interval_s=1, uuid=UUID)
    return lambda: (twin.kill(), twin.qmp.unlink())


def without_balloon(hypervisor: Hypervisor) -> Callable[[], object]:
    return replaced(hypervisor.add("bad", bus="none"))


def not_polled(hypervisor: Hypervisor) -> Callable[[], object]:
    vm = hypervisor.add("bad", interval_s=0)
    return lambda: vm.order("interval 5")


def without_driver(hypervisor: Hypervisor) -> Callable[[], object]:
    vm = hypervisor.add("bad", interval_s=1, guest="silent", booted=False)

    def load() -> None:
        vm.order("load")
        with vm.monitor() as truth:
            while not truth.guest_stats()[0]:
                pass

    return load


def without_service(hypervisor: Hypervisor) -> Callable[[], object]:
    return replaced(hypervisor.add("bad", interval_s=1, guest="windows"))


def wedged(hypervisor: Hypervisor) -> Callable[[], object]:
    vm = hypervisor.add("bad", interval_s=1)
    vm.order("wedge")
    return lambda: vm.order("unwedge")


def frozen(hypervisor: Hypervisor) -> Callable[[], object]:
    vm = hypervisor.add("bad", interval_s=1)
    vm.freeze()
    return vm.thaw


def left_over(hypervisor: Hypervisor) -> Callable[[], object]:
    vm = hypervisor.add("bad", interval_s=1)
    vm.kill()
    return vm.start


def replaced(vm: SimulatedVm) -> Callable[[], object]:
    return lambda: (vm.kill(), vm.qmp.unlink())


CAUSES = {
    "vm-unique": duplicate,
    "vm-balloon": without_balloon,
    "vm-polling": not_polled,
    "vm-driver": without_driver,
    "vm-statistics": without_service,
    "socket-answer": wedged,
    "socket-free": frozen,
    "socket-listener": left_over,
}


@pytest.mark.parametrize("code", CAUSES)
def test_a_vm_fails_its_check_until_the_cause_is_gone(
    hypervisor: Hypervisor, folder: Path, code: str
) -> None:
    end = CAUSES[code](hypervisor)
    observing = {"BAROGRAPH_POLLING__POLICY": "observe"}

    failed = checked(folder, **observing)
    end()
    passed = checked(folder, **observing)

    assert failed[code] in ("warning", "error"), failed
    assert passed[code] == "ok", passed


def test_polling_that_the_agent_will_enable_is_no_finding(hypervisor: Hypervisor, folder: Path) -> None:
    vm = hypervisor.add("off", interval_s=0)

    assert checked(folder)["vm-polling"] == "ok"
    with vm.monitor() as truth:
        assert truth.interval_s() == 0  # and the command does not change it


@contextmanager
def asked(folder: Path, **environ: str) -> Generator[tuple[AgentProcess, Mapping[str, str]]]:
    """Run an agent for the command to query; yield it, and the environment of the command."""
    web = {"BAROGRAPH_WEB__ENABLED": "true", "BAROGRAPH_WEB__LISTEN": f"127.0.0.1:{free_port()}"}
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    with agent(folder, *words, state=folder / "state", env=web | environ) as process:
        process.wait_for_log("web server listening")
        yield process, web


def checked_until(folder: Path, code: str, level: str, *words: str, **environ: str) -> Mapping[str, str]:
    """Run the command until a check has this level, and return all levels."""
    deadline_s = time.monotonic() + 240
    while (levels := checked(folder, *words, **environ)).get(code) != level:
        assert time.monotonic() < deadline_s, (code, levels)
        time.sleep(1)  # each run of the command takes a second of CPU
    return levels


def test_the_states_are_those_of_the_running_agent(hypervisor: Hypervisor, folder: Path) -> None:
    with asked(folder) as (process, web):
        checked_until(folder, "agent-ready", "ok", **web)
        levels = checked_until(folder, "vm-updates", "ok", **web)
        assert levels["agent-running"] == levels["agent-version"] == levels["state-lock"] == "ok"
        assert levels["socket-free"] == "ok"  # the agent holds the monitor, and nothing else connects to it

        hypervisor.vm("good").order("unload")
        checked_until(folder, "vm-updates", "error", **web)
        process.stop()
    assert checked(folder, **web)["agent-running"] == "error"


@pytest.mark.parametrize(
    ("set_again", "level"), [("10m", "warning"), ("1s", "error")], ids=["once", "repeatedly"]
)
def test_another_client_that_disables_polling_until_it_is_stopped_and_the_agent_restarted(
    hypervisor: Hypervisor, folder: Path, set_again: str, level: str
) -> None:
    env = {"BAROGRAPH_POLLING__SET_AGAIN": set_again, "BAROGRAPH_POLLING__RECHECK": "1s"}
    with asked(folder, **env) as (process, web):
        assert checked_until(folder, "vm-updates", "ok", **web)["vm-contended"] == "ok"
        deadline_s = time.monotonic() + 240
        with hypervisor.vm("good").monitor() as client:
            while (levels := checked(folder, **web))["vm-contended"] != level:
                assert time.monotonic() < deadline_s, levels
                client.set_interval(0)
        assert process.stop() == 0

    with asked(folder, **env) as (process, web):
        levels = checked_until(folder, "vm-updates", "ok", **web)
        assert levels["vm-contended"] == levels["vm-polling"] == "ok"
        assert process.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own: needs root")
def test_an_interval_that_cannot_be_recorded_on_a_full_disk_until_there_is_space(
    hypervisor: Hypervisor, folder: Path
) -> None:
    disk = folder / "state"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(disk)], check=True)
    try:
        hypervisor.vm("good").order("interval 0")
        with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with asked(folder, BAROGRAPH_POLLING__HEARTBEAT="1s") as (process, web):
            checked_until(folder, "vm-interval", "error", **web)
            (disk / "ballast").unlink()
            checked_until(folder, "vm-interval", "ok", **web)
            assert process.stop() == 0
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
