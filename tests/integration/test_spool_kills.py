"""Tests that kill a process at random points of a loop of commits, and open its spool again each time."""

import copy
import os
import random
import select
import signal
import time
from pathlib import Path

import pytest

from agent.spool.verify import verify
from tests.lab.spool_writer import Course, content, write


def killed_while_it_writes(path: Path, course: Course, chance: random.Random) -> int:
    """Let a child commit in a loop, kill it, and return how many commits it reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            write(path, course, 1 << 30, writer)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        if chance.random() < 0.8:  # otherwise it may be killed while it opens the file
            select.select([reader], [], [], 120)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself"
        reported = 0
        while some := os.read(reader, 65536):
            reported += len(some)
        return reported
    finally:
        os.close(reader)


def survive(path: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    course = Course(random.Random(chance.random()))
    write(path, course, 1, os.open(os.devnull, os.O_WRONLY))
    unreported = 0
    for number in range(kills):
        reported = killed_while_it_writes(path, course, chance)
        for _ in range(reported):
            course.next()
        one_more = copy.deepcopy(course)
        one_more.next()
        # Before anything writes to the file, as `barograph spool verify` would see it.
        assert verify(path).problems == [], f"kill {number} (seed {seed})"
        found = content(path)
        if found != course.content():  # then one more commit was complete, and not reported yet
            assert found == one_more.content(), f"kill {number} (seed {seed})"
            course, unreported = one_more, unreported + 1
    print(
        f"{kills} kills, {course.commits} commits: every reported one is there, each whole or not at all; "
        f"{unreported} had not been reported yet (seed {seed})"
    )
    assert course.commits > kills // 2


def test_kills_at_random_points_lose_no_commit_and_split_none(tmp_path: Path) -> None:
    survive(tmp_path / "spool.sqlite", 25, seed=1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_kills_at_random_points_lose_no_commit_and_split_none(tmp_path: Path) -> None:
    survive(tmp_path / "spool.sqlite", 1000, random.randrange(1 << 32))
