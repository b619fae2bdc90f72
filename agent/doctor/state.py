"""Looks at the state directory for `barograph doctor`. Blocks: call it in a thread. Changes nothing."""

import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path

from agent.core.doctor.state import DirectoryFacts, SpoolFacts
from agent.errors import SpoolError, StateFileError
from agent.host.mounts import mount_of
from agent.spool.directory_lock import holders, is_in_use
from agent.spool.disk import FILE_NAME
from agent.spool.inspect import contents
from agent.spool.state_directory import check_root_may_use
from agent.spool.verify import verify

VERIFIED_MAX_BYTES = 64 * 2**20
"""A larger spool is not read as a whole; `barograph spool verify` does that."""


def look_at_directory(path: str) -> DirectoryFacts:
    """Return what the file system shows of the state directory at `path`, which may be missing."""
    place = Path(path)
    exists = True
    try:
        while not _is_there(place):
            exists = False
            place = place.parent
        status = place.stat()
    except OSError as error:
        return DirectoryFacts(path=path, exists=False, looked_at=str(place), fault=_reason(error))
    if not stat.S_ISDIR(status.st_mode):
        fault = f"{place} is not a directory"
        return DirectoryFacts(path=path, exists=False, looked_at=str(place), fault=fault)
    owner_problem = ""
    try:
        check_root_may_use(Path(path))
    except StateFileError as error:
        owner_problem = str(error)
    free_bytes, read_only = _file_system(place)
    mount = mount_of(str(place))
    return DirectoryFacts(
        path=path,
        exists=exists,
        looked_at=str(place),
        owner_problem=owner_problem,
        owner=user_name(status.st_uid),
        is_owner=status.st_uid == os.geteuid(),
        mode=stat.S_IMODE(status.st_mode) & 0o777,
        is_sticky=bool(status.st_mode & stat.S_ISVTX),
        writable=os.access(place, os.W_OK | os.X_OK, effective_ids=True),
        read_only=read_only,
        file_system="" if mount is None else mount.type,
        free_bytes=free_bytes,
        is_locked=is_in_use(place) if exists else False,
        lockers=holders(place) if exists else (),
    )


def look_at_spool(directory: str) -> tuple[SpoolFacts | None, str]:
    """Return what the spool contains, and why it cannot be read; `None`: there is no file to read.

    Root reads no file in a directory that another user controls: its links could lead anywhere.
    """
    path = Path(directory) / FILE_NAME
    try:
        check_root_may_use(path.parent)
        if not path.exists():
            return None, ""
        found = contents(path)
        small = found.file_bytes + found.log_bytes <= VERIFIED_MAX_BYTES
        problems = verify(path).problems if small else ()
    except SpoolError as error:
        return None, f"{error.fault}: {error.detail}"
    except (OSError, StateFileError):
        return None, ""  # the permissions are judged by themselves
    facts = SpoolFacts(
        used_bytes=found.used_bytes,
        problems=problems,
        dead_letters=found.dead_letters,
        is_verified=small,
    )
    return facts, ""


def user_name(user_id: int) -> str:
    """Return the name of a user, or its number."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def user_of(pids: Sequence[int]) -> str:
    """Return the user of the first process that is still there; "": none."""
    for pid in pids:
        try:
            return user_name(os.stat(f"/proc/{pid}").st_uid)
        except OSError:
            continue
    return ""


def _is_there(place: Path) -> bool:
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return place == place.parent
    return True


def _file_system(place: Path) -> tuple[int | None, bool]:
    """Return the free bytes for a user without privileges, and whether it is mounted read-only."""
    try:
        found = os.statvfs(place)
    except OSError:
        return None, False
    return found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY)


def _reason(error: OSError) -> str:
    return f"cannot be used: {error.strerror}; correct it, or use another directory"
