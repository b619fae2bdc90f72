"""Tests of what one run of the agent leaves to the next run, and of two agents on one host."""

from pathlib import Path

import pytest

from tests.integration.watching import Lines, conserved
from tests.lab import qemu
from tests.lab.agent import agent

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu")]

SPOOLED = {"BAROGRAPH_SPOOL__MODE": "disk"}


def watch(folder: Path) -> list[str]:
    return ["--monitor", f"{folder}/*.qmp", "--interval", "1s"]


def test_a_restart_continues_the_sequence_and_keeps_the_interval(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, vm.monitor() as monitor:
        with agent(folder / "1", *watch(folder), state=folder / "state", env=SPOOLED) as process:
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")
            assert process.stop() == 0
            conserved(process)
            before = lines.samples("g")
        assert monitor.interval_s() == 1

        with agent(folder / "2", *watch(folder), state=folder / "state", env=SPOOLED) as process:
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 2, "two more samples")
            after, states = lines.samples("g"), lines.states(vm.qmp)

        assert [each["sequence"] for each in after[:2]] == [len(before) + 1, len(before) + 2]
        assert after[0]["epoch"] == before[-1]["epoch"]
        assert after[0]["last_update"] > before[-1]["last_update"]
        assert "previous" not in after[0]
        assert states[0]["previous_state"] == "reporting"
        assert states[0]["sequence"] == 1  # of another run


def test_updates_overwritten_while_no_agent_runs_are_counted_as_missed(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, vm.monitor() as monitor:
        with agent(folder / "1", *watch(folder), state=folder / "state", env=SPOOLED) as process:
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")
            process.kill()
            before = lines.samples("g")
        for _ in range(4):
            monitor.wait_for_update()

        with agent(folder / "2", *watch(folder), state=folder / "state", env=SPOOLED) as process:
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 2, "two more samples")
            first, second = lines.samples("g")[:2]

        away_s = first["last_update"] - before[-1]["last_update"]
        assert away_s - 2 <= first["missed_at_most"] <= away_s
        assert second["missed_at_most"] <= second["last_update"] - first["last_update"] - 1


def test_a_second_agent_leaves_the_monitors_of_the_first_alone_until_it_ends(folder: Path) -> None:
    # XDG_RUNTIME_DIR has the agents' locks; root's are elsewhere.
    often = {"BAROGRAPH_DISCOVERY__RESCAN": "300ms", "XDG_RUNTIME_DIR": str(folder)}
    with qemu.guest(folder, "g") as vm, agent(folder / "1", *watch(folder), env=often) as first:
        Lines(first).wait_for_state(vm.qmp, "reporting")
        with agent(folder / "2", *watch(folder), env=often) as second:
            second.wait_for_log("reason=other_agent")
            lines = Lines(second)
            assert lines.states(vm.qmp) == []

            first.kill()
            lines.wait_for_state(vm.qmp, "reporting")
