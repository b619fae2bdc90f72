"""Freezes the schemas of a release: `python -m tests.contract.freeze`, which `make release-commit` runs.

schemas/released.sha256 gets the digests of all schemas and valid examples that are not in it yet. From then
on, a test fails if one of these files changes or is missing: a change is a new version beside it.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.contract.schema_files import SCHEMAS

LIST = "released.sha256"
_FROZEN = ("*/v*/*.schema.json", "*/v*/*.open.json", "*/v*/examples/valid/*.json")


def listed(lines: str) -> Mapping[str, str]:
    """Return the digests of a `sha256sum` list by path. Lines that begin with `#` are comments."""
    pairs = [line.split("  ", 1) for line in lines.splitlines() if line and not line.startswith("#")]
    return {name: digest for digest, name in pairs}


def changed(root: Path) -> list[str]:
    """Return the released files in `root` that have changed or are missing."""
    released = listed((root / LIST).read_text())
    return [
        name
        for name, digest in released.items()
        if not (root / name).is_file() or _digest(root / name) != digest
    ]


def unreleased(root: Path) -> list[str]:
    """Return the schemas and examples in `root` that no release has listed."""
    found = {str(path.relative_to(root)) for pattern in _FROZEN for path in root.glob(pattern)}
    return sorted(found - listed((root / LIST).read_text()).keys())


def freeze(root: Path) -> list[str]:
    """List all files that are not listed yet; return their paths.

    Raises:
        ValueError: a released file has changed; nothing was written.
    """
    if broken := changed(root):
        raise ValueError(f"released files have changed or are missing: {', '.join(broken)}; restore them")
    new = unreleased(root)
    with (root / LIST).open("a") as file:
        file.writelines(f"{_digest(root / name)}  {name}\n" for name in new)
    return new


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        print(f"{len(freeze(SCHEMAS))} files added to schemas/{LIST}")
    except ValueError as error:
        sys.exit(str(error))
