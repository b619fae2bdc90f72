"""Builds the tree that a package installs in /opt/barograph: an environment for each Python it may run on.

    lib/common                     what is the same for all of them
    lib/python3.N/site-packages    what is compiled for Python 3.N, and barograph.pth, which adds lib/common

Wheels are only unpacked, so neither a machine of the architecture nor the interpreters are needed.
libexec/prepare makes the bytecode and the link bin/python on the host.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from release.running import run

HOME = Path("/opt/barograph")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS: Mapping[str, str] = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
"""Debian's names of the architectures, and uv's of their wheels, for hosts with glibc 2.28 or newer."""
LEFT_OUT = "uvloop\n"
"""Compiled for each Python, 16 MB each, and no faster here than asyncio's own loop."""


def make_tree(folder: Path, uv: Path, source: Path, wheel: Path, arch: str) -> Path:
    """Install into `folder`/opt/barograph as if it were /opt/barograph; return that path.

    Args:
        folder: the folder to install into.
        uv: the installer.
        source: the commit's files.
        wheel: the agent's wheel.
        arch: one of `PLATFORMS`.
    """
    place = folder / HOME.relative_to("/")
    common = place / "lib/common"
    common.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        excludes = Path(name) / "excludes.txt"
        excludes.write_text(LEFT_OUT)
        install = (uv, "pip", "install", "--quiet", "--no-config", "--only-binary", ":all:")
        trees = [place / f"lib/python{python}/site-packages" for python in PYTHONS]
        for python, tree in zip(PYTHONS, trees, strict=True):
            target = ("--target", tree, "--python-version", python, "--python-platform", PLATFORMS[arch])
            lock = ("--excludes", excludes, "--require-hashes", "-r", source / "requirements.lock")
            run(*install, *target, *lock)
        run(*install, "--no-deps", "--target", common, wheel)
    _share(trees, common)
    for tree in trees:
        shutil.copy(source / "packaging/tree/barograph.pth", tree)
    shutil.copy(source / "packaging/tree/distribution_libvirt.py", common)
    for file in (each for each in place.rglob("*") if each.is_file()):
        file.chmod(0o644)  # some wheels have executable sources
    for name, to in (("barograph", "bin"), ("prepare", "libexec"), ("clear", "libexec")):
        (place / to).mkdir(exist_ok=True)
        shutil.copy(source / "packaging/tree" / name, place / to)
        (place / to / name).chmod(0o755)
    shutil.copy(source / "packaging/tree/pyvenv.cfg", place)
    return place


def _share(trees: list[Path], common: Path) -> None:
    """Move each distribution that all trees have alike into `common`, and delete what is not imported."""
    for tree in (*trees, common):
        shutil.rmtree(tree / "bin", ignore_errors=True)
        made_by_uv = _made_by_uv(tree)
        for needless in (".lock", ".gitignore", "CACHEDIR.TAG", *made_by_uv):
            (tree / needless).unlink(missing_ok=True)
        for record in tree.glob("*/RECORD"):  # names them with digests that differ from build to build
            lines = record.read_text().splitlines(keepends=True)
            record.write_text(
                "".join(each for each in lines if Path(each.rsplit(",", 2)[0]) not in made_by_uv)
            )
    records = [{each.parent.name: each.read_text() for each in tree.glob("*/RECORD")} for tree in trees]
    for name, record in records[0].items():
        if any(other.get(name) != record for other in records[1:]):
            continue
        for file in (line.rsplit(",", 2)[0] for line in record.splitlines()):
            if (trees[0] / file).is_file() and not file.startswith(".."):
                (common / file).parent.mkdir(parents=True, exist_ok=True)
                (trees[0] / file).rename(common / file)
                for tree in trees[1:]:
                    (tree / file).unlink()
    for tree in trees:
        for directory in sorted((each for each in tree.rglob("*") if each.is_dir()), reverse=True):
            if not any(directory.iterdir()):
                directory.rmdir()


def _made_by_uv(tree: Path) -> list[Path]:
    return [
        each.relative_to(tree) for name in ("direct_url.json", "uv_cache.json") for each in tree.rglob(name)
    ]
