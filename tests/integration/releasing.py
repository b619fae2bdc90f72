"""Build a release, or parts of it, with `make release`, and rehearse one."""

import os
import subprocess
from pathlib import Path

from tests.lab.cache import locked, run

ROOT = Path(__file__).parents[2]


def release(out: Path, *parts: str, **variables: str) -> str:
    """Build the parts in `out`; return the output.

    Raises:
        RuntimeError: a part could not be built; the message is the output.
    """
    return _make("release", out, f"PARTS={' '.join(parts)}", **variables)


def rehearse(out: Path, version: str) -> str:
    """Rehearse the release of a version in a clone, with the artifacts in `out`; return the output.

    Raises:
        RuntimeError: the rehearsal failed; the message is the output.
    """
    return _make("release-rehearsal", out, f"VERSION={version}")


def _make(target: str, out: Path, *words: str, **variables: str) -> str:
    environ = {**os.environ, "OUT": str(out), **variables}
    make = ["make", "--no-print-directory", "-C", str(ROOT)]
    with locked("build-tools"):  # two test processes may need the tools at the same time
        run([*make, "build-tools"], env=environ)
    command = [*make, target, *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1800, env=environ)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr
