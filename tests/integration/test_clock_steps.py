"""The host's wall clock steps by an hour, for QEMU and for the agent, while a real guest reports."""

import time
from pathlib import Path

import pytest

from tests.integration.watching import Document, Lines, conserved
from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.wall_clock import WallClock

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu", "faketime")]

HOUR_S = 3600


def epochs(samples: list[Document]) -> list[list[Document]]:
    """Return the samples of each epoch, in order."""
    names = list(dict.fromkeys(each["epoch"] for each in samples))
    return [[each for each in samples if each["epoch"] == name] for name in names]


@pytest.mark.parametrize("agent_too", [True, False], ids=["the host's clock", "QEMU's alone"])
def test_a_clock_step_loses_no_update_and_repeats_none(folder: Path, agent_too: bool) -> None:
    clock = WallClock(folder)
    spooled = {"BAROGRAPH_SPOOL__MODE": "disk", **(clock.env if agent_too else {})}
    watch = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    with qemu.guest(folder, "g", env=clock.env) as vm:
        begun_s = time.monotonic()
        with agent(folder / "1", *watch, state=folder / "state", env=spooled) as process:
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples", 300)
            for offset_s in (HOUR_S, 0, -HOUR_S):
                count = len(lines.samples("g"))
                clock.step(offset_s)
                lines.wait(lambda count=count: len(lines.samples("g")) >= count + 4, "four more samples")
            assert process.stop() == 0
            conserved(process)
            samples, words = lines.samples("g"), lines.words(vm.qmp)
            # On a busy host QEMU or the agent may be late, but at most one update per second is missed.
            passed_s = time.monotonic() - begun_s
            assert sum(each["missed_at_most"] for each in samples) <= passed_s + 5
        with agent(
            folder / "2", *watch, state=folder / "state", env=spooled
        ) as process:  # while the clock is behind
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 2, "two more samples")
            samples += lines.samples("g")

    assert words[0] == ("connecting", "first_attempt")
    assert words[-1] == ("reporting", "advancing")
    assert set(words[1:-1]) <= {("unreachable", "no_answer"), ("reporting", "advancing")}  # on a busy host
    found = epochs(samples)
    # A step forward does not end an epoch. Each of the two steps back does.
    assert len(found) == 3
    for number, epoch in enumerate(found):
        assert [each["sequence"] for each in epoch] == list(range(1, len(epoch) + 1))
        times = [each["last_update"] for each in epoch]
        assert times == sorted(set(times))
        if number:
            before = found[number - 1]
            assert epoch[0]["last_update"] < before[-1]["last_update"]
            assert epoch[0]["previous"] == {"epoch": before[-1]["epoch"], "sequence": len(before)}
    assert len({(each["epoch"], each["last_update"]) for each in samples}) == len(samples)
