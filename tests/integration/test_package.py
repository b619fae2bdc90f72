"""The Debian package on a host without Kubernetes: installed, run, reloaded, upgraded, killed, removed."""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import need
from tests.integration.releasing import release
from tests.lab.service_host import ServiceHost, service_host
from tests.lab.sim import Hypervisor, simulated

pytestmark = pytest.mark.timeout(900)  # the host and the package may have to be built

EXPOSURE_MAX = 1.6  # without ProtectProc=invisible, which hides the QEMU processes
CONFIG = "monitors: [/run/vm/*.qmp]\npolling: {{interval: {interval}}}\nspool: {{mode: disk}}\n"


@pytest.fixture(scope="module")
def package(session_folder: Path) -> Path:
    """The package, made from the commit that is checked out."""
    need("image", "nfpm")
    folder = session_folder / "package"
    release(folder, "python", "deb")
    (found,) = folder.glob("*.deb")
    return found


@pytest.fixture
def installed(package: Path, folder: Path) -> Generator[tuple[ServiceHost, Hypervisor]]:
    """A host with the package, and two VMs on it whose monitors are the service's to use."""
    vms = folder / "vm"
    vms.mkdir()
    with (
        simulated(vms, vms=2) as hypervisor,
        service_host(f"{package.parent}:/dist:ro", f"{vms}:/run/vm") as host,
    ):
        host.do("dpkg", "--install", f"/dist/{package.name}")
        configure(host, CONFIG.format(interval="1s"))
        host.do("sh", "-c", "chown barograph /run/vm/*.qmp")
        yield host, hypervisor


def configure(host: ServiceHost, text: str) -> None:
    host.do("sh", "-c", 'printf %s "$0" > /etc/barograph/barograph.yaml', text)


def samples(host: ServiceHost) -> list[dict[str, Any]]:
    return [each for each in host.documents() if each["schema"].startswith("barograph.vm.sample/")]


def intervals(hypervisor: Hypervisor) -> set[object]:
    return {vm.state()["interval_s"] for vm in hypervisor.vms}


def wait_for_more_samples(host: ServiceHost) -> None:
    count = len(samples(host))
    host.wait(lambda: len(samples(host)) >= count + 4, "four more samples")


def test_installed_it_runs_is_reloaded_upgraded_and_removed_and_leaves_nothing(
    installed: tuple[ServiceHost, Hypervisor], package: Path
) -> None:
    host, hypervisor = installed
    before = left_on(host)
    assert host.property("ActiveState") == "inactive"  # nothing is started before it is configured

    host.do("systemctl", "enable", "--now", "barograph")
    host.wait(lambda: len({each["vm"]["name"] for each in samples(host)}) == 2, "samples of both")
    host.wait(lambda: intervals(hypervisor) == {1}, "polling is switched on")
    first = host.property("MainPID")
    assert host.do("stat", "-c", "%U", f"/proc/{first}").strip() == "barograph"

    configure(host, CONFIG.format(interval="2s"))
    host.do("systemctl", "reload", "barograph")
    host.wait(lambda: intervals(hypervisor) == {2}, "the new interval")
    configure(host, CONFIG.format(interval="soon"))
    refused = host.try_to("systemctl", "reload", "barograph")
    assert refused.returncode != 0
    assert "polling.interval" in host.log()
    assert host.property("ActiveState") == "active"
    assert host.property("MainPID") == first

    upgrade = ("dpkg", "--install", f"/dist/{package.name}")  # the script is told of an older version
    assert "the service did not restart" in host.try_to(*upgrade).stderr
    assert host.do("dpkg-query", "-W", "-f", "${Status}", "barograph") == "install ok installed"
    assert host.property("ActiveState") == "failed"

    configure(host, CONFIG.format(interval="2s"))
    host.do("systemctl", "start", "barograph")
    first = host.property("MainPID")
    host.do(*upgrade)
    host.wait(lambda: host.property("MainPID") not in ("0", first), "another process")
    host.wait(lambda: host.property("ActiveState") == "active", "ready")
    wait_for_more_samples(host)
    assert intervals(hypervisor) == {2}
    for name in ("vm0001", "vm0002"):
        told = [each for each in samples(host) if each["vm"]["name"] == name]
        assert len({each["epoch"] for each in told}) == 1
        assert [each["sequence"] for each in told] == list(range(1, len(told) + 1))

    host.do("dpkg", "--remove", "barograph")
    assert intervals(hypervisor) == {0}
    host.do("dpkg", "--purge", "barograph")
    assert left_on(host) < before
    assert [each for each in left_on(host) if "barograph" in each] == []
    assert host.try_to("getent", "passwd", "barograph").returncode != 0


