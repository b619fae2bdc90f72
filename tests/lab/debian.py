"""What the lab takes from Debian: packages installed, and one that is only unpacked."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab.cache import CannotHave, locked, run, run_to_its_end, say

KERNEL = "linux-image-cloud-amd64"
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
