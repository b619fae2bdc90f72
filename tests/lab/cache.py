"""The cache of what the lab builds. It is outside the tree, and each piece is complete or absent."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class CannotHave(Exception):
    """A piece is not available on this machine. The message contains how to get it."""


def cache() -> Path:
    """Return the lab's folder, in `BAROGRAPH_CACHE` or else in the user's cache."""
    base = os.environ.get("BAROGRAPH_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "barograph")
    return Path(base) / "lab"


def place(name: str, inputs: str) -> Path:
    """Return the folder of a piece that is built from `inputs`; it differs for other inputs."""
    return cache() / f"{name}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"


@contextmanager
def locked(name: str) -> Generator[None]:
    """Run one set-up of a piece at a time. The second waits, and then finds the piece."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def made(name: str, inputs: str) -> Generator[Path | None]:
    """Yield a folder to build a piece in, or `None` if the piece exists.

    The folder is renamed to the piece's `place` when the block succeeds, so a half-built one is never found.
    """
    if place(name, inputs).is_dir():
        yield None
        return
    with locked(name):
        if place(name, inputs).is_dir():
            yield None
            return
        for left in cache().glob(f".{name}-*"):  # of a set-up that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{name}-") as build:
            work = Path(build) / "piece"
            work.mkdir()
            yield work
            work.rename(place(name, inputs))


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command quietly and return its output.

    Raises:
        CannotHave: the command failed or is missing; the message contains the end of its output.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}
        )
    except FileNotFoundError as error:
        raise CannotHave(f"{words[0]} is not here") from error
    if done.returncode:
        raise CannotHave(f"{' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def run_to_its_end(argv: Sequence[str | Path]) -> None:
    """Run a command quietly that must not be killed halfway. Ctrl-C takes effect after it has ended.

    Raises:
        CannotHave: the command failed or is missing; the message contains the end of its output.
    """
    words = [str(word) for word in argv]
    interrupted = False
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except FileNotFoundError as error:
            raise CannotHave(f"{words[0]} is not here") from error
        while process.returncode is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                interrupted = True
                say("ending; what has begun to be installed is finished first")
        if interrupted:
            raise KeyboardInterrupt
        if process.returncode:
            output.seek(0)
            raise CannotHave(f"{' '.join(words)}\n{output.read().decode(errors='replace')[-8000:]}")
