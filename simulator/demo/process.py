"""Child processes that are killed when this process ends, however it ends."""

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

PACKAGE_ROOT = Path(__file__).parents[2]
"""The folder that contains this package; as working directory it makes `python -m agent` run this copy."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

# The kernel sends the signal when the *thread* that started the child ends (prctl(2)), and the worker threads
# of a test end early. This thread lives as long as the process.
_starter = ThreadPoolExecutor(1, "starter")


def die_with_parent() -> None:
    """Make the kernel kill this process when the thread that started it ends; for use as `preexec_fn`."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    argv: Sequence[str | Path],
    log: Path,
    *,
    errors: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process without input; append its output to `log`, and its stderr to `errors` if given.

    The process has a session of its own: Ctrl-C at the terminal reaches only the parent, which then stops
    its children in order.
    """

    def begin() -> subprocess.Popen[bytes]:
        with log.open("ab") as output, (errors or log).open("ab") as error_output:
            return subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=error_output,
                cwd=cwd,
                env=env,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )

    return _starter.submit(begin).result()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL and wait until the process has ended; no error if it has ended already."""
    process.kill()
    process.wait()


def cpu_s(pid: int) -> float:
    """Return the CPU time, user and system, that a process has used so far (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until(
    holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float
) -> None:
    """Wait until `holds()` returns true.

    Args:
        holds: the condition.
        what: names the process in the error message.
        process: must not end meanwhile.
        log: of the process.
        timeout_s: how long to wait.

    Raises:
        RuntimeError: the process has ended or the timeout has expired; the message has the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            why = f"not ready within {timeout_s} s" if code is None else f"ended with exit code {code}"
            raise RuntimeError(f"{what}: {why}; {log}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


class AgentProcess:
    """A running `barograph run` whose output goes to files."""

    def __init__(
        self, folder: Path, arguments: Sequence[str], env: Mapping[str, str], within: Sequence[str] = ()
    ) -> None:
        """Start the agent.

        Args:
            folder: for the output files; created if missing.
            arguments: of `barograph run`.
            env: the complete environment.
            within: a command that runs the agent's command line, given to it as arguments.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.stdout, self.stderr = folder / "agent.out", folder / "agent.err"
        argv = [*within, sys.executable, "-m", "agent", "run", *arguments]
        # An agent that ran in the folder before has left its log in the same file.
        self._log_begins_bytes = self.stderr.stat().st_size if self.stderr.exists() else 0
        self.process = start(argv, self.stdout, errors=self.stderr, cwd=PACKAGE_ROOT, env=env)

    def cpu_s(self) -> float:
        """Return the CPU time, user and system, used so far."""
        return cpu_s(self.process.pid)

    def resident_bytes(self) -> int:
        """Return the resident memory, shared pages included (proc(5), statm)."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def wait_for_log(self, text: str, timeout_s: float = 120.0) -> None:
        """Wait until the log of this agent contains `text`.

        Raises:
            RuntimeError: the agent has ended or the timeout has expired; the message has the end of its log.
        """
        wait_until(
            lambda: text.encode() in self.stderr.read_bytes()[self._log_begins_bytes :],
            f"the agent's log line {text!r}",
            self.process,
            self.stderr,
            timeout_s,
        )

    def must_be_running(self) -> None:
        """Check that the agent is running.

        Raises:
            RuntimeError: the agent has ended; the message has the end of its log.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"the agent has ended:\n{self.stderr.read_text()[-4000:]}")

    def stop(self, timeout_s: float = 120.0) -> int:
        """Send SIGTERM, wait for the end and return the exit code.

        Raises:
            RuntimeError: the timeout has expired; the message has the end of its log.
        """
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            said = self.stderr.read_text(errors="replace")[-4000:]
            raise RuntimeError(f"the agent did not stop within {timeout_s} s:\n{said}") from None

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        kill(self.process)
