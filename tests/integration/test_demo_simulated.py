"""`barograph demo`: its summary, its exit codes, and that nothing of it outlives it."""

import os
import re
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from simulator.demo.process import kill, start, wait_until
from simulator.demo.run import PLACE_BYTES_MAX, short_place

ROOT = Path(__file__).parents[2]
STATES = {
    "connecting", "duplicate", "empty", "gone", "no-balloon", "no-greeting", "off", "paused", "reporting",
    "stalled", "unreachable", "waiting",
}  # fmt: skip


@contextmanager
def demo(folder: Path, *words: str) -> Generator[tuple[Popen[bytes], Path]]:
    """`barograph demo`, where a user may be: in some folder, with some environment."""
    log = folder / "demo.log"
    odd = {"BAROGRAPH_MONITORS": "/nowhere/*", "BAROGRAPH_WEB__LISTEN": "nonsense", "TMPDIR": str(folder)}
    process = start([sys.executable, "-m", "agent", "demo", *words], log, env={**os.environ, **odd})
    try:
        yield process, log
    finally:
        kill(process)


def place_of(told: str) -> str:
    """Return the demo's temporary folder."""
    return next(word for word in told.split() if word.endswith("/*.qmp")).removesuffix("/*.qmp")


def parts_running(place: str) -> dict[int, str]:
    """Return the command lines of processes that name the folder, by pid: the agent's and the simulator's."""
    lines: dict[int, str] = {}
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if place in words and " demo " not in words:
            lines[int(each.parent.name)] = words
    return lines


def all_row(told: str) -> list[str]:
    """Return what the summary says of all VMs: updates, samples, lost, repeated, wrong, and lags."""
    return next(line.split()[1:] for line in told.splitlines() if line.split()[:1] == ["all"])


def test_a_day_shows_every_state_and_loses_nothing(folder: Path) -> None:
    with demo(folder, "--seconds", "16", "--scenario", "day", "--vms", "14") as (process, log):
        code = process.wait(90)

    told = log.read_text()
    place = place_of(told)
    seen = re.search(r"states seen: ([a-z, \n-]+)", told)
    updates, samples, *faults = all_row(told)[:5]
    assert faults == ["0", "0", "0"], told
    assert code == 0
    assert int(samples) >= int(updates) > 100
    assert seen is not None
    assert set(re.split(r"[,\s]+", seen[1])) >= STATES
    assert "the guest unloads its balloon driver" in told
    assert "could not be: " not in told  # an order of the scenario
    assert re.search(r"the agent: [0-9.]+ % of one core.* [0-9]+ MB", told)
    assert told.splitlines()[-1] == "nothing of it is left running"
    assert parts_running(place) == {}
    assert not Path(place).exists()


def test_bad_neighbours_are_named_and_the_others_lose_nothing(folder: Path) -> None:
    with demo(folder, "--seconds", "12", "--scenario", "neighbours", "--vms", "12") as (process, log):
        code = process.wait(90)

    told = log.read_text()
    assert all_row(told)[2:5] == ["0", "0", "0"], told
    assert code == 0
    assert "  frozen-01: unreachable (no_answer)" in told
    assert "unreachable (flooding)" in told
    assert "unreachable (hung_up)" in told
    kept_out = re.search(r"lying-02: (\d+) impossible values kept out", told)
    assert kept_out is not None
    assert int(kept_out[1]) > 0


def test_interrupted_it_sums_up_and_leaves_nothing(folder: Path) -> None:
    with demo(folder, "--scenario", "steady", "--vms", "3") as (process, log):
        wait_until(lambda: "reporting" in log.read_text(), "the demo", process, log, 60)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)

    told = log.read_text()
    assert code == 130
    assert "updates were made" in told
    assert told.splitlines()[-1] == "nothing of it is left running"
    assert parts_running(place_of(told)) == {}


def test_killed_it_takes_the_agent_and_the_simulator_with_it(folder: Path) -> None:
    with demo(folder, "--scenario", "steady", "--vms", "3") as (process, log):
        wait_until(lambda: "reporting" in log.read_text(), "the demo", process, log, 60)
        place = place_of(log.read_text())
        assert len(parts_running(place)) == 2
        kill(process)

    deadline = time.monotonic() + 10
    while parts_running(place) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert parts_running(place) == {}


def test_an_agent_that_ends_is_told_with_its_words(folder: Path) -> None:
    with demo(folder, "--scenario", "steady", "--vms", "3") as (process, log):
        wait_until(lambda: "reporting" in log.read_text(), "the demo", process, log, 60)
        place = place_of(log.read_text())
        (pid,) = (pid for pid, words in parts_running(place).items() if " -m agent run " in words)
        os.kill(pid, signal.SIGKILL)
        code = process.wait(60)

    assert code == 1
    assert "the demo could not go on: the agent has ended" in log.read_text()
    assert parts_running(place) == {}


def test_make_demo_falls_back_to_it_where_qemu_cannot_be_had_and_says_so(folder: Path) -> None:
    log, nothing = folder / "demo.log", folder / "bin"
    nothing.mkdir()
    bare = {**os.environ, "PATH": str(nothing), "BAROGRAPH_CACHE": str(folder / "cache")}
    process = start([sys.executable, "-m", "tests.lab.demo"], log, cwd=ROOT, env=bare)
    try:
        wait_until(lambda: "→ reporting" in log.read_text(), "the demo", process, log, 60)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    finally:
        kill(process)

    told = log.read_text()
    assert "real guests can not be had here: needs qemu-system-x86" in told
    assert "Simulated ones are shown instead" in told
    assert told.index("instead") < told.index("simulated VMs")
    assert code == 130


@pytest.mark.parametrize("words", [("--interval", "500ms"), ("--kafka", "nonsense"), ("--otlp", "nonsense")])
def test_what_the_agent_would_refuse_is_refused_before_anything_starts(
    folder: Path, words: tuple[str, str]
) -> None:
    with demo(folder, *words) as (process, log):
        code = process.wait(30)

    assert code == 2
    assert f"  {words[0]}: " in log.read_text()


def test_the_place_for_sockets_is_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = folder / ("x" * PLACE_BYTES_MAX)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))

    assert short_place({"XDG_RUNTIME_DIR": str(folder)}) == str(folder)
    assert short_place({}) == "/tmp"
