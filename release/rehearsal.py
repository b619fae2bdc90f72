"""Rehearses a release in a clone: `make release-rehearsal [VERSION=0.2.0] [PARTS="python chart"]`.

From the release commit to an installed wheel: prepares the commit, tags it, builds the release twice from the
tag, compares what must be the same, signs with a key of its own, verifies, sees each altered file refused,
and installs from the artifacts alone. Nothing is left but the artifacts in `OUT`, if that is set.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent import __version__
from release.manifest import MANIFEST, SIGNATURE, digest
from release.running import Failed, run, say
from release.signature import PRINCIPAL, sign, verify
from tests.lab.cache import cache

ROOT = Path(__file__).parents[1]

_DEFAULT_PARTS = ("python", "schemas", "chart", "notes")  # those that need no further tools
_OWN_VARIABLES = ("OUT", "SIGN_KEY", "VERSION", "PARTS")
_AUTHOR = ("-c", "user.name=Rehearsal", "-c", "user.email=rehearsal@localhost")


def main(version: str, parts: Sequence[str]) -> int:
    """Rehearse; return the exit code."""
    if run("git", "status", "--porcelain", cwd=ROOT):
        say("uncommitted changes are not part of the rehearsal")
    with tempfile.TemporaryDirectory(prefix="barograph-rehearsal-") as name:
        try:
            _rehearse(Path(name), version, parts)
        except Failed as error:
            say(f"failed: {error}")
            return 1
    say(f"{version}: rehearsed")
    return 0


def _rehearse(folder: Path, version: str, parts: Sequence[str]) -> None:
    clone, out = folder / "clone", folder / "dist"
    run("git", "clone", "--quiet", ROOT, clone)
    environ = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
    environ |= {"BAROGRAPH_CACHE": str(_own_cache(folder / "cache")), "MAKEFLAGS": ""}
    make = ("make", "--no-print-directory", "-C", clone)

    say("release commit and tag")
    run(*make, "release-commit", f"VERSION={version}", env=environ)
    run(*make, "check-contract", env=environ)
    run("git", "add", "-A", cwd=clone)
    run("git", *_AUTHOR, "commit", "--quiet", "--no-verify", "-m", f"Release {version}", cwd=clone)
    run("git", *_AUTHOR, "tag", "-m", version, f"v{version}", cwd=clone)

    key = folder / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rehearsal", "-f", key)
    signers = folder / "allowed_signers"
    signers.write_text(f"{PRINCIPAL} {key.with_suffix('.pub').read_text()}")
    for each in (out, folder / "again"):
        say(f"building {each.name}")
        run(*make, "release", f"PARTS={' '.join(parts)}", env={**environ, "OUT": str(each)})
        sign(each, key)
    _compare(out, folder / "again", version)

    say("verifying")
    verify(out, signers)
    _see_altered_refused(out, signers)

    say("installing from the artifacts")
    _install(folder / "installed", out, version, environ)
    if "OUT" in os.environ:
        shutil.copytree(out, os.environ["OUT"], dirs_exist_ok=True)


def _own_cache(place: Path) -> Path:
    """Return a cache that has everything of ours, and in which the clone sets up its environment."""
    place.mkdir()
    for each in cache().parent.iterdir():
        if not each.name.startswith("venv-"):
            (place / each.name).symlink_to(each)
    return place


def _compare(one: Path, other: Path, version: str) -> None:
    manifest = json.loads((one / MANIFEST).read_text())
    if (manifest["version"], manifest["tag"]) != (version, f"v{version}"):
        raise Failed(f"{MANIFEST}: version {manifest['version']}, tag {manifest['tag']}")
    promised = [each["name"] for each in manifest["files"] if each["reproducible"]]
    if differing := [name for name in promised if digest(one / name) != digest(other / name)]:
        raise Failed(f"not the same bytes when built twice: {', '.join(differing)}")
    for each in manifest["files"]:
        say(f"{each['name']}: {'the same bytes twice' if each['reproducible'] else each['why_not']}")


def _see_altered_refused(out: Path, signers: Path) -> None:
    for path in sorted(each for each in out.iterdir() if each.name != SIGNATURE):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        try:
            verify(out, signers)
        except Failed:
            path.write_bytes(content)
        else:
            raise Failed(f"{path.name}: altered, and verified nevertheless")


def _install(place: Path, out: Path, version: str, environ: Mapping[str, str]) -> None:
    uv = environ.get("UV", "uv")
    (wheel,), (lock,) = out.glob("*.whl"), out.glob("*-requirements.lock")
    run(uv, "venv", "--quiet", "--python", sys.executable, place)
    install = (uv, "pip", "install", "--quiet", "--python", place / "bin/python")
    run(*install, "--require-hashes", "-r", lock)
    run(*install, "--no-deps", wheel)
    printed = run(place / "bin/barograph", "version", cwd=place).decode().strip()
    if printed != f"barograph {version}":
        raise Failed(f"the installed wheel prints {printed!r}")
    for words in (
        ("check-config", "--monitor", "/run/vm/*.qmp", "--host-id", "host-1"),
        ("schema", "sample"),
    ):
        run(place / "bin/barograph", *words, cwd=place)


def next_minor(version: str) -> str:
    """Return "0.2.0" for "0.1.0"."""
    major, minor, _ = version.split(".")
    return f"{major}.{int(minor) + 1}.0"


if __name__ == "__main__":
    sys.exit(main(os.environ.get("VERSION") or next_minor(__version__), sys.argv[1:] or _DEFAULT_PARTS))
