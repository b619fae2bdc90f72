"""Tests of a package and of a virtual environment for arm64 on Debian 13, with Python 3.13.

The emulator cannot run Debian 13's systemd, so the agent is started by hand.
"""

import json
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from agent import __version__
from tests.integration.conftest import running_arm64
from tests.integration.packages import OLDER, left_on, packages_for
from tests.lab.process import free_port
from tests.lab.service_host import ServiceHost, host_without_systemd
from tests.lab.sim import Hypervisor, simulated

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

OUTPUT = "/tmp/agent.out"
RUN = (
    "PATH=/usr/local/bin:$PATH barograph run --monitor '/run/vm/*.qmp' --interval 1s"
    f" --state-directory /var/lib/barograph > {OUTPUT} 2>&1 & echo $!"
)


@pytest.fixture(scope="module")
def built(session_folder: Path) -> Generator[Mapping[str, Path]]:
    with running_arm64():
        yield packages_for("arm64", session_folder)


@pytest.fixture
def host(built: Mapping[str, Path]) -> Generator[tuple[ServiceHost, Hypervisor]]:
    """Yield a host and two simulated VMs on it."""
    with tempfile.TemporaryDirectory(prefix="host-") as name:
        vms = Path(name)
        vms.chmod(0o755)
        volumes = (f"{built['deb'].parent}:/dist:ro", f"{vms}:/run/vm")
        with (
            host_without_systemd("trixie", *volumes, architecture="arm64") as host,
            simulated(vms, vms=2) as hypervisor,
        ):
            assert host.do("uname", "-m") == "aarch64\n"
            yield host, hypervisor


def test_the_package_runs_is_upgraded_and_purged(
    host: tuple[ServiceHost, Hypervisor], built: Mapping[str, Path]
) -> None:
    machine, hypervisor = host
    before = left_on(machine)

    machine.do("dpkg", "--install", f"/dist/{built['older'].name}")
    assert machine.do("dpkg-query", "-W", "-f", "${Version}", "barograph") == OLDER
    machine.do("install", "-d", "-o", "barograph", "-m", "0700", "/var/lib/barograph")
    machine.do("sh", "-c", "chown barograph /run/vm/*.qmp")
    watch(machine, hypervisor, user="barograph")
    machine.do("dpkg", "--install", f"/dist/{built['deb'].name}")
    assert machine.do("barograph", "version") == f"barograph {__version__}\n"
    assert machine.do("find", "/opt/barograph", "-name", "former*") == ""
    watch(machine, hypervisor, user="barograph")
    machine.do("dpkg", "--purge", "barograph")

    assert left_on(machine) == before
    assert machine.try_to("getent", "passwd", "barograph").returncode != 0


def test_a_virtual_environment_from_the_files_of_a_release(host: tuple[ServiceHost, Hypervisor]) -> None:
    machine, hypervisor = host
    pip = "/opt/barograph-venv/bin/pip install --quiet"

    machine.do("python3", "-m", "venv", "/opt/barograph-venv")
    machine.do("sh", "-c", f"{pip} --require-hashes -r /dist/barograph-*-requirements.lock")
    machine.do("sh", "-c", f"{pip} --no-deps /dist/barograph-*.whl")
    machine.do("ln", "-s", "/opt/barograph-venv/bin/barograph", "/usr/local/bin/")
    machine.do("mkdir", "-m", "0700", "/var/lib/barograph")

    watch(machine, hypervisor, user="root")


def intervals(hypervisor: Hypervisor) -> set[object]:
    return {vm.state()["interval_s"] for vm in hypervisor.vms}


def watch(host: ServiceHost, hypervisor: Hypervisor, *, user: str) -> None:
    """Run the agent until it has read three samples of each VM. Its stop restores the intervals."""
    host.do("rm", "-f", OUTPUT)
    as_user = ("setpriv", "--reuid", user, "--regid", user, "--init-groups")
    pid = host.do(*as_user, "env", f"BAROGRAPH_WEB__LISTEN=127.0.0.1:{free_port()}", "sh", "-c", RUN).strip()
    try:
        host.wait(lambda: min(sample_counts(host), default=0) >= 3, "samples of each VM", 60)
        assert intervals(hypervisor) == {1}
    except RuntimeError as error:
        error.add_note(host.do("tail", OUTPUT))
        raise
    finally:
        host.do("kill", pid)
    host.wait(lambda: intervals(hypervisor) == {0}, "the agent restores the intervals and stops")


def sample_counts(host: ServiceHost) -> list[int]:
    """Return the number of samples with statistics for each of the two VMs."""
    lines = host.do("cat", OUTPUT).splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line[0] == "{" and line[-1] == "\n"]
    names = [each["vm"]["name"] for each in records if each.get("statistics")]
    return [names.count(name) for name in ("vm0001", "vm0002")]
