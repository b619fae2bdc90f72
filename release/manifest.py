"""MANIFEST.json and SHA256SUMS: what a release consists of, and which of it is the same bytes each time."""

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from release.running import Failed

MANIFEST, SUMS, SIGNATURE = "MANIFEST.json", "SHA256SUMS", "SHA256SUMS.sig"

_IMAGE = "it depends on the base image and on the version of podman"

_KINDS: Mapping[str, tuple[str, str]] = {
    "*-py3-none-any.whl": ("wheel", ""),
    "barograph-schemas-*.tar.gz": ("schemas", ""),
    "barograph-chart-*.tgz": ("chart", ""),
    "barograph-image-*": ("image", _IMAGE),
    "barograph-*-requirements.lock": ("locked dependencies of the wheel", ""),
    "barograph-*.tar.gz": ("sdist", ""),
    "*.deb": ("Debian package", ""),
    "*.rpm": ("RPM package", ""),
    "*.cdx.json": ("SBOM, CycloneDX", ""),
    "NOTES.md": ("release notes", ""),
}
"""By pattern, the first one that matches: what a file is, and why its bytes differ; "": they do not."""


def write(out: Path, version: str, revision: str, tag: str | None, epoch_s: int) -> None:
    """Write MANIFEST.json and SHA256SUMS of the files in `out`, and remove an old signature.

    Raises:
        Failed: a file is of no known kind.
    """
    for name in (MANIFEST, SUMS, SIGNATURE):
        (out / name).unlink(missing_ok=True)
    files = [_file(path) for path in sorted(out.iterdir()) if path.is_file()]
    manifest = {
        "version": version,
        "tag": tag,
        "revision": revision,
        "source_date_epoch": epoch_s,
        "files": files,
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    names = sorted(path.name for path in out.iterdir() if path.is_file())
    (out / SUMS).write_text("".join(f"{digest(out / name)}  {name}\n" for name in names))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(path: Path) -> dict[str, object]:
    for pattern, (kind, why) in _KINDS.items():
        if fnmatchcase(path.name, pattern):
            found: dict[str, object] = {
                "name": path.name,
                "kind": kind,
                "size_bytes": path.stat().st_size,
                "sha256": digest(path),
                "reproducible": not why,
            }
            return found | ({"why_not": why} if why else {})
    raise Failed(f"{path.name}: no part of a release; remove it, or add its kind to release/manifest.py")
