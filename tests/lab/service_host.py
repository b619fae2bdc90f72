"""A host whose PID 1 is systemd, in a container: where the package is installed, used and removed."""

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.lab.cache import run, say
from tests.lab.image import BASE, PODMAN, have_base, podman

_PACKAGES = "systemd systemd-sysv adduser man-db procps"
_CONTAINERFILE = f"""FROM {BASE}
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
 {_PACKAGES} && rm -rf /var/lib/apt/lists/*
"""
NAME = f"localhost/barograph-service-host:{hashlib.sha256(_CONTAINERFILE.encode()).hexdigest()[:12]}"


class ServiceHost:
    """One that runs."""

    def __init__(self, name: str) -> None:
        self._name = name

    def try_to(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end."""
        return podman("exec", self._name, *words)

    def do(self, *words: str) -> str:
        """Return what a command in it writes.

        Raises:
            RuntimeError: it failed; the message has what it said, and the service's log.
        """
        done = self.try_to(*words)
        if done.returncode:
            raise RuntimeError(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}{self.log()[-4000:]}")
        return done.stdout

    def log(self) -> str:
        """Return all that the service has written."""
        return self.try_to("journalctl", "-u", "barograph", "-o", "cat", "--no-pager").stdout

    def documents(self) -> list[dict[str, Any]]:
        """Return the records that the service has written to its log."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def property(self, name: str) -> str:
        """Return what systemd says of the service."""
        return self.do("systemctl", "show", "barograph", "--value", "-p", name).strip()

    def wait(self, holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Return once `holds()`.

        Raises:
            RuntimeError: time is up; the message has the service's log.
        """
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"not within {timeout_s} s: {what}\n{self.log()[-4000:]}")
            time.sleep(0.2)


@contextmanager
def service_host(*volumes: str) -> Generator[ServiceHost]:
    """Such a host, which has booted; gone at the end of the block.

    Args:
        volumes: what it sees of this machine, as podman has it: `FROM:TO`.
    """
    if podman("image", "exists", NAME).returncode:
        have_base()
        say("making a host with systemd, a minute")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "Containerfile").write_text(_CONTAINERFILE)
            build = ("build", "--quiet", "--pull=never", "--isolation=chroot", "--network=host")
            run([*PODMAN, *build, "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", "--tag", NAME, folder])
    name = f"barograph-test-{uuid4().hex[:12]}"
    mounts = [word for volume in volumes for word in ("--volume", volume)]
    # systemd needs its rights; without a network nobody of this machine is reached.
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
    start = ("--runtime=runc", "run", "--detach", "--privileged", "--network=none", "--systemd=always")
    try:
        run([*PODMAN, *start, *limits, "--name", name, *mounts, NAME, "/sbin/init"])
        host = ServiceHost(name)
        host.wait(lambda: host.try_to("systemctl", "is-system-running").stdout == "running\n", "booted")
        yield host
    finally:
        podman("rm", "--force", "--time=0", name)
