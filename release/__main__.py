"""Builds a release from the checked-out commit: `python -m release [PART…]`.

The parts are written to dist/ (`OUT`) with MANIFEST.json, which says which of them are reproducible byte for
byte. A commit with a tag `v…` must be a release (release/tagged.py). `SIGN_KEY` is an SSH key that signs
SHA256SUMS.
Environment variables name the tools: `UV`; `BUILD_PYTHON`, with requirements-build.lock installed; `PODMAN`.
`BASE` sets another base for the image, and `IMAGE_OPTIONS` adds options to `podman build`.
`ARCHITECTURES` selects those that packages are built for; none needs a machine of its kind.
"""

import gzip
import io
import os
import shlex
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from agent import __version__
from release import image_archive, manifest, signature, tagged
from release.packages import package
from release.running import Failed, run, say
from release.tree import PLATFORMS, make_tree
from tests.lab.cache import CannotHave

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Release:
    """One build: where it reads and writes, and with which tools."""

    out: Path  # the folder for the parts
    source: Path  # a folder with the commit's files, and nothing else
    epoch_s: int  # the commit's time in Unix seconds, used for every file
    revision: str
    environ: Mapping[str, str]

    def tool(self, name: str, default: str) -> list[str]:
        """Return the command of a tool, from the environment or the default."""
        return shlex.split(self.environ.get(name) or default)

    @property
    def build_python(self) -> list[str]:
        """The command of the interpreter that has the build tools."""
        return self.tool("BUILD_PYTHON", sys.executable)


def python_packages(release: Release) -> None:
    """wheel with its locked dependencies, and sdist"""
    words = ("-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", release.out)
    run(*release.build_python, *words, cwd=release.source, env=release.environ)
    lock = (release.source / "requirements.lock").read_bytes()
    (release.out / f"barograph-{__version__}-requirements.lock").write_bytes(lock)


def schemas(release: Release) -> None:
    """the schemas, for readers that do not install the agent"""
    _archive(release, "schemas", f"barograph-schemas-{__version__}.tar.gz", "barograph-schemas")


def chart(release: Release) -> None:
    """the Helm chart"""
    folder = release.source / "helm/barograph"
    if not folder.is_dir():
        say("no chart: helm/barograph does not exist in this commit")
        return
    version = yaml.safe_load((folder / "Chart.yaml").read_text())["version"]
    # A chart is an archive of its folder. `helm package` would write the time of day into it.
    _archive(
        release, "helm/barograph", f"barograph-chart-{version}.tgz", "barograph", without=("ci", "examples")
    )


def debian_packages(release: Release) -> None:
    """.deb for each architecture, with docs, manual page and completions; their SBOM"""
    _packages(release, "deb")


def rpm_packages(release: Release) -> None:
    """.rpm for each architecture, as the .deb"""
    _packages(release, "rpm")


def _packages(release: Release, kind: str) -> None:
    """Build the packages of a kind for the architectures in `ARCHITECTURES`, or for all."""
    (wheel,) = release.out.glob("*.whl")
    for arch in release.tool("ARCHITECTURES", " ".join(PLATFORMS)):
        with tempfile.TemporaryDirectory() as name:
            folder, uv = Path(name), Path(release.tool("UV", "uv")[0])
            place = make_tree(folder, uv, release.source, wheel, arch)
            package(folder, release.source, release.epoch_s, kind, arch, __version__, release.out)
            if kind == "deb":
                sbom(release, place)


def sbom(release: Release, place: Path) -> None:
    """Write the packages' SBOM, as CycloneDX. The image has one of its own environment."""
    with tempfile.TemporaryDirectory() as name:
        environment = Path(name)
        run(*release.tool("UV", "uv"), "venv", "--quiet", "--python", sys.executable, environment)
        (site,) = environment.glob("lib/python*/site-packages")
        trees = (place / "lib/common", place / f"lib/{site.parent.name}/site-packages")
        (site / "packages.pth").write_text("".join(f"{each}\n" for each in trees))
        words = ("environment", "--output-reproducible", "--pyproject", release.source / "pyproject.toml")
        target = release.out / f"barograph-{__version__}.cdx.json"
        python = environment / "bin/python"
        run(*release.build_python, "-m", "cyclonedx_py", *words, "--of", "JSON", "-o", target, python)


