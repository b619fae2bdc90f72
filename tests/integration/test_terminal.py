"""Tests of `barograph status`, `top` and `tap` with running agents and simulated VMs."""

import json
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
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
async def test_a_frozen_vm_is_a_problem_with_its_next_step_in_status_and_top(folder: Path) -> None:
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    env = {**WEB, "BAROGRAPH_MEMORY__INTERVAL": "1s"}
    with simulated(folder, vms=3, preset=1) as hypervisor, agent(folder, *words, env=env) as process:
        url = url_when_told(process)
        wait_until(lambda: states(url) == ["reporting"] * 3, "all VMs are reporting")
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


def test_the_records_of_a_running_agent_are_shown_as_they_are_made(folder: Path) -> None:
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    env = {**WEB, "BAROGRAPH_MEMORY__INTERVAL": "1s", "BAROGRAPH_LINES__ENABLED": "true"}
    with simulated(folder, vms=2, preset=1) as hypervisor, agent(folder, *words, env=env) as process:
        url = url_when_told(process)
        wait_until(lambda: states(url) == ["reporting"] * 2, "all VMs are reporting")
        first, frozen = hypervisor.vms
        choice = ("--kind", "sample", "--kind", "vm_memory")
        values = barograph("tap", str(first.qmp), "--url", url, *choice, "-o", "json", "--limit", "3")
        with watching(str(frozen.qmp), "--url", url) as lines:
            shown = [next(lines)]
            frozen.freeze()
            shown += [next(line for line in lines if "vm_state" in line and "unreachable" in line)]
            code = process.stop()
        log, emitted = process.stderr.read_text(), process.stdout.read_text().splitlines()

    assert (values.returncode, values.stderr) == (0, "")
    assert len(values.stdout.splitlines()) == 3
    assert set(values.stdout.splitlines()) <= set(emitted)
    assert len({json.loads(line)["vm"]["id"] for line in values.stdout.splitlines()}) == 1
    assert all(len(line.rstrip("\n")) <= 80 for line in shown)
    assert "unreachable/no_answer, was reporting" in shown[1]
    assert code == 0
    assert "Traceback" not in log


@contextmanager
def watching(*words: str) -> Generator[Iterator[str]]:
    """Yield the lines of a `tap`, which is interrupted at the end of the block as by Ctrl-C."""
    argv = [sys.executable, "-m", "agent", "tap", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield iter(process.stdout)
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            assert process.wait(120) == 130
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
