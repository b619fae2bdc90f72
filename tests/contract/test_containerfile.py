"""hadolint reports nothing in the Containerfile, except what the file ignores with a reason."""

import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"

    said = subprocess.run(
        [hadolint, "--no-color", ROOT / "Containerfile"], check=False, capture_output=True, text=True
    )

    assert (said.stdout, said.stderr, said.returncode) == ("", "", 0)
