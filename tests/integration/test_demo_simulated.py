"""`barograph demo`: its summary, its exit codes, and that it leaves no process behind."""

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
from simulator.demo.run import PARENT_BYTES_MAX, short_parent
from tests.integration.promises import best_of_three, promised

ROOT = Path(__file__).parents[2]
STATES = {
    "connecting", "duplicate", "empty", "gone", "no-balloon", "no-greeting", "off", "paused", "reporting",
    "stalled", "unreachable", "waiting",
}  # fmt: skip


@contextmanager
def demo(folder: Path, *words: str) -> Generator[tuple[Popen[bytes], Path]]:
    """Run `barograph demo` with settings in the environment that it must ignore."""
    log = folder / "demo.log"
    odd = {"BAROGRAPH_MONITORS": "/nowhere/*", "BAROGRAPH_WEB__LISTEN": "nonsense", "TMPDIR": str(folder)}
    process = start([sys.executable, "-m", "agent", "demo", *words], log, env={**os.environ, **odd})
    try:
        yield process, log
    finally:
        kill(process)


def folder_of(output: str) -> str:
    """Return the demo's temporary folder."""
    return next(word for word in output.split() if word.endswith("/*.qmp")).removesuffix("/*.qmp")


def parts_running(temporary: str) -> dict[int, str]:
    """Return the command lines of the agent and the simulator, by pid: those that contain the folder."""
    lines: dict[int, str] = {}
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if temporary in words and " demo " not in words:
            lines[int(each.parent.name)] = words
    return lines


def all_row(output: str) -> list[str]:
    """Return the summary's row for all VMs: updates, samples, lost, repeated, wrong, and lags."""
    return next(line.split()[1:] for line in output.splitlines() if line.split()[:1] == ["all"])


@best_of_three
def test_the_scenario_day_shows_every_state_and_loses_nothing(folder: Path) -> None:
    with demo(folder, "--seconds", "20", "--scenario", "day", "--vms", "14") as (process, log):
        code = process.wait(300)

    output = log.read_text()
    temporary = folder_of(output)
    seen = re.search(r"states seen: ([a-z, \n-]+)", output)
    updates, samples, lost, *faults = all_row(output)[:5]
    assert faults == ["0", "0"], output
    # An agent without CPU for a second loses updates.
    promised(lost == "0", output)
    assert code == 0
    assert int(samples) >= int(updates) > 100
    assert seen is not None
    assert set(re.split(r"[,\s]+", seen[1])) >= STATES
    assert "the guest unloads its balloon driver" in output
    assert "failed: " not in output  # an order of the scenario
    assert re.search(r"agent: [0-9.]+ % of one core.* [0-9]+ MB", output)
    assert output.splitlines()[-1] == "all processes of the demo have ended"
    assert parts_running(temporary) == {}
    assert not Path(temporary).exists()


@best_of_three
def test_faulty_vms_are_reported_and_the_others_lose_nothing(folder: Path) -> None:
    with demo(folder, "--seconds", "12", "--scenario", "neighbours", "--vms", "12") as (process, log):
        code = process.wait(300)

    output = log.read_text()
    lost, *faults = all_row(output)[2:5]
    assert faults == ["0", "0"], output
    promised(lost == "0", output)
    assert code == 0
    assert "  frozen-01: unreachable (no_answer)" in output
    assert "unreachable (flooding)" in output
    assert "unreachable (hung_up)" in output
    left_out = re.search(r"lying-02: (\d+) impossible values? left out", output)
    assert left_out is not None
    assert int(left_out[1]) > 0


def test_an_interrupted_demo_prints_its_summary_and_leaves_nothing(folder: Path) -> None:
    with demo(folder, "--scenario", "steady", "--vms", "3") as (process, log):
        wait_until(lambda: "reporting" in log.read_text(), "the demo", process, log, 180)
        process.send_signal(signal.SIGINT)
        code = process.wait(180)

    output = log.read_text()
    assert code == 130
    assert "updates made" in output
    assert output.splitlines()[-1] == "all processes of the demo have ended"
    assert parts_running(folder_of(output)) == {}


def test_a_killed_demo_takes_the_agent_and_the_simulator_with_it(folder: Path) -> None:
    with demo(folder, "--scenario", "steady", "--vms", "3") as (process, log):
        wait_until(lambda: "reporting" in log.read_text(), "the demo", process, log, 180)
        temporary = folder_of(log.read_text())
        assert len(parts_running(temporary)) == 2
        kill(process)

    deadline = time.monotonic() + 60
    while parts_running(temporary) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert parts_running(temporary) == {}


def test_the_demo_fails_with_the_log_of_an_agent_that_ends(folder: Path) -> None:
    with demo(folder, "--scenario", "steady", "--vms", "3") as (process, log):
        wait_until(lambda: "reporting" in log.read_text(), "the demo", process, log, 180)
        temporary = folder_of(log.read_text())
        (pid,) = (pid for pid, words in parts_running(temporary).items() if " -m agent run " in words)
        os.kill(pid, signal.SIGKILL)
        code = process.wait(180)

    assert code == 1
    assert "the demo failed: the agent has ended" in log.read_text()
    assert parts_running(temporary) == {}


def test_make_demo_without_qemu_reports_it_and_runs_the_simulated_demo(folder: Path) -> None:
    log, nothing = folder / "demo.log", folder / "bin"
    nothing.mkdir()
    bare = {**os.environ, "PATH": str(nothing), "BAROGRAPH_CACHE": str(folder / "cache")}
    process = start([sys.executable, "-m", "tests.lab.demo"], log, cwd=ROOT, env=bare)
    try:
        wait_until(lambda: "→ reporting" in log.read_text(), "the demo", process, log, 180)
        process.send_signal(signal.SIGINT)
        code = process.wait(180)
    finally:
        kill(process)

    output = log.read_text()
    assert "real guests are not available: needs qemu-system-x86" in output
    assert "Running `barograph demo` with simulated guests instead" in output
    assert output.index("instead") < output.index("simulated VMs for")
    assert code == 130


@pytest.mark.parametrize("words", [("--interval", "500ms"), ("--kafka", "nonsense"), ("--otlp", "nonsense")])
def test_flags_that_the_agent_refuses_are_refused_before_anything_starts(
    folder: Path, words: tuple[str, str]
) -> None:
    with demo(folder, *words) as (process, log):
        code = process.wait(180)

    assert code == 2
    assert f"  {words[0]}: " in log.read_text()


def test_the_temporary_folder_has_a_short_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = folder / ("x" * PARENT_BYTES_MAX)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))

    assert short_parent({"XDG_RUNTIME_DIR": str(folder)}) == str(folder)
    assert short_parent({}) == "/tmp"
