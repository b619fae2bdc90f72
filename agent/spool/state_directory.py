"""Files in the state directory, which may belong to another user. Blocks.

Constraints (each has a test of the same name in tests/unit/spool/test_state_directory.py):

- a file is read and written through the descriptor of the directory, and through no link;
- a new file has a random name until it is complete, and only its owner can read it;
- a file that root writes belongs to the owner of the directory;
- root changes nothing in a directory that another user controls, and becomes that user instead.
"""

import os
import stat
from contextlib import suppress
from errno import EDQUOT, EINVAL, EIO, EISDIR, ENOSPC, EROFS
from pathlib import Path
from secrets import token_hex

from agent.errors import StateFileError

DISK_TROUBLE = frozenset({ENOSPC, EDQUOT, EROFS, EIO})
"""Errors of the disk itself, which may pass without a change of the configuration or of permissions."""

_NO_GROUP = 65_534
"""Instead of root's group, which may have rights on files of root's."""

_OURS = ("owed.json", ".owed.json.", "spool.sqlite", ".spool.sqlite.", ".barograph-state")
"""How the names of the agent's files begin. The chart and the package know the same names."""


def read_file(directory: int, name: str, size_bytes_max: int) -> bytes:
    """Return the content of a regular file.

    Args:
        directory: a descriptor.
        name: of the file in it.
        size_bytes_max: a larger file is an error.

    Raises:
        FileNotFoundError: there is no file.
        OSError: it cannot be read; it is a link or no regular file; it is too large.
    """
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(EINVAL, "Not a regular file")
        content = file.read(size_bytes_max + 1)
    if len(content) > size_bytes_max:
        raise OSError(EINVAL, f"larger than {size_bytes_max} bytes")
    return content


def replace_file(directory: int, name: str, content: bytes) -> None:
    """Write a file and move it to its name, so that a crash leaves the old or the new content.

    Raises:
        OSError: it cannot be written; the old file is unchanged.
    """
    new = f".{name}.{token_hex(8)}.new"
    try:
        with os.fdopen(create_file(directory, new), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    except OSError:
        with suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise


def create_file(directory: int, name: str) -> int:
    """Create a file that only its owner can read, and return its descriptor, for writing.

    Raises:
        OSError: it exists, also as a link, or it cannot be created.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        if os.geteuid() == 0:  # otherwise a command of root would lock out the service's user
            owner = os.fstat(directory)
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def remove_unfinished(directory: int, name: str) -> None:
    """Remove what writers of a file that were killed have left."""
    for each in os.listdir(directory):
        if each.startswith(f".{name}.") and each.endswith("new"):
            with suppress(OSError):
                os.unlink(each, dir_fd=directory)


def check_writable(directory: int, name: str) -> None:
    """Write a file and remove it: permissions do not show that a file system is read-only or full.

    Raises:
        OSError: it cannot be written.
    """
    probe = f".{name}.{token_hex(8)}.new"
    descriptor = create_file(directory, probe)
    try:
        os.write(descriptor, b"\n")
    finally:
        os.close(descriptor)
        os.unlink(probe, dir_fd=directory)


def make_private(directory: int) -> None:
    """Deny other users access to a directory of the agent's own: a user who may open it may lock it.

    A directory of another user, for all users (such as /tmp), or with other files in it, is left as it is.
    """
    status = os.fstat(directory)
    is_own = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX
    if is_own and status.st_mode & 0o077 and all(map(_is_ours, os.listdir(directory))):
        os.fchmod(directory, 0o700)


def make_file_private(path: Path) -> None:
    """Deny other users access to a file of an earlier version. A missing file is not an error."""
    # O_PATH: closing any other descriptor of a database would release the locks of SQLite in this process.
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_mode & 0o077:
                os.chmod(f"/proc/self/fd/{descriptor}", 0o600)
        finally:
            os.close(descriptor)


def create_private_file(path: Path) -> None:
    """Create an empty file that only its owner can read, unless there is one."""
    with suppress(FileExistsError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))


def check_root_may_use(directory: Path) -> None:
    """Refuse a directory that another user controls, if the process is root's.

    Raises:
        StateFileError: it is refused.
    """
    owner = _owner(directory)
    if owner is not None:
        message = f"is controlled by another user, {owner[0]}; run the agent as that user"
        raise StateFileError(f"{directory}: {message}, or use another directory")


def act_as_owner(directory: Path) -> None:
    """Become the user who controls `directory`, for good, if the process is root's and the directory is not.

    Raises:
        StateFileError: root cannot become that user, or several users control the directory.
    """
    owner = _owner(directory)
    if owner is None:
        return
    user, group = owner
    try:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError as error:
        message = f"belongs to the user {user}, and root cannot switch to it: {error.strerror}"
        raise StateFileError(f"{directory}: {message}; run the command as that user") from error


def _owner(directory: Path) -> tuple[int, int] | None:
    """Return the user other than root who can replace files in `directory`, with the group.

    `None`: there is none, or the process is not root's.

    Raises:
        StateFileError: any user of a group, or any user at all, can.
    """
    if os.geteuid() != 0:
        return None
    written, real = directory.absolute(), directory.resolve()
    for each in (real, *real.parents, *written.parents, written):
        try:
            status = each.stat()
            link = each.lstat()
        except OSError:
            continue  # a missing directory is created, and below root's it is root's
        for found in (link, status):  # a link of another user, as in /tmp, can be led elsewhere at any time
            if found.st_uid:
                return found.st_uid, found.st_gid or _NO_GROUP
        # In a directory with the sticky bit, such as /tmp, a user cannot replace the files of others.
        if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            message = (
                "other users may write to it; remove that permission (chmod go-w), or use another directory"
            )
            raise StateFileError(f"{each}: {message}")
    return None


def _is_ours(name: str) -> bool:
    return name.startswith(_OURS)
