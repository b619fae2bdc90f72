"""Turns the checked-out tree into the commit of a release: `make release-commit VERSION=0.2.0`.

Sets the version, moves the fragments into CHANGELOG.md, freezes the schemas and records the release. Commits
nothing: review the changes, commit them, and tag the commit.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from release.running import Failed, run, say
from release.version import set_version

ROOT = Path(__file__).parents[1]


def main(version: str) -> int:
    """Change the tree; return the exit code."""
    if run("git", "status", "--porcelain", cwd=ROOT):
        say("uncommitted changes; commit them first")
        return 1
    try:
        set_version(ROOT, version)
    except ValueError as error:
        say(f"VERSION: {error}")
        return 2
    python = (sys.executable, "-m")
    try:
        run(
            *python,
            "towncrier",
            "build",
            "--yes",
            "--version",
            version,
            "--date",
            f"{datetime.now(UTC):%Y-%m-%d}",
            cwd=ROOT,
        )
        # Processes of their own, since this one has imported the version that it replaced.
        run(*python, "tests.lab.helm", cwd=ROOT)
        run(*python, "tests.contract.freeze", cwd=ROOT)
        run(*python, "tests.lab.record_release", cwd=ROOT)
    except Failed as error:
        say(f"failed: {error}; undo the changes with: git checkout . && git clean -d tests/data/releases")
        return 1
    say(f"review the changes, then: git add -A && git commit -m 'Release {version}' && git tag -s v{version}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make release-commit VERSION=0.2.0")
    sys.exit(main(sys.argv[1]))
