"""Tests of power cuts at any instant of a loop of commits: all or some of the unflushed writes are lost.

The commits are real and traced. tests/lab/power_cut.py derives from the trace what the disk may hold after a
cut; the tests open and check it. With less than `synchronous=FULL` they must find losses.
"""

import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.errors import SpoolError
from agent.spool.store import Bounds, open_store
from agent.spool.verify import verify
from tests.lab.power_cut import Call, Disk, calls, strace
from tests.lab.spool_writer import Content, Course, content

pytestmark = pytest.mark.usefixtures("tracing")


def traced(folder: Path, seed: int, commits: int, level: str) -> Sequence[Call]:
    """Let a process commit in `folder`, and return its calls on the files there."""
    words = [sys.executable, "-m", "tests.lab.spool_writer", str(folder / "spool.sqlite"), str(seed)]
    trace = folder.with_suffix(".trace")
    folder.mkdir()
    subprocess.run(
        [*strace(trace), *words, str(commits), level], check=True, stdout=subprocess.DEVNULL, timeout=400
    )
    inside = str(folder)
    return [each for each in calls(trace) if each.paths[0].startswith(inside) or _is_acknowledgment(each)]


def _is_acknowledgment(call: Call) -> bool:
    return call.name == "write" and call.data == b"."


def contents(seed: int, commits: int) -> Sequence[Content]:
    """Return the content expected before the first commit and after each one."""
    course = Course(random.Random(str(seed)))
    found = [course.content()]
    for _ in range(commits):
        course.next()
        found.append(course.content())
    return found


def cut(tmp_path: Path, level: str, *, seed: int, commits: int, cuts: int) -> Counter[str]:
    """Cut the power at many instants of one run; return the number of spools of each fate."""
    chance = random.Random(seed)
    folder = tmp_path / f"{level}-{seed}"
    done = traced(folder, seed, commits, level)
    expected = contents(seed, commits)
    acknowledgments = [at for at, call in enumerate(done) if _is_acknowledgment(call)]
    assert len(acknowledgments) == commits
    # Half of them just after a commit has returned, when the caller relies on it.
    instants = chance.choices(acknowledgments, k=cuts // 2) + chance.choices(range(len(done)), k=cuts // 2)
    disk, acknowledged, found = Disk(folder), 0, Counter[str]()
    at_once = Counter(instants)
    after = tmp_path / "after"
    for at, call in enumerate(done):
        disk.take(call)
        acknowledged += _is_acknowledgment(call)
        for _ in range(at_once[at]):
            shutil.rmtree(after, ignore_errors=True)
            after.mkdir()
            for name, data in disk.after_a_cut(chance).items():
                (after / name).write_bytes(data)
            found[_fate(after / "spool.sqlite", expected[acknowledged : acknowledged + 2])] += 1
    return found


def _fate(path: Path, allowed: Sequence[Content]) -> str:
    """Return a spool's fate: an intact one has all acknowledged commits and at most the one under way."""
    try:
        open_store(path, Bounds()).close()
        if verify(path).problems:
            return "damaged"
        return "intact" if content(path) in allowed else "lost"
    except SpoolError:
        return "damaged"


def test_a_power_cut_loses_no_commit_that_has_returned(tmp_path: Path) -> None:
    assert cut(tmp_path, "FULL", seed=2, commits=150, cuts=400) == {"intact": 400}


@pytest.mark.parametrize("level", ["NORMAL", "OFF"])
def test_the_same_cuts_find_losses_with_less_than_full(tmp_path: Path, level: str) -> None:
    found = cut(tmp_path, level, seed=1, commits=150, cuts=200)
    assert found["lost"] > 20
    assert (found["damaged"] > 0) is (level == "OFF")  # sqlite.org/pragma.html#pragma_synchronous


@pytest.mark.long
@pytest.mark.timeout(900)
def test_five_thousand_power_cuts_lose_no_commit_that_has_returned(tmp_path: Path) -> None:
    seed = random.randrange(1 << 31)
    found = Counter[str]()
    for number in range(10):
        found += cut(tmp_path, "FULL", seed=seed + number, commits=400, cuts=500)
    print(f"power cuts: {dict(found)} (seeds from {seed})")
    assert found == {"intact": 5000}
