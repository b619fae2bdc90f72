"""Tests of the limits of this process, which are compared with the output of other programs."""

import resource
import subprocess

from agent.host.limits import clock_is_synchronized, files_max


def test_the_hard_limit_of_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    assert files_max() == (None if hard == resource.RLIM_INFINITY else hard)
    done = subprocess.run(["sh", "-c", "ulimit -H -n"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(files_max() or "unlimited")


def test_the_state_of_the_clock_is_read_and_not_set() -> None:
    assert clock_is_synchronized() == clock_is_synchronized()
    assert clock_is_synchronized() in (True, False, None)
