"""What the lab gets from Debian: installed packages, packages that are only unpacked, root file systems."""

import hashlib
import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab.cache import CannotHave, locked, run, run_to_its_end, say

KERNEL = "linux-image-cloud-amd64"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_UBUNTU = "http://archive.ubuntu.com/ubuntu"
_UBUNTU_KEYRING = (
    f"{_UBUNTU}/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb",
    "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8",
)
"""Debian 12 has no package of Ubuntu's keys, so they come from Ubuntu, with this SHA-256."""
_UBUNTU_SUITES = ("jammy", "noble")
_TIMEOUT_S = 60.0
_WAIT_FOR_OTHERS = ("-o", "DPkg::Lock::Timeout=300")


def bootstrap(suite: str, root: Path, packages: Sequence[str], architecture: str = "amd64") -> None:
    """Create a minimal root file system of a release in `root`, with apt and `packages`.

    Args:
        suite: the code name of a release of Debian, or of Ubuntu 22.04 (`jammy`) or 24.04 (`noble`).
        root: the folder to create.
        packages: the additional packages.
        architecture: Debian's name of it. This machine must be able to start its programs.

    Raises:
        CannotHave: debootstrap failed, or Ubuntu's keys cannot be downloaded.
    """
    options = ["--variant=minbase", f"--arch={architecture}", f"--include={','.join(packages)}"]
    if suite not in _UBUNTU_SUITES:
        run(["debootstrap", *options, suite, root])
        return
    with tempfile.TemporaryDirectory() as folder:
        keyring = _ubuntu_keyring(Path(folder))
        options += ["--components=main,universe", f"--keyring={keyring}"]
        # The script of all releases of Ubuntu. An older debootstrap does not know the names of newer ones.
        run(["debootstrap", *options, suite, root, _UBUNTU, "/usr/share/debootstrap/scripts/gutsy"])
    sources = (f"deb {_UBUNTU} {each} main universe\n" for each in (suite, f"{suite}-updates"))
    (root / "etc/apt/sources.list").write_text("".join(sources))


def _ubuntu_keyring(folder: Path) -> Path:
    url, digest = _UBUNTU_KEYRING
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            package = response.read()
    except OSError as error:
        raise CannotHave(f"Ubuntu's keys cannot be downloaded: {url}: {error}") from error
    if hashlib.sha256(package).hexdigest() != digest:
        raise CannotHave(f"{url} is not the package with Ubuntu's keys: its SHA-256 differs")
    (folder / "keyring.deb").write_bytes(package)
    run(["dpkg-deb", "-x", folder / "keyring.deb", folder])
    return folder / "usr/share/keyrings/ubuntu-archive-keyring.gpg"


def install(packages: Sequence[str], why: str, *, there: Callable[[], bool]) -> None:
    """Install packages if `there` does not find what they provide.

    Raises:
        CannotHave: this is not Debian, root rights are missing, or the packages do not provide it.
    """
    if there():
        return
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise CannotHave(f"needs {names} (Debian's names), {why}: install what brings them on this system")
    with locked("debian"):
        if there():
            return
        say(f"installing {names} from Debian: {why}")
        sudo = _sudo(f"apt-get install {names}")
        words = ["install", "-y", "--no-install-recommends", *_WAIT_FOR_OTHERS, *packages]
        try:
            _apt(sudo, *words)
        except CannotHave:  # the package lists are missing or stale
            _apt(sudo, "update")
            _apt(sudo, *words)
    if not there():
        raise CannotHave(f"{names} is installed but does not provide what is needed, {why}")


def unpack_kernel(folder: Path) -> None:
    """Unpack the newest cloud kernel and its modules into `folder`. Nothing is installed.

    Raises:
        CannotHave: apt is missing, or does not know the kernel.
    """
    if shutil.which("apt-get") is None:
        raise CannotHave(f"the guest's kernel is Debian's {KERNEL}: apt-get is missing here")
    try:
        _download_kernel(folder)
    except CannotHave:
        _apt(_sudo("apt-get update"), "update")
        _download_kernel(folder)
    package = next(folder.glob("*.deb"))
    run(["dpkg-deb", "-x", package, folder])
    package.unlink()


