"""Processes that end with this one, however it ends; and the wait for what they promise."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGED_IN = Path(__file__).parents[2]
"""Where the package `agent` is: from there `python -m agent` is this one, whatever else has that name."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

# The kernel sends the signal when the *thread* that started the child ends (prctl(2)), and a test's worker
# threads end early. This one ends with the process.
_starter = ThreadPoolExecutor(1, "starter")


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when the thread that starts it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    argv: Sequence[str | Path],
    log: Path,
    *,
    errors: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process without input, its output appended to `log`, with stderr or that to `errors`.

    It has a session of its own: ctrl-C at the terminal reaches only us, who end it in order.
    """

    def begin() -> subprocess.Popen[bytes]:
        with log.open("ab") as output, (errors or log).open("ab") as complaints:
            return subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=complaints,
                cwd=cwd,
                env=env,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )

    return _starter.submit(begin).result()


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and wait for the end. Harmless where it has ended."""
    process.kill()
    process.wait()


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used so far, user and system (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until(
    holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float
) -> None:
    """Return once `holds()`.

    Raises:
        RuntimeError: the process has ended, or time is up; the message has the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            why = f"not within {timeout_s} s" if code is None else f"it has ended with {code}"
            raise RuntimeError(f"{what}: {why}; {log}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


class AgentProcess:
    """One run of `barograph run`. Its output goes to files in its folder."""

    def __init__(
        self, folder: Path, arguments: Sequence[str], env: Mapping[str, str], within: Sequence[str] = ()
    ) -> None:
        """Start it.

        Args:
            folder: for its output; made where it is missing.
            arguments: of `run`.
            env: its whole environment.
            within: a command that runs its arguments as a command, in other circumstances.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.stdout, self.stderr = folder / "agent.out", folder / "agent.err"
        argv = [*within, sys.executable, "-m", "agent", "run", *arguments]
        self.process = start(argv, self.stdout, errors=self.stderr, cwd=PACKAGED_IN, env=env)

    def cpu_s(self) -> float:
        """The CPU time it has used so far, user and system."""
        return cpu_s(self.process.pid)

    def resident_bytes(self) -> int:
        """The memory it has now: resident, shared pages included (proc(5), statm)."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def wait_for_log(self, words: str, timeout_s: float = 30.0) -> None:
        """Return once `words` stand in its log.

        Raises:
            RuntimeError: it has ended, or time is up; the message has the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while words not in self.stderr.read_text():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"the agent did not say {words!r}:\n{self.stderr.read_text()[-4000:]}")
            time.sleep(0.02)

    def must_be_running(self) -> None:
        """See that it runs.

        Raises:
            RuntimeError: it has ended; the message has the end of its log.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"the agent has ended:\n{self.stderr.read_text()[-4000:]}")

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL."""
        kill(self.process)