def image(release: Release) -> None:
    """the image, as an archive for `podman load`"""
    podman, base = release.tool("PODMAN", "podman"), release.environ.get("BASE")
    moment = datetime.fromtimestamp(release.epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {"VERSION": __version__, "REVISION": release.revision, "CREATED": moment} | (
        {"BASE": base} if base else {}
    )
    arguments = [word for name, value in labels.items() for word in ("--build-arg", f"{name}={value}")]
    options = release.tool("IMAGE_OPTIONS", "")
    tag = f"localhost/barograph:{__version__}"
    # The identity label would name the version of the container engine.
    alike = ("--no-cache", "--identity-label=false", "--timestamp", release.epoch_s)
    build = ("build", "--quiet", "--format=docker", *alike, *options, *arguments)
    run(*podman, *build, "--tag", tag, "--file", release.source / "Containerfile", release.source)
    target = release.out / f"barograph-image-{__version__}.tar"
    target.unlink(missing_ok=True)
    run(*podman, "save", "--quiet", "--format=docker-archive", "--output", target, tag)
    image_archive.rewrite(target)


def notes(release: Release) -> None:
    """the release notes: the section of CHANGELOG.md, or a draft from the fragments"""
    if text := tagged.section((release.source / "CHANGELOG.md").read_text(), __version__):
        (release.out / "NOTES.md").write_text(text)
        return
    draft = (
        "build",
        "--draft",
        "--version",
        __version__,
        "--date",
        f"{datetime.fromtimestamp(release.epoch_s, UTC):%Y-%m-%d}",
    )
    (release.out / "NOTES.md").write_bytes(run(sys.executable, "-m", "towncrier", *draft, cwd=release.source))


PARTS: Mapping[str, Callable[[Release], None]] = {
    "python": python_packages,
    "schemas": schemas,
    "chart": chart,
    "deb": debian_packages,
    "rpm": rpm_packages,
    "image": image,
    "notes": notes,
}


def main(names: Sequence[str], out: Path) -> int:
    """Build the named parts, or all; return the exit code."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        say(f"unknown part: {', '.join(unknown)}; use {', '.join(PARTS)}")
        return 2
    epoch_s = int(run("git", "log", "-1", "--format=%ct", cwd=ROOT))
    revision = run("git", "rev-parse", "HEAD", cwd=ROOT).decode().strip()
    tags = run("git", "tag", "--points-at", "HEAD", "--list", "v*", cwd=ROOT).decode().split()
    if run("git", "status", "--porcelain", cwd=ROOT):
        say("uncommitted changes are not part of the release")
        if tags:
            return 1
    if not names and out.is_dir():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        run("tar", "-x", "-C", folder, stdin=run("git", "-c", "tar.umask=0022", "archive", "HEAD", cwd=ROOT))
        environ = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch_s)}
        tag = tags[0] if tags else None
        if tag is not None and (wrong := list(tagged.problems(Path(folder), tag))):
            say("\n".join([f"{tag} cannot be released", *wrong]))
            return 1
        release = Release(out.resolve(), Path(folder), epoch_s, revision, environ)
        for name in names or PARTS:
            say(f"{name}: {PARTS[name].__doc__}")
            try:
                PARTS[name](release)
            except (Failed, CannotHave) as error:
                say(f"{name}: failed: {error}")
                failed = 1
        try:
            manifest.write(release.out, __version__, revision, tag, epoch_s)
            if key := os.environ.get("SIGN_KEY"):
                signature.sign(release.out, Path(key))
            elif tag is not None:
                say("not signed: SIGN_KEY is not set")
        except Failed as error:
            say(f"failed: {error}")
            failed = 1
    return failed


def _archive(release: Release, folder: str, name: str, top: str, without: Sequence[str] = ()) -> None:
    """Write a .tar.gz of a source folder, under `top`: sorted, owned by root, with one modification time."""

    def alike(each: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if each.name.removeprefix(f"{top}/").split("/")[0] in without:
            return None
        each.mtime, each.uid, each.gid, each.uname, each.gname = release.epoch_s, 0, 0, "root", "root"
        each.mode = 0o755 if each.isdir() or each.mode & 0o100 else 0o644
        return each

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:  # add() visits a folder in sorted order
        archive.add(release.source / folder, top, filter=alike)
    (release.out / name).write_bytes(gzip.compress(packed.getvalue(), mtime=0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(os.environ.get("OUT") or ROOT / "dist")))
