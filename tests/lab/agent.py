"""The agent as users run it: a process of its own, started by its command line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab.process import start

# Several agents run side by side here; a test that asks one over HTTP gives it a port.
_FOR_TESTS = {"BAROGRAPH_NO_CONTAINMENT": "1", "BAROGRAPH_WEB__ENABLED": "false"}
MACHINE_ID = Path("/etc/machine-id")


class AgentProcess:
    """One run of `barograph run`. Its output goes to files in its folder."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stdout, self.stderr = folder / "agent.out", folder / "agent.err"
        self.process = start(
            [*within, sys.executable, "-m", "agent", "run", *arguments],
            self.stdout,
            errors=self.stderr,
            env={**_clean_environ(), **_FOR_TESTS, **(env or {})},
        )

    def cpu_s(self) -> float:
        """The CPU time it has used so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_for_log(self, words: str, timeout_s: float = 30.0) -> None:
        """Return once `words` stand in its log."""
        deadline = time.monotonic() + timeout_s
        while words not in self.stderr.read_text():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"the agent did not say {words!r}:\n{self.stderr.read_text()[-4000:]}")
            time.sleep(0.02)

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


@contextmanager
def agent(
    folder: Path,
    *arguments: str,
    state: Path | None = None,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Generator[AgentProcess]:
    """An agent, gone at the end of the block. Its state directory is its own, unless given.

    `within` is a command that runs its arguments as a command, in other circumstances.
    """
    words = [*arguments, "--state-directory", str(state or folder / "state")]
    process = AgentProcess(folder, words, env, within)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()


def barograph(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one of the other commands to its end."""
    argv = [sys.executable, "-m", "agent", *words]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=_clean_environ())


def _clean_environ() -> dict[str, str]:
    """Return our environment without what would configure the agent; but a host's id where there is none."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "BAROGRAPH_"))
    }
    if not MACHINE_ID.exists():  # as in a container; a server has one
        clean["BAROGRAPH_HOST__ID"] = "4c8ad2f0e1b74b6d9a37c5f2d86e9b10"
    return clean
