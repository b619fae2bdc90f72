"""The lock of a state directory: `flock` on the directory, held by a running agent (agent/spool/ledger.py).

Commands that change the spool take it too, so that no agent runs meanwhile.
"""

import fcntl
import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
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


def request_states(directory: Path) -> int | None:
    """Send SIGUSR1 to the agent that uses `directory`, and return its process id; `None`: there is none.

    Other processes are not signaled: not a command that holds the lock, nor an agent that is just starting.
    Their SIGUSR1 would end them.

    Raises:
        OSError: the lock cannot be looked at, or the process must not be signaled.
    """
    locked = os.stat(directory)
    for pid in _lockers(locked.st_ino):
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:  # the descriptor is of this process, even if its number is used again
            if _handles_signal(pid, signal.SIGUSR1) and _has_open(pid, locked):
                signal.pidfd_send_signal(process, signal.SIGUSR1)
                return pid
        except (ProcessLookupError, FileNotFoundError):
            continue
        finally:
            os.close(process)
    return None


def holders(directory: Path) -> list[int]:
    """Return the processes that hold the lock, as far as the kernel shows them to this user."""
    try:
        locked = os.stat(directory)
        return [pid for pid in _lockers(locked.st_ino) if _has_open(pid, locked)]
    except (OSError, ValueError, IndexError):
        return []


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


def _lockers(inode: int) -> list[int]:
    """Return the processes that hold `flock` on an inode of that number, in any file system (proc(5), locks).

    The device is not compared: btrfs has another one in `stat` than in the list.
    """
    found: list[int] = []
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        fields = (
            line.split()
        )  # 1: FLOCK ADVISORY WRITE 708 fd:00:1835 0 EOF; a waiter has "->" after the number
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode) and int(fields[4]) > 0:
            found.append(int(fields[4]))
    return found


def _handles_signal(pid: int, number: signal.Signals) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "SigCgt":
            return bool(int(value, 16) >> (number - 1) & 1)
    return False


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.path.samestat(descriptor.stat(), wanted):
                return True
    return False
