"""Whether an agent has a state directory, and keeping agents out while its spool is changed by hand.

The lock is the agent's own: `flock` of the directory (agent/spool/ledger.py).
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import StateFileError


def is_in_use(directory: Path) -> bool | None:
    """Whether an agent has it; `None`: we may not look.

    Asking takes the lock for some microseconds: an agent that starts in these is refused, and starts again.
    """
    try:
        os.close(_lock(directory, fcntl.LOCK_SH))
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
        descriptor = _lock(directory, fcntl.LOCK_EX)
    except BlockingIOError as error:
        raise StateFileError(f"{directory}: an agent uses this state directory: stop it first") from error
    except OSError as error:
        raise StateFileError(f"{directory}: the state directory cannot be had: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _lock(directory: Path, kind: int) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
