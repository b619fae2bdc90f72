"""Prepares the state directory for the agent's user, or removes the agent's files from it.

`prepare DIRECTORY USER GROUP` and `remove DIRECTORY`. It runs as root with the capability CHOWN only, and
touches only the agent's own files, by name and through no link. It refuses a directory with other files in
it, unless the directory has the marker that `prepare` leaves.
"""

import os
import stat
import sys

MARKER = ".barograph-state"
OURS = ("owed.json", ".owed.json.", "spool.sqlite", ".spool.sqlite.", MARKER)


def refuse_foreign(names):
    foreign = sorted(each for each in names if not each.startswith(OURS))
    if foreign and MARKER not in names:
        sys.exit(
            f"state.path: the directory has other files in it, such as {foreign[0]!r}; "
            "use a directory of its own, or remove them"
        )


def opened(directory):
    """Return the directory, open, and the user who owned it. From here on no other user can change it."""
    before = os.stat(directory)
    readable = 0o500 if before.st_uid == 0 else 0o005  # by root without capabilities
    if before.st_mode & readable == readable:
        refuse_foreign(os.listdir(directory))
    os.chown(directory, 0, 0)
    try:
        os.chmod(directory, 0o700)  # before it is opened, which the mode may not allow
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        refuse_foreign(os.listdir(descriptor))
    except BaseException:
        os.chmod(directory, stat.S_IMODE(before.st_mode))
        os.chown(directory, before.st_uid, before.st_gid)
        raise
    return descriptor, before.st_uid


def own_files(directory):
    """Yield the name and the status of each file of the agent. Links and directories are never its files."""
    for name in os.listdir(directory):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if name.startswith(OURS) and stat.S_ISREG(status.st_mode):
            yield name, status


def prepare(directory, owner, user, group):
    if MARKER not in os.listdir(directory):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        os.close(os.open(MARKER, flags, 0o600, dir_fd=directory))
    for name, status in own_files(directory):
        # Another name of the file may be anywhere, and any other user may still have the file open.
        if status.st_nlink == 1 and status.st_uid in (0, owner, user):
            os.chown(name, user, group, dir_fd=directory, follow_symlinks=False)
    os.fchown(directory, user, group)


def remove(directory):
    for name, _ in own_files(directory):
        os.unlink(name, dir_fd=directory)
    left = os.listdir(directory)
    print(f"{len(left)} other files are left" if left else "the state is removed")


if __name__ == "__main__":
    verb, path, *ids = sys.argv[1:]
    try:
        state, owner = opened(path)
        if verb == "prepare":
            prepare(state, owner, *map(int, ids))
        else:
            remove(state)
    except OSError as error:
        where = error.filename or path
        sys.exit(f"state.path: {where!r}: {error.strerror}; correct it on the node, or use another directory")
