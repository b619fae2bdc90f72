"""Runs the tools that build the parts."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


class Failed(Exception):
    """A tool failed or is not installed; the message contains the end of its output."""


def run(
    *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> bytes:
    """Run a command to its end and return its output.

    Raises:
        Failed: the command failed, or is not installed.
    """
    argv = [str(word) for word in words]
    try:
        done = subprocess.run(argv, check=False, capture_output=True, cwd=cwd, env=env, input=stdin)
    except FileNotFoundError as error:
        raise Failed(f"{argv[0]}: not installed") from error
    if done.returncode:
        raise Failed(f"{' '.join(argv)}\n{(done.stdout + done.stderr)[-4000:].decode(errors='replace')}")
    return done.stdout


def say(message: str) -> None:
    """Print a line of progress."""
    print(f"release: {message}", file=sys.stderr, flush=True)
