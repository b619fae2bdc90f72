"""What the lab takes from Debian: packages installed, and one that is only unpacked."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab.cache import CannotHave, locked, run, say

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
        words = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *_WAIT_FOR_OTHERS, *packages]
        try:
            _as_root(*words)
        except CannotHave:  # a fresh machine has no lists, an old one stale ones
            _as_root("apt-get", "update", "-qq")
            _as_root(*words)
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
        _as_root("apt-get", "update", "-qq")
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


def _as_root(*words: str) -> None:
    words = ("env", "DEBIAN_FRONTEND=noninteractive", *words)
    if os.geteuid() == 0:
        run(words)
        return
    if shutil.which("sudo") is None:
        raise CannotHave(f"there is no sudo here: as root, once: {' '.join(words[2:])}")
    # Where someone sits at a terminal, sudo asks for the password there and not in the output.
    run(["sudo", *([] if sys.stdin.isatty() else ["--non-interactive"]), *words])
