"""`barograph doctor` on simulated VMs: each check fails on a real cause, and passes once it is gone."""

import json
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.lab.agent import agent, barograph
from tests.lab.process import free_port
from tests.lab.sim import Hypervisor, SimulatedVm, simulated

pytestmark = pytest.mark.timeout(900)  # each run of the command has deadlines of its own

UUID = "11111111-2222-4333-8444-555555555555"


def checked(folder: Path, *words: str, **environ: str) -> Mapping[str, str]:
    """Return the worst level by code."""
    flags = ["--monitor", f"{folder}/*.qmp", "--state-directory", f"{folder}/state"]
    env = {"BAROGRAPH_WEB__ENABLED": "false", **environ}
    done = barograph("doctor", "-o", "json", *flags, *words, env=env)
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
        assert truth.interval_s() == 0  # and it is left as it was


def test_the_states_are_those_of_the_running_agent(hypervisor: Hypervisor, folder: Path) -> None:
    place = f"127.0.0.1:{free_port()}"
    web = {"BAROGRAPH_WEB__ENABLED": "true", "BAROGRAPH_WEB__LISTEN": place}
    flags = ["--monitor", f"{folder}/*.qmp", "--interval", "1s"]
    with agent(folder, *flags, state=folder / "state", env=web) as process:
        process.wait_for_log("web server listening")
        levels: Mapping[str, str] = {}
        for _ in range(50):
            levels = checked(folder, **web)
            if levels.get("agent-ready") == "ok" and levels.get("vm-updates") == "ok":
                break
        assert levels["agent-running"] == levels["agent-version"] == levels["state-lock"] == "ok"
        assert levels["socket-free"] == "ok"  # the agent holds the monitor, and nothing else connects to it

        hypervisor.vm("good").order("unload")
        for _ in range(100):
            levels = checked(folder, **web)
            if levels["vm-updates"] == "error":
                break
        assert levels["vm-updates"] == "error"
        process.stop()
    assert checked(folder, **web)["agent-running"] == "error"
