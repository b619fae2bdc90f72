"""Builds the tree that the package installs in /opt/barograph: locked packages and agent, compiled."""

import os
from pathlib import Path

from release.running import run

HOME = Path("/opt/barograph")


def make_tree(folder: Path, uv: Path, python: Path, wheel: Path, lock: Path) -> Path:
    """Install into `folder`/opt/barograph as if it were /opt/barograph; return that path.

    Args:
        folder: the folder to install into.
        uv: the installer.
        python: the interpreter that the tree will run on, at the same path.
        wheel: the agent's wheel.
        lock: the locked dependencies, with hashes.
    """
    place = folder / HOME.relative_to("/")
    place.parent.mkdir(parents=True)
    run(uv, "venv", "--quiet", "--python", python, place)
    install = (
        uv,
        "pip",
        "install",
        "--quiet",
        "--no-config",
        "--link-mode",
        "copy",
        "--python",
        place / "bin/python",
    )
    run(*install, "--require-hashes", "-r", lock)
    run(*install, "--no-deps", wheel)
    _bind(place, python)
    # Unchecked hashes stay valid when an installation gives the files other modification times.
    compiling = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", folder, "-p", "/")
    run(python, *compiling, place / "lib", env={**os.environ, "PYTHONHASHSEED": "0"})
    return place


def _bind(place: Path, python: Path) -> None:
    """Leave one command in `bin`, and no path of the build folder."""
    for each in (place / "bin").iterdir():
        if each.name not in ("python", "python3", "barograph"):
            each.unlink()
    command = place / "bin/barograph"
    _, _, rest = command.read_text().partition("\n")
    command.write_text(f"#!{HOME}/bin/python\n{rest}")
    (place / "bin/python").unlink()
    (place / "bin/python").symlink_to(python)
    (place / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
    for name in (".gitignore", ".lock", "CACHEDIR.TAG"):
        (place / name).unlink(missing_ok=True)
    for left in place.rglob("direct_url.json"):
        left.unlink()
    for cached in place.rglob("uv_cache.json"):
        cached.unlink()
