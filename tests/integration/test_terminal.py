"""`barograph status` and `top` against running agents with simulated VMs."""

import json
from functools import partial
from pathlib import Path

import pytest

from agent.cli.hosts import ask_all, places
from agent.cli.top_screen import Top
from tests.integration.audit import WEB, ask
from tests.integration.test_web import url_when_told, wait_until
from tests.lab.agent import agent, barograph
from tests.lab.sim import simulated
from tests.unit.test_cli_top import until


def states(url: str) -> list[str]:
    return sorted(vm["state"]["state"] for vm in json.loads(ask(url, "status")[1])["vms"])


@pytest.mark.anyio
async def test_a_vm_that_freezes_is_a_problem_with_its_next_step_in_both(folder: Path) -> None:
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    env = {**WEB, "BAROGRAPH_MEMORY__INTERVAL": "1s"}
    with simulated(folder, vms=3, preset=1) as hypervisor, agent(folder, *words, env=env) as process:
        url = url_when_told(process)
        wait_until(lambda: states(url) == ["reporting"] * 3, "all report")
        well = barograph("status", "--url", url)
        wait_until(lambda: "available" in barograph("status", "--url", url).stdout, "the host's memory")
        frozen = hypervisor.vms[1]
        app = Top(partial(ask_all, places([url], None, None)), interval_s=0.1, several=False)
        async with app.run_test(size=(80, 40)) as pilot:
            await until(pilot, app, "VMs: 3; problems: 0")
            frozen.freeze()
            await until(pilot, app, "VMs: 3; problems: 1")
            await pilot.press("slash", *"unreach", "enter")
            await until(pilot, app, "VMs: 1; problems: 1; sort: urgency; filter: unreach")
            await pilot.press("enter")
            await until(pilot, app, "reporting -> unreachable: no_answer")
        wrong = barograph("status", "--url", url)
        wide = barograph("status", "--url", url, "-o", "wide")
        as_json = barograph("status", "--url", url, "-o", "json")
        frozen.thaw()
        assert process.stop() == 0

    assert (well.returncode, well.stderr) == (0, "")
    assert "PROBLEMS" not in well.stdout
    assert wrong.returncode == wide.returncode == as_json.returncode == 1
    assert "PROBLEMS: 1\nvm/unreachable/no_answer" in wrong.stdout
    assert "next: check whether the QEMU process is stopped" in wrong.stdout
    table = wrong.stdout[wrong.stdout.index("\nVM ") + 1 :].splitlines()
    assert [line.split()[2] for line in table[1:]] == ["unreachable", "reporting", "reporting"]
    assert all(len(line) <= 80 for line in wrong.stdout.splitlines())
    assert str(frozen.qmp) in wide.stdout
    assert len(json.loads(as_json.stdout)["vms"]) == 3