def _download_kernel(folder: Path) -> None:
    depends = run(["apt-cache", "depends", "--important", KERNEL])
    names = [word for word in depends.split() if word.startswith("linux-image-") and word != KERNEL]
    if not names:
        raise CannotHave(f"apt does not know {KERNEL}: the guest's kernel comes from Debian's packages")
    run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", names[0]], cwd=folder)


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Unpack packages into `folder`. Nothing is installed, so no service is started.

    Raises:
        CannotHave: apt is missing, or does not know a package.
    """
    if shutil.which("apt-get") is None:
        raise CannotHave(f"needs {' '.join(packages)} from Debian: apt-get is missing here")
    with tempfile.TemporaryDirectory(prefix="apt-") as name:
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages]
        try:
            run(download, cwd=Path(name))
        except CannotHave:
            _apt(_sudo("apt-get update"), "update")
            run(download, cwd=Path(name))
        for package in Path(name).glob("*.deb"):
            run(["dpkg-deb", "-x", package, folder])


def unpack_newest_kernel(folder: Path) -> None:
    """Unpack the newest cloud kernel of this release's backports and its modules into `folder`.

    Raises:
        CannotHave: this is not Debian, or its archive has no backports for this release.
    """
    unpack_backports((KERNEL,), folder, dependency="linux-image-")


def unpack_backports(packages: Sequence[str], folder: Path, *, dependency: str | None = None) -> None:
    """Unpack packages of this release's backports into `folder`. Nothing is installed, apt is not configured.

    With `dependency`, unpack instead their first dependency with a name that begins so.

    Raises:
        CannotHave: this is not Debian, or its archive has no such backports for this release.
    """
    if shutil.which("apt-get") is None:
        raise CannotHave(f"needs {' '.join(packages)} from Debian's backports: apt-get is missing here")
    with tempfile.TemporaryDirectory(prefix="apt-") as name:
        work = Path(name)
        (work / "lists" / "partial").mkdir(parents=True)
        (work / "cache" / "archives" / "partial").mkdir(parents=True)
        (work / "sources.list").write_text(_backports())
        ours = [
            *("-o", f"Dir::Etc::sourcelist={work / 'sources.list'}", "-o", "Dir::Etc::sourceparts=-"),
            *("-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache={work / 'cache'}"),
            *("-o", "APT::Sandbox::User=root"),
        ]
        run(["apt-get", "-qq", *ours, "update"])
        if dependency is not None:
            words = run(["apt-cache", *ours, "depends", "--important", *packages]).split()
            packages = [word for word in words if word.startswith(dependency) and word not in packages][:1]
        run(["apt-get", "-qq", *ours, "download", *packages], cwd=work)
        for package in work.glob("*.deb"):
            run(["dpkg-deb", "-x", package, folder])


def _backports() -> str:
    """Return the line of apt's sources for this release's backports, from this machine's mirror."""
    fields = run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    )
    for line in fields.splitlines():
        label, _, rest = line.partition(" ")
        if label == "Debian" and "-" not in rest.split()[-1]:
            uri, release = rest.split()
            signed_by = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
            return f"deb {signed_by}{uri} {release}-backports main\n"
    raise CannotHave("apt's sources name no release of Debian, so its backports are unknown")


def _sudo(todo: str) -> list[str]:
    """Return the prefix that runs a command as root.

    Raises:
        CannotHave: sudo refuses; the message names the command to run as root.
    """
    if os.geteuid() == 0:
        return []
    if sys.stdin.isatty() and shutil.which("sudo"):
        return ["sudo"]  # it asks for the password at the terminal
    try:
        run(["sudo", "--non-interactive", "true"])
    except CannotHave as error:
        raise CannotHave(f"this is not root, and sudo refuses: run once as root: {todo}") from error
    return ["sudo", "--non-interactive"]


def _apt(sudo: Sequence[str], *words: str) -> None:
    # If it is killed halfway, dpkg leaves a state that breaks every later installation on the machine.
    run_to_its_end([*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", *words])
