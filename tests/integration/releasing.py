"""Makes a release, or parts of it, as `make release` does, and rehearses one."""

import os
import subprocess
from pathlib import Path

from tests.lab.cache import locked, run

ROOT = Path(__file__).parents[2]


def release(out: Path, *parts: str, **variables: str) -> str:
    """Make the parts in `out`; return what was said.

    Raises:
        RuntimeError: something could not be made; the message says what.
    """
    return _make("release", out, f"PARTS={' '.join(parts)}", **variables)


def rehearse(out: Path, version: str) -> str:
    """Rehearse the release of a version in a clone, with the artifacts in `out`; return what was said.

    Raises:
        RuntimeError: the rehearsal failed; the message says at what.
    """
    return _make("release-rehearsal", out, f"VERSION={version}")


def _make(target: str, out: Path, *words: str, **variables: str) -> str:
    environ = {**os.environ, "OUT": str(out), **variables}
    make = ["make", "--no-print-directory", "-C", str(ROOT)]
    with locked("build-tools"):  # which two test processes would set up at the same time
        run([*make, "build-tools"], env=environ)
    command = [*make, target, *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1800, env=environ)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr
