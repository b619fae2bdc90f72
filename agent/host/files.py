"""Reads small files of kernel file systems: it follows no link, waits for nothing, and bounds sizes."""

import os
import stat


def read_at(directory: int, name: str, bytes_max: int) -> bytes:
    """Return the first `bytes_max` bytes of a regular file below an open directory.

    Raises:
        OSError: there is no such file, or it is not a regular one, or it cannot be read.
    """
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(f"{name} is not a regular file")
        parts: list[bytes] = []
        left = bytes_max
        while left and (part := os.read(file, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(file)
