"""The file system that a path is on, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_BYTES_MAX = 1024 * 1024
"""Some thousand mounts. The rest is not read."""

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    place: str
    type: str  # such as "ext4"
    root: str = "/"  # what of the file system is mounted


def mount_of(path: str, mountinfo: str = "/proc/self/mountinfo") -> Mount | None:
    """Return the mount that `path` is in, with its links resolved; `None`: not known.

    Blocks on a file system that hangs: call it in a thread.
    """
    try:
        with Path(mountinfo).open("rb") as file:
            lines = file.read(_BYTES_MAX).decode(errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    best: Mount | None = None
    for line in lines:
        before, separated, after = line.partition(" - ")
        fields = before.split(" ")
        if not separated or len(fields) < 6:
            continue
        place = _plain(fields[4])
        below = real == place or real.startswith(place.rstrip("/") + "/")
        if below and (best is None or len(place) >= len(best.place)):  # a later mount covers an earlier one
            best = Mount(place, after.split(" ", 1)[0], _plain(fields[3]))
    return best


def _plain(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
