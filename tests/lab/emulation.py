"""Programs for arm64 on this machine, by QEMU's user-mode emulation and the kernel's binfmt_misc."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import debian
from tests.lab.cache import CannotHave, locked, made, place

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_ENTRY = _BINFMT / "barograph-lab-aarch64"
_EMULATOR_INPUTS = "2 qemu-user"
_MAGIC = "7f454c460201010000000000000000000200b700"
_MASK = "ffffffffffffff00fffffffffffffffffeffffff"
"""The ELF header of a program or library for aarch64, and the bits of it to compare."""


@contextmanager
def arm64() -> Generator[None]:
    """Let the kernel start programs for arm64, also in containers, until the block ends.

    The machine's own entry for arm64, if it has one, is used and kept.

    Raises:
        CannotHave: this is not Debian, not root, or the kernel has no binfmt_misc.
    """
    with locked("binfmt-users"):  # the first of two blocks to end would take the entry away from the other
        if not any(_starts_arm64(entry) for entry in _entries()):
            _register(_emulator())
        try:
            yield
        finally:
            if _ENTRY.exists():
                _ENTRY.write_text("-1")


def _emulator() -> Path:
    with made("emulator", _EMULATOR_INPUTS) as work:
        if work is not None:
            # A newer version than Debian 12's knows more of the kernel's interface.
            debian.unpack_backports(("qemu-user",), work)
    return place("emulator", _EMULATOR_INPUTS) / "usr/bin/qemu-aarch64"


def _entries() -> list[Path]:
    if not (_BINFMT / "register").exists():
        mounted = subprocess.run(
            ["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT],
            check=False,
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            raise CannotHave(f"binfmt_misc cannot be mounted: {mounted.stderr.strip()}")
    return [entry for entry in _BINFMT.iterdir() if entry.name not in ("register", "status")]


def _starts_arm64(entry: Path) -> bool:
    """Return whether an entry starts programs for arm64, also where the emulator's file does not exist."""
    lines = entry.read_text().splitlines()
    flags = next((line.partition(": ")[2] for line in lines if line.startswith("flags: ")), "")
    return lines[0] == "enabled" and f"magic {_MAGIC}" in lines and "F" in flags


def _register(emulator: Path) -> None:
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in bytes.fromhex(each)) for each in (_MAGIC, _MASK))
    # F: the kernel opens the emulator now, so that containers do not need it.
    entry = f":{_ENTRY.name}:M::{magic}:{mask}:{emulator}:F"
    try:
        (_BINFMT / "register").write_text(entry)
    except OSError as error:
        raise CannotHave(f"the kernel does not accept an emulator for arm64: {error}") from error
