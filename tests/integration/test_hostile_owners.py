"""A user with many monitors beside the VMs of another user: the VMs of each user have their share."""

import json
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.fuzzing import compare_healthy, peers
from tests.integration.watching import Lines
from tests.lab.agent import AgentProcess, agent
from tests.lab.process import wait_until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to other users"),
]

HEALTHY = 3


def give_to(user_id: int, directory: Path) -> None:
    for path in (directory, *directory.iterdir()):
        os.chown(path, user_id, -1)


@contextmanager
def others(folder: Path, kind: str, count: int) -> Generator[None]:
    """Monitors of another user, in a directory that sorts first."""
    theirs = folder / "a"
    theirs.mkdir()
    with peers(kind, theirs, count, 0, folder / f"{kind}.json"):
        give_to(1000, theirs)
        yield


@contextmanager
def healthy(folder: Path) -> Generator[Path]:
    ours = folder / "b"
    ours.mkdir()
    truth = folder / "healthy.json"
    with peers("healthy", ours, HEALTHY, 0, truth):
        give_to(1001, ours)
        yield ours


def judge(process: AgentProcess, folder: Path, seconds: float) -> list[float]:
    """Return the lags of the healthy VMs, whose updates must all arrive from now on."""
    lines = Lines(process)
    for number in range(HEALTHY):
        lines.wait_for_state(folder / "b" / f"healthy-{number}.qmp", "reporting")
    time.sleep(6 + seconds)
    until_ms = time.time() * 1000 - 1000
    for number in range(HEALTHY):
        words = lines.words(folder / "b" / f"healthy-{number}.qmp")
        assert words[-1] == ("reporting", "updates_arriving"), words
    assert process.stop() == 0, process.stderr.read_text()[-4000:]
    output = process.stdout.read_text().splitlines()
    found = compare_healthy(output, json.loads((folder / "healthy.json").read_text()), until_ms)
    for vm in found:
        assert vm.updates >= 5
        assert (vm.lost, vm.wrong, vm.invented, vm.repeated) == ((), (), (), ())
    return [lag for vm in found for lag in vm.lags_ms]


def test_more_peers_than_descriptors_cost_only_their_owner(folder: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(others(folder, "crowd", 600))
        process = stack.enter_context(
            agent(
                folder / "run",
                *("--monitor", f"{folder}/*/*.qmp", "--interval", "1s"),
                env={"BAROGRAPH_LINES__ENABLED": "true"},
                within=("prlimit", "--nofile=300:300"),
            )
        )
        process.wait_for_log("the agent has room for 150", 60)
        log = process.stderr
        wait_until(
            lambda: process.stdout.read_text().count('"state":"reporting"') >= 150,
            "the room is full",
            process.process,
            log,
            60,
        )
        stack.enter_context(healthy(folder))

        judge(process, folder, 8)

        assert "user 1000 has the most VMs: this one and" in log.read_text()
        assert "Too many open files" not in log.read_text()
