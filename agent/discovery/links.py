"""Follow a path's symbolic links, but none that another user could have put or could change.

Whoever may write to a directory on the way could lead us to any monitor on the host, which we may open
and he may not. Blocking: for a worker thread.
"""

import errno
import os
import stat

_LINKS_MAX = 40
"""The kernel's own limit on the links in one path (MAXSYMLINKS)."""


class ForeignLinkError(Exception):
    """A link on the way that others may change."""

    def __init__(self, link: str) -> None:
        self.link = link
        super().__init__(link)


def resolve(path: str) -> str:
    """Return the absolute `path` without a symbolic link in it.

    Raises:
        ForeignLinkError: someone beside root and ourselves may change a link on the way.
        OSError: something on the way is missing, not readable, or goes round in circles.
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
    # In a sticky directory, as /tmp is, nobody can replace a link that is not his own.
    return not (status.st_mode & stat.S_ISVTX and link.st_uid in trusted)
