"""Starts processes that end with this one, however it ends, and waits for what they promise."""

import ctypes
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

# The kernel sends the signal when the *thread* that started the child ends (prctl(2)), and a test's worker
# threads end early. This one ends with the process.
_starter = ThreadPoolExecutor(1, "starter")


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when the thread that starts it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    argv: Sequence[str | Path],
    log: Path,
    *,
    errors: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process without input, its output appended to `log`, with stderr or that to `errors`.

    It has a session of its own: ctrl-C at the terminal reaches only us, who end it in order.
    """

    def begin() -> subprocess.Popen[bytes]:
        with log.open("ab") as output, (errors or log).open("ab") as complaints:
            return subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=complaints,
                cwd=cwd,
                env=env,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )

    return _starter.submit(begin).result()


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and wait for the end. Harmless where it has ended."""
    process.kill()
    process.wait()


def wait_until(
    holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float
) -> None:
    """Return once `holds()`.

    Raises:
        RuntimeError: the process has ended, or time is up; the message has the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            why = f"not within {timeout_s} s" if code is None else f"it has ended with {code}"
            raise RuntimeError(f"{what}: {why}; {log}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Say whether somebody accepts connections at a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def no_child_left(grace_s: float = 2.0) -> Generator[None]:
    """Assert that whatever process the block starts has ended, and been waited for, when it ends."""
    before = _children()
    yield
    deadline = time.monotonic() + grace_s
    while (left := _command_lines(_children() - before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        raise AssertionError(f"processes left behind: {left}")


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(word) for word in (task / "children").read_text().split()}
        except OSError:
            continue  # a thread that has ended since
    return found


def _command_lines(pids: set[int]) -> dict[int, str]:
    """Return the command lines of those that matter: Python's own `resource_tracker` ends by itself."""
    words: dict[int, str] = {}
    for pid in pids:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "resource_tracker" not in line:
            words[pid] = line[:200] or "(ended, and nobody has waited for it)"
    return words
