"""Packages to install in a test, older versions of them to upgrade from, and what they leave behind."""

import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from release.packages import package as build_package
from tests.integration.conftest import need
from tests.integration.releasing import ROOT, release
from tests.lab.cache import run
from tests.lab.service_host import ServiceHost

OLDER = "0.0.1"
"""The version of the older packages."""


@cache
def packages_for(architecture: str, session_folder: Path) -> Mapping[str, Path]:
    """Return the package of each kind, built from the checked-out commit, and `older`.

    `older` is a .deb with the version `OLDER` and a module that the package does not have.
    """
    need("image", "nfpm")
    folder = session_folder / f"package-{architecture}"
    release(folder, "python", "deb", "rpm", ARCHITECTURES=architecture)
    deb, rpm = (next(folder.glob(f"*.{kind}")) for kind in ("deb", "rpm"))
    return {"deb": deb, "rpm": rpm, "older": _older(deb)}


def _older(package: Path) -> Path:
    tree, copy = package.parent / "older", package.parent / "older.deb"
    run(["dpkg-deb", "--raw-extract", package, tree])
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {OLDER}", control.read_text()))
    _add_former_module(tree)
    run(["dpkg-deb", "--build", "-Znone", "--root-owner-group", tree, copy])
    shutil.rmtree(tree)
    return copy


def older_rpm(packages: Mapping[str, Path]) -> Path:
    """Return an .rpm with the version `OLDER` and a module that the package does not have."""
    architecture = architecture_of(packages)
    tree = packages["deb"].parent / "older"
    run(["dpkg-deb", "--extract", packages["deb"], tree])
    _add_former_module(tree)
    try:
        return build_package(tree, ROOT, 1_700_000_000, "rpm", architecture, OLDER, packages["deb"].parent)
    finally:
        shutil.rmtree(tree)


def architecture_of(packages: Mapping[str, Path]) -> str:
    """Return Debian's name of the architecture that the packages are for."""
    return packages["deb"].stem.rpartition("_")[2]


def _add_former_module(tree: Path) -> None:
    (tree / "opt/barograph/lib/common/agent/former").mkdir()
    (tree / "opt/barograph/lib/common/agent/former/__init__.py").write_text("")


def left_on(host: ServiceHost) -> set[str]:
    """Return the paths of files and folders of the package, and of what it has created."""
    places = "/etc /usr /opt /var/lib /run"
    # systemd before version 250 keeps /run/systemd/propagate/UNIT until the host restarts.
    others = "-not -path '/var/lib/dpkg/*' -not -path '/run/systemd/propagate/*'"
    find = f"find {places} -xdev -name '*barograph*' {others} 2>/dev/null; true"
    return set(host.do("sh", "-c", find).splitlines())  # dpkg removes an empty /opt
