"""A container with systemd as PID 1, for installing, using and removing the package."""

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.lab.cache import locked, run, say
from tests.lab.image import PODMAN, ending, have_base, podman

DEBIAN = ("bookworm", "trixie")
"""Debian 12 and 13."""
UBUNTU = ("jammy", "noble")
"""Ubuntu 22.04 and 24.04."""
_PACKAGES = "systemd systemd-sysv man-db procps python3-libvirt rpm"
_MORE_PACKAGES = {"jammy": "python3.11"}  # its python3 is 3.10
# By default, Debian 13's systemd does not start with cgroups v1. A container has no modules to load.
_BOOT = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 systemd.mask=systemd-modules-load.service"
_ENVIRONMENT = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")


class ServiceHost:
    """A running host."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = run([*PODMAN, "inspect", "--format", "{{.State.Pid}}", name]).strip()
        self._since: tuple[str, ...] = ()

    def try_to(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the host to its end.

        `podman exec` would take a third of a second of CPU for each command, and waits run many.
        """
        enter = ("nsenter", "--target", self._pid, "--mount", "--pid", "--net", "--ipc", "--uts")
        argv = (*enter, "--", *_ENVIRONMENT, *words)
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=300)

    def begin_log(self) -> None:
        """Make `log` and `documents` begin at this moment."""
        cursor = self.do("journalctl", "-n", "0", "--show-cursor", "--no-pager").partition("cursor: ")[2]
        self._since = ("--after-cursor", cursor.strip())

    def do(self, *words: str) -> str:
        """Run a command in the host and return its output.

        Raises:
            RuntimeError: it failed; the message contains its output and the service's log.
        """
        done = self.try_to(*words)
        if done.returncode:
            raise RuntimeError(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}{self.log()[-4000:]}")
        return done.stdout

    def log(self) -> str:
        """Return everything that the service has written."""
        words = ("journalctl", "-u", "barograph", "-o", "cat", "--no-pager", *self._since)
        return self.try_to(*words).stdout

    def documents(self) -> list[dict[str, Any]]:
        """Return the records that the service has written to its log."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def property(self, name: str) -> str:
        """Return a property of the service from systemd."""
        return self.do("systemctl", "show", "barograph", "--value", "-p", name).strip()

    def wait(self, holds: Callable[[], bool], what: str, timeout_s: float = 180.0) -> None:
        """Return once `holds()` is true.

        Raises:
            RuntimeError: time is up; the message has the service's log.
        """
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"not within {timeout_s} s: {what}\n{self.log()[-4000:]}")
            time.sleep(0.2)


@contextmanager
def service_host(suite: str, *volumes: str, architecture: str = "amd64") -> Generator[ServiceHost]:
    """Boot a host and run it until the block ends.

    Args:
        suite: the release, from `DEBIAN` or `UBUNTU`.
        volumes: folders of this machine that it mounts, in podman's notation: `FROM:TO`.
        architecture: `amd64`, or `arm64` within `emulation.arm64`.
    """
    # systemd needs these rights. Without a network it reaches no service of the machine. It is unprivileged:
    # /proc/sys, which belongs to the machine, must be read-only, since systemd writes to it when it starts
    # (file limits, sysctl.d) and removes the machine's entries of binfmt_misc.
    rights = ("--cap-add=all", *(f"--security-opt={each}=unconfined" for each in ("seccomp", "apparmor")))
    told = ("--env", f"SYSTEMD_PROC_CMDLINE={_BOOT}", "--network=none", "--systemd=always")
    with _running(host_image(suite, architecture), volumes, (*rights, *told), "/sbin/init") as host:
        # The emulator cannot give units their credentials, so some units of systemd fail.
        booted = ("running\n",) if architecture == "amd64" else ("running\n", "degraded\n")
        host.wait(lambda: host.try_to("systemctl", "is-system-running").stdout in booted, "booted")
        yield host


@contextmanager
def host_without_systemd(suite: str, *volumes: str, architecture: str) -> Generator[ServiceHost]:
    """Run a host with the machine's network until the block ends. The arguments are as for `service_host`."""
    certificates = "/etc/ssl/certs:/etc/ssl/certs:ro"
    image = host_image(suite, architecture)
    with _running(image, (*volumes, certificates), ("--network=host",), "sleep", "infinity") as host:
        yield host


@contextmanager
def _running(
    image: str, volumes: Sequence[str], options: Sequence[str], *words: str
) -> Generator[ServiceHost]:
    name = f"barograph-test-{uuid4().hex[:12]}"
    mounts = [word for volume in volumes for word in ("--volume", volume)]
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
    start = ("--runtime=runc", "run", "--detach", "--pull=never", *limits, *options)
    try:
        run([*PODMAN, *start, "--name", name, *mounts, image, *words])
        yield ServiceHost(name)
    finally:
        podman("rm", "--force", "--time=0", name)


def host_image(suite: str, architecture: str = "amd64") -> str:
    """Return the name of the image of a host, and build the image if it is missing.

    Raises:
        CannotHave: it cannot be built; the message says why.
    """
    packages = f"{_PACKAGES} {_MORE_PACKAGES.get(suite, '')}".strip()
    containerfile = f"""RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
 --no-install-recommends {packages} && rm -rf /var/lib/apt/lists/*
"""
    repository = f"localhost/barograph-service-host-{suite}{ending(architecture)}"
    name = f"{repository}:{hashlib.sha256(containerfile.encode()).hexdigest()[:12]}"
    with locked(f"service-host-{suite}"):
        if podman("image", "exists", name).returncode:
            base = have_base(suite, architecture)
            say(f"making a host with systemd, {suite} for {architecture}, a minute")
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "Containerfile").write_text(f"FROM {base}\n{containerfile}")
                build = ("build", "--quiet", "--pull=never", "--isolation=chroot", "--network=host")
                build += (f"--platform=linux/{architecture}",)
                run([*PODMAN, *build, "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", "--tag", name, folder])
    return name
