"""What the lab takes from Debian: packages installed, and some that are only unpacked."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab.cache import CannotHave, locked, run, run_to_its_end, say

KERNEL = "linux-image-cloud-amd64"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_WAIT_FOR_OTHERS = ("-o", "DPkg::Lock::Timeout=300")


def install(packages: Sequence[str], why: str, *, there: Callable[[], bool]) -> None:
    """Install packages where `there` does not find what they bring.

    Raises:
        CannotHave: this is no Debian, or we may not; or they bring it not.
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
        except CannotHave:  # a fresh machine has no lists, an old one stale ones
            _apt(sudo, "update")
            _apt(sudo, *words)
    if not there():
        raise CannotHave(f"{names} is installed and does not bring what is needed, {why}")


def unpack_kernel(folder: Path) -> None:
    """Unpack the newest cloud kernel and its modules into `folder`. Nothing is installed.

    Raises:
        CannotHave: apt is missing, or knows no such kernel.
    """
    if shutil.which("apt-get") is None:
        raise CannotHave(f"the guest's kernel is taken from Debian's {KERNEL}: there is no apt-get here")
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
        raise CannotHave(f"apt knows no {KERNEL}: the guest's kernel comes from Debian 12's packages")
    run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", names[0]], cwd=folder)


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Unpack packages into `folder`. Nothing is installed, so no service of theirs is started.

    Raises:
        CannotHave: apt is missing, or knows no such package.
    """
    if shutil.which("apt-get") is None:
        raise CannotHave(f"needs {' '.join(packages)} from Debian: there is no apt-get here")
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
        CannotHave: this is no Debian, or its archive has no backports of it.
    """
    unpack_backports((KERNEL,), folder, dependency="linux-image-")


def unpack_backports(packages: Sequence[str], folder: Path, *, dependency: str | None = None) -> None:
    """Unpack packages of this release's backports into `folder`. Nothing is installed, apt is not configured.

    With `dependency`, unpack what they depend on and has a name that begins so, instead of them.

    Raises:
        CannotHave: this is no Debian, its archive has no backports of it, or not these.
    """
    if shutil.which("apt-get") is None:
        raise CannotHave(f"needs {' '.join(packages)} from Debian's backports: there is no apt-get here")
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
    """Return the line of apt's sources for this release's backports, from the mirror this machine uses."""
    fields = run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    )
    for line in fields.splitlines():
        label, _, rest = line.partition(" ")
        if label == "Debian" and "-" not in rest.split()[-1]:
            uri, release = rest.split()
            signed_by = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
            return f"deb {signed_by}{uri} {release}-backports main\n"
    raise CannotHave("apt's sources name no release of Debian, so there are no backports of it to take")


def _sudo(todo: str) -> list[str]:
    """Return what to put before a command to run it as root.

    Raises:
        CannotHave: we may not; the message says what to do as root.
    """
    if os.geteuid() == 0:
        return []
    if sys.stdin.isatty() and shutil.which("sudo"):
        return ["sudo"]  # it asks for the password at the terminal
    try:
        run(["sudo", "--non-interactive", "true"])
    except CannotHave as error:
        raise CannotHave(f"this is not root, and sudo does not let us: as root, once: {todo}") from error
    return ["sudo", "--non-interactive"]


def _apt(sudo: Sequence[str], *words: str) -> None:
    # Killed half way, dpkg leaves a state that every later installation on the machine complains of.
    run_to_its_end([*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", *words])
