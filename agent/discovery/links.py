"""Resolve a path's symbolic links, except those that another user could have created or can change.

A user who can write to a directory on the path could redirect the agent to any monitor on the host that the
agent may open and that user may not. Blocking: call it in a worker thread.
"""

import errno
import os
import stat

_LINKS_MAX = 40
"""The kernel's own limit on the links in one path (MAXSYMLINKS)."""


class ForeignLinkError(Exception):
    """A symbolic link on the path can be changed by others."""

    def __init__(self, link: str) -> None:
        self.link = link
        super().__init__(link)


def resolve(path: str) -> str:
    """Return the absolute `path` with its symbolic links resolved.

    Raises:
        ForeignLinkError: a user other than root and the agent's own can change a link on the path.
        OSError: a part of the path is missing or not readable, or the links form a loop.
    """
    here = "/"
    ahead = path.split("/")[::-1]
    followed = 0
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, part)
        status = os.lstat(there)
        if not stat.S_ISLNK(status.st_mode):
            here = there
            continue
        if _others_may_change(here, status):
            raise ForeignLinkError(there)
        followed += 1
        if followed > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(there)
        if target.startswith("/"):
            here = "/"
        ahead.extend(target.split("/")[::-1])
    return here


def _others_may_change(directory: str, link: os.stat_result) -> bool:
    trusted = (0, os.geteuid())
    status = os.lstat(directory)
    if status.st_uid not in trusted:
        return True
    if not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    # In a sticky directory such as /tmp, a user can replace only links of their own.
    return not (status.st_mode & stat.S_ISVTX and link.st_uid in trusted)
