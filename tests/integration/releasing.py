"""Makes a release, or parts of it, as `make release` does."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def release(out: Path, *parts: str, **variables: str) -> str:
    """Make the parts in `out`; return what was said.

    Raises:
        RuntimeError: something could not be made; the message says what.
    """
    environ = {**os.environ, "OUT": str(out), **variables}
    words = ["make", "--no-print-directory", "-C", str(ROOT), "release", f"PARTS={' '.join(parts)}"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=600, env=environ)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr
