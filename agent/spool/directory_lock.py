"""The lock of a state directory: `flock` on the directory, held by a running agent (agent/spool/ledger.py).

Commands that change the spool take it too, so that no agent runs meanwhile.
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import StateFileError


def is_in_use(directory: Path) -> bool | None:
    """Return whether an agent uses `directory`; `None` if it cannot be opened.

    The check holds the lock for some microseconds; an agent that starts meanwhile tries again (`lock`).
    """
    try:
        os.close(_flock(directory, fcntl.LOCK_SH))
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


@contextmanager
def kept_out(directory: Path) -> Generator[None]:
    """Lock `directory` until the end, so that no agent can start in it.

    Raises:
        StateFileError: an agent uses it, or it cannot be locked.
    """
    try:
        descriptor = lock(directory)
    except BlockingIOError as error:
        raise StateFileError(f"{directory}: an agent uses this state directory; stop it first") from error
    except OSError as error:
        raise StateFileError(
            f"{directory}: cannot use the state directory: {error.strerror}; fix it, or use another directory"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)  # releases the lock


def lock(directory: Path) -> int:
    """Lock `directory` and return the descriptor that holds the lock until it is closed.

    Raises:
        BlockingIOError: another process holds the lock, still after a tenth of a second.
        OSError: the directory cannot be opened.
    """
    try:
        return _flock(directory, fcntl.LOCK_EX)
    except BlockingIOError:
        time.sleep(0.1)  # the other process may only be checking (`is_in_use`)
        return _flock(directory, fcntl.LOCK_EX)


def _flock(directory: Path, kind: int) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
