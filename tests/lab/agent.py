"""Run the agent as users do: as a separate process, started with its command line."""

import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from simulator.demo import process

# Several agents run at the same time. A test that needs the web server enables it with a port of its own.
# Most tests count records, so only a test of the memory records enables them.
_FOR_TESTS = {"BAROGRAPH_WEB__ENABLED": "false", "BAROGRAPH_MEMORY__INTERVAL": "off"}
MACHINE_ID = Path("/etc/machine-id")


class AgentProcess(process.AgentProcess):
    """One run of `barograph run`, without variables of our environment that would configure it."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, arguments, {**clean_environ(), **_FOR_TESTS, **(env or {})}, within)


@contextmanager
def agent(
    folder: Path,
    *arguments: str,
    state: Path | None = None,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Generator[AgentProcess]:
    """Run an agent until the block ends. Its state directory is in `folder`, unless `state` is given.

    `within` is a command that runs its arguments as a command in another environment.

    Raises:
        AssertionError: the task of a VM failed. A bug that the agent contained must not go unnoticed.
    """
    words = [*arguments, "--state-directory", str(state or folder / "state")]
    one = AgentProcess(folder, words, env, within)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.kill()
    assert "vm task failed" not in (log := one.stderr.read_text(errors="replace")), log


def barograph(
    *words: str, env: Mapping[str, str] | None = None, within: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run another command of the agent to its end, within the command `within` if one is given."""
    argv = [*within, sys.executable, "-m", "agent", *words]
    environ = {**clean_environ(), **(env or {})}
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=180, env=environ)


def clean_environ() -> dict[str, str]:
    """Return our environment without the agent's variables, with a host id if the machine has none."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "BAROGRAPH_"))
    }
    if not MACHINE_ID.exists():  # as in a container; a server has this file
        clean["BAROGRAPH_HOST__ID"] = "4c8ad2f0e1b74b6d9a37c5f2d86e9b10"
    return clean
