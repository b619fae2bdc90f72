"""Run containers of the image."""

import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.lab.image import NAME, podman, run_argv
from tests.lab.process import kill, start


class Container:
    """A running container. Its output goes to files in its folder."""

    def __init__(self, folder: Path, options: Sequence[str], words: Sequence[str], image: str) -> None:
        self.name = f"barograph-test-{uuid4().hex[:12]}"
        self.stdout, self.stderr = folder / "container.out", folder / "container.err"
        argv = [*run_argv("--name", self.name, *options, image=image), *words]
        self.process = start(argv, self.stdout, errors=self.stderr)

    def wait_for(self, holds: Callable[[], bool], what: str, timeout_s: float = 180.0) -> None:
        """Return once `holds()` is true.

        Raises:
            RuntimeError: the container has ended, or time is up; the message has the end of its log.
        """
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                said = self.stderr.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"{what}: the container has ended, or {timeout_s} s have passed:\n{said}")
            time.sleep(0.05)

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container to its end."""
        return podman("exec", self.name, *words)

    def stop(self, timeout_s: float = 120.0) -> int:
        """Send SIGTERM and return the exit code."""
        podman("kill", "--signal=TERM", self.name)
        return self.process.wait(timeout_s)


@contextmanager
def container(folder: Path, *options: str, words: Sequence[str], image: str = NAME) -> Generator[Container]:
    """Run the image with `words` and `options` of `podman run` until the block ends."""
    one = Container(folder, options, words, image)
    try:
        yield one
    finally:
        podman("rm", "--force", "--time=0", one.name)  # the container is not a child process of podman
        kill(one.process)


def run_to_its_end(
    *words: str, options: Sequence[str] = (), image: str = NAME
) -> subprocess.CompletedProcess[str]:
    """Run the image to its end."""
    argv = [*run_argv(*options, image=image), *words]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=300)


def output_of(*words: str, entrypoint: str = "barograph") -> str:
    """Return the output of a command in the image.

    Raises:
        RuntimeError: it failed; the message contains its output.
    """
    done = run_to_its_end(*words, options=("--entrypoint", entrypoint))
    if done.returncode:
        raise RuntimeError(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
