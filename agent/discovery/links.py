"""Find what a path leads to, without following links that another user could have created or can change.

A user who can write to a directory on the path could redirect the agent to any monitor on the host that the
agent may open and that user may not. Blocking: call it in a worker thread.
"""

import errno
import os
import stat

_LINKS_MAX = 40
"""The kernel's own limit on the links in one path (MAXSYMLINKS)."""

_OPENS_MAX = 4_096
"""Parts of a path to open. The longest path has half as many, but each `..` starts at the root again."""

_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class ForeignLinkError(Exception):
    """A link on the path can be changed by others."""

    def __init__(self, link: str) -> None:
        self.link = link
        super().__init__(link)


def resolve(path: str) -> str:
    """Return the absolute `path` with its symbolic links resolved. Raises as `find` does."""
    return find(path)[0]


def find(path: str) -> tuple[str, os.stat_result]:
    """Return the absolute `path` with its symbolic links resolved, and the status of what is there.

    Each part is opened in the directory that was opened before it, so the status is that of the file that was
    checked, whatever others rename meanwhile.

    Raises:
        ForeignLinkError: a user other than root and the agent's own can change a symbolic link on the path,
            or the directory of a socket that has several names.
        OSError: a part of the path is missing or not readable, the links form a loop, or there are too many
            `..`.
    """
    # At most two descriptors, however long the path is: links need theirs.
    here, names = os.open("/", _FLAGS), list[str]()  # an open directory, and its path
    ahead = path.split("/")[::-1]
    followed = opened = 0
    try:
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":  # from the root again: others may have moved `here` to another directory
                ahead.extend(names[-2::-1])
                names.clear()
                here = _root_in_place_of(here)
                continue
            opened += 1
            if opened > _OPENS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            file = os.open(part, _FLAGS, dir_fd=here)
            try:
                status = os.fstat(file)
                is_link = stat.S_ISLNK(status.st_mode)
                hard_linked = stat.S_ISSOCK(status.st_mode) and status.st_nlink > 1
                if (is_link or hard_linked) and _others_may_change(os.fstat(here), status):
                    raise ForeignLinkError("/" + "/".join([*names, part]))
                if not is_link:
                    names.append(part)
                    here, file = file, here
                    continue
                target = os.readlink("", dir_fd=file)
            finally:
                os.close(file)
            followed += 1
            if followed > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                names.clear()
                here = _root_in_place_of(here)
            ahead.extend(target.split("/")[::-1])
        return "/" + "/".join(names), os.fstat(here)
    finally:
        os.close(here)


def _root_in_place_of(file: int) -> int:
    root = os.open("/", _FLAGS)
    os.close(file)
    return root


def _others_may_change(directory: os.stat_result, link: os.stat_result) -> bool:
    trusted = (0, os.geteuid())
    if directory.st_uid not in trusted:
        return True
    if not directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    # In a sticky directory such as /tmp, a user can replace only links of their own.
    return not (directory.st_mode & stat.S_ISVTX and link.st_uid in trusted)
