"""Whether an agent has a state directory, and keeping agents out while its spool is changed by hand.

A running agent holds the lock: `flock` of the directory (agent/spool/ledger.py takes it).
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import StateFileError


def is_in_use(directory: Path) -> bool | None:
    """Whether an agent has it; `None`: we may not look.

    Asking takes the lock for some microseconds; an agent that starts in these tries again (`lock`).
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
    """Let no agent start in `directory` until the end.

    Raises:
        StateFileError: an agent has it, or we may not have it.
    """
    try:
        descriptor = lock(directory)
    except BlockingIOError as error:
        raise StateFileError(f"{directory}: an agent uses this state directory: stop it first") from error
    except OSError as error:
        raise StateFileError(f"{directory}: the state directory cannot be had: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def lock(directory: Path) -> int:
    """Lock `directory` for this process; return the descriptor, which holds the lock until it is closed.

    Raises:
        BlockingIOError: somebody else has it, also a tenth of a second later.
        OSError: it cannot be opened.
    """
    try:
        return _flock(directory, fcntl.LOCK_EX)
    except BlockingIOError:
        time.sleep(0.1)  # somebody may only have been asking
        return _flock(directory, fcntl.LOCK_EX)


def _flock(directory: Path, kind: int) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
