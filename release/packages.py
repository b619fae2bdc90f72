"""Builds a .deb or .rpm from the tree of an architecture."""

import gzip
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from release.documents import copy_docs
from release.manual import SHELLS, completion, manual
from release.running import run
from tests.lab import setup


def package(folder: Path, source: Path, epoch_s: int, kind: str, arch: str, version: str, out: Path) -> Path:
    """Build a package in `out` and return its path.

    Args:
        folder: has the tree, as `release.tree.make_tree` leaves it.
        source: the commit's files.
        epoch_s: Unix seconds; the modification time of every file.
        kind: "deb" or "rpm".
        arch: Debian's name of the architecture.
        version: of the package.
        out: the folder for the package.
    """
    moment = datetime.fromtimestamp(epoch_s, UTC)
    share = folder / "share"
    share.mkdir(exist_ok=True)
    (share / "barograph.1.gz").write_bytes(_gzip(manual(epoch_s)))
    for shell in SHELLS:
        (share / f"barograph.{shell}").write_text(completion(shell))
    (share / "changelog.gz").write_bytes(_gzip(_debian_changelog(version, moment)))
    shutil.rmtree(share / "doc", ignore_errors=True)  # of the other kind of package
    copy_docs(source, share / "doc")
    variables: Mapping[str, str] = {
        "TREE": str(folder),
        "VERSION": version,
        "ARCH": arch,
        "MTIME": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    text = (source / "packaging/nfpm.yaml").read_text()
    for variable, value in variables.items():
        text = text.replace(f"${{{variable}}}", value)
    config = folder / "nfpm.yaml"
    config.write_text(text)
    target = out / f"barograph_{version}_{arch}.{kind}"
    run(setup.nfpm(), "package", "-f", config, "-p", kind, "-t", target, cwd=source)
    return target


def _debian_changelog(version: str, moment: datetime) -> str:
    return (
        f"barograph ({version}) unstable; urgency=medium\n\n  * See the release notes of this version.\n\n"
        f" -- The Barograph project <barograph@localhost>  {format_datetime(moment)}\n"
    )


def _gzip(text: str) -> bytes:
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)