def test_an_agent_whose_loop_does_not_turn_is_started_anew(installed: tuple[ServiceHost, Hypervisor]) -> None:
    host, _ = installed
    drop_in = "[Service]\nWatchdogSec=3s\nTimeoutStopSec=1s\nRestartSec=100ms\n"
    host.do("mkdir", "/etc/systemd/system/barograph.service.d")
    host.do("sh", "-c", 'printf %s "$0" > /etc/systemd/system/barograph.service.d/test.conf', drop_in)
    host.do("systemctl", "daemon-reload")
    host.do("systemctl", "start", "barograph")
    first = host.property("MainPID")
    host.do("kill", "-STOP", first)
    host.wait(
        lambda: host.property("ActiveState") == "active" and host.property("MainPID") not in ("0", first),
        "another process, that is ready",
    )
    wait_for_more_samples(host)
    assert int(host.property("NRestarts")) >= 1


def test_sockets_of_root_s_need_the_drop_in_and_no_more(installed: tuple[ServiceHost, Hypervisor]) -> None:
    host, _ = installed
    host.do("sh", "-c", "chown root /run/vm/*.qmp")
    host.do("systemctl", "start", "barograph")
    host.wait(lambda: "reason=denied" in host.log(), "the state says why")

    host.do("mkdir", "/etc/systemd/system/barograph.service.d")
    host.do(
        "cp", "/usr/share/doc/barograph/examples/proxmox.conf", "/etc/systemd/system/barograph.service.d/"
    )
    host.do("systemctl", "daemon-reload")
    host.do("systemctl", "restart", "barograph")
    wait_for_more_samples(host)
    status = host.do("cat", f"/proc/{host.property('MainPID')}/status")
    assert re.findall(r"CapEff:\s*(\w+)", status) == ["0000000000000002"]  # CAP_DAC_OVERRIDE: capabilities(7)
    seen = f"/proc/{host.property('MainPID')}/root"
    assert host.do("cat", "/etc/shadow") != ""
    assert host.do("cat", f"{seen}/etc/shadow", f"{seen}/etc/gshadow") == ""  # InaccessiblePaths=


def test_a_removal_touches_only_what_is_the_packages(installed: tuple[ServiceHost, Hypervisor]) -> None:
    host, hypervisor = installed
    host.do("systemctl", "start", "barograph")
    host.wait(lambda: intervals(hypervisor) == {1}, "polling is switched on")
    host.do("systemctl", "stop", "barograph")
    assert host.do("stat", "-c", "%a %U", "/var/lib/barograph", "/var/lib/barograph/owed.json").split() == [
        *("700", "barograph"),
        *("600", "barograph"),
    ]
    plant = (
        "echo secret > /srv/secret; mkdir /var/lib/barograph/tree; touch /var/lib/barograph/tree/kept"
        " /etc/barograph/password; cd /var/lib/barograph; for name in .owed.json.new spool.sqlite-x; do"
        " ln -s /srv/secret $name; chown -h barograph $name; done"
    )
    host.do("sh", "-c", plant)

    host.do("dpkg", "--purge", "barograph")

    assert intervals(hypervisor) == {0}
    assert host.do("stat", "-c", "%U %s", "/srv/secret") == "root 7\n"
    left = host.do("sh", "-c", "cd /var/lib/barograph; find . -mindepth 1 | sort; ls /etc/barograph")
    assert left.split() == ["./spool.sqlite-x", "./tree", "./tree/kept", "password"]


def test_the_service_can_do_little_else(installed: tuple[ServiceHost, Hypervisor]) -> None:
    host, _ = installed

    said = host.do("systemd-analyze", "security", "--no-pager", "barograph")

    exposure = re.search(r"Overall exposure level for barograph\.service: ([0-9.]+)", said)
    assert exposure is not None
    print(exposure[0])
    assert float(exposure[1]) <= EXPOSURE_MAX
    assert host.do("systemd-analyze", "verify", "barograph.service") == ""


def test_the_manual_and_the_completions_are_there(installed: tuple[ServiceHost, Hypervisor]) -> None:
    host, _ = installed

    assert "barograph give-back" in host.do("man", "-P", "cat", "barograph")
    complete = (
        "source /usr/share/bash-completion/completions/barograph; COMP_WORDS=(barograph gi); COMP_CWORD=1;"
        " _barograph_completion barograph; echo ${COMPREPLY[@]}"
    )
    assert host.do("bash", "-c", complete).strip() == "give-back"


def left_on(host: ServiceHost) -> set[str]:
    places = "/etc /usr /opt /var/lib /lib/systemd /run"
    find = f"find {places} -xdev -name '*barograph*' -not -path '/var/lib/dpkg/*' 2>/dev/null; true"
    return set(host.do("sh", "-c", find).splitlines())  # dpkg takes an empty /opt away
