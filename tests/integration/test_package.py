"""Tests of the package on a host without Kubernetes: install, run, reload, upgrade, kill, remove."""

import re
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from release.manual import FILES
from tests.integration.conftest import cannot_run, running_arm64
from tests.integration.packages import OLDER, architecture_of, left_on, older_rpm, packages_for
from tests.integration.releasing import ROOT
from tests.lab import debian
from tests.lab.cache import CannotHave, run
from tests.lab.libvirt import libvirtd
from tests.lab.qemu import guest
from tests.lab.service_host import DEBIAN, UBUNTU, ServiceHost, host_image, service_host
from tests.lab.sim import Hypervisor, simulated

pytestmark = pytest.mark.timeout(2400)  # the host and the package may have to be built

EXPOSURE_MAX = 1.6  # without ProtectProc=invisible, which hides the QEMU processes
INSTALL = ("dpkg", "--force-unsafe-io", "--install")  # no fsync for each of four thousand files
LIBVIRT = "libvirt: [{{uri: 'qemu+unix:///system?socket={socket}-ro', policy: observe}}]\n"
NO_LIBVIRT = ("jammy",)  # its bindings are for a Python that is too old for the package
CONFIG = "monitors: [/run/vm/*.qmp]\npolling: {{interval: {interval}}}\nspool: {{mode: disk}}\n"


@pytest.fixture(scope="module")
def packages(session_folder: Path) -> Mapping[str, Path]:
    """Return the package of each kind, built from the checked-out commit, and a .deb with a lower version."""
    return packages_for("amd64", session_folder)


@pytest.fixture(scope="module")
def packages_arm64(session_folder: Path) -> Generator[Mapping[str, Path]]:
    """Yield the same for arm64 while this machine can run them."""
    with running_arm64():
        yield packages_for("arm64", session_folder)


@dataclass(frozen=True)
class Place:
    """A host, and the directories of this machine that it sees as /run/vm and /run/libvirt."""

    host: ServiceHost
    vms: Path
    libvirt: Path


@contextmanager
def host_of(suite: str, packages: Mapping[str, Path]) -> Generator[Place]:
    with tempfile.TemporaryDirectory(prefix="host-") as name:
        place = Path(name)
        for each in ("vm", "libvirt"):
            (place / each).mkdir()
            (place / each).chmod(0o755)
        volumes = (
            f"{packages['deb'].parent}:/dist:ro",
            f"{place}/vm:/run/vm",
            f"{place}/libvirt:/run/libvirt",
        )
        with service_host(suite, *volumes, architecture=architecture_of(packages)) as host:
            yield Place(host, place / "vm", place / "libvirt")


@pytest.fixture(scope="module")
def debian_12(packages: Mapping[str, Path]) -> Generator[Place]:
    """Yield a host for most tests: creating one for each would take most of the time."""
    with host_of("bookworm", packages) as place:
        yield place


@pytest.fixture(scope="module")
def debian_12_arm64(packages_arm64: Mapping[str, Path]) -> Generator[Place]:
    """Yield such a host for arm64."""
    with host_of("bookworm", packages_arm64) as place:
        yield place


@pytest.fixture
def installed(debian_12: Place, packages: Mapping[str, Path]) -> Generator[tuple[ServiceHost, Hypervisor]]:
    """Yield a host with the package, and two VMs on it with monitors that the service may use."""
    with installed_on(debian_12, packages) as (host, hypervisor):
        yield host, hypervisor


@contextmanager
def installed_on(place: Place, packages: Mapping[str, Path]) -> Generator[tuple[ServiceHost, Hypervisor]]:
    host = place.host
    with simulated(place.vms, vms=2) as hypervisor:
        if (
            "install ok installed"
            not in host.try_to("dpkg-query", "-W", "-f", "${Status}", "barograph").stdout
        ):
            host.do(*INSTALL, f"/dist/{packages['deb'].name}")
        configure(host, CONFIG.format(interval="1s"))
        host.do("sh", "-c", "chown barograph /run/vm/*.qmp")
        host.begin_log()
        try:
            yield host, hypervisor
        finally:
            host.try_to("systemctl", "stop", "barograph")
            host.try_to("systemctl", "reset-failed", "barograph")
            drop_ins = "/etc/systemd/system/barograph.service.d"
            host.do("rm", "-rf", "/var/lib/barograph", drop_ins, "/srv/secret")
            host.try_to("systemctl", "daemon-reload")
    for left in place.vms.iterdir():
        left.unlink()


def configure(host: ServiceHost, text: str) -> None:
    host.do("sh", "-c", 'printf %s "$0" > /etc/barograph/barograph.yaml', text)


def samples(host: ServiceHost) -> list[dict[str, Any]]:
    return [each for each in host.documents() if each["schema"].startswith("barograph.vm.sample/")]


def intervals(hypervisor: Hypervisor) -> set[object]:
    return {vm.state()["interval_s"] for vm in hypervisor.vms}


def wait_for_more_samples(host: ServiceHost) -> None:
    count = len(samples(host))
    host.wait(lambda: len(samples(host)) >= count + 4, "four more samples")


def test_the_package_runs_is_reloaded_upgraded_and_removed_and_leaves_nothing(
    installed: tuple[ServiceHost, Hypervisor], packages: Mapping[str, Path]
) -> None:
    host, hypervisor = installed
    before = left_on(host)
    assert host.property("ActiveState") == "inactive"  # nothing is started before it is configured

    host.do("systemctl", "enable", "--now", "barograph")
    host.wait(lambda: len({each["vm"]["name"] for each in samples(host)}) == 2, "samples of both VMs")
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

    upgrade = (*INSTALL, f"/dist/{packages['deb'].name}")  # dpkg passes the previous version to the script
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


def test_systemd_of_the_host_changes_no_kernel_setting_of_the_machine(debian_12: Place) -> None:
    assert debian_12.host.try_to("test", "-w", "/proc/sys/fs/nr_open").returncode != 0


def test_an_agent_with_a_blocked_loop_is_restarted(installed: tuple[ServiceHost, Hypervisor]) -> None:
    host, _ = installed
    drop_in = "[Service]\nWatchdogSec=5s\nTimeoutStopSec=1s\nRestartSec=100ms\n"
    host.do("mkdir", "/etc/systemd/system/barograph.service.d")
    host.do("sh", "-c", 'printf %s "$0" > /etc/systemd/system/barograph.service.d/test.conf', drop_in)
    host.do("systemctl", "daemon-reload")
    host.do("systemctl", "start", "barograph")
    first = host.property("MainPID")
    host.do("kill", "-STOP", first)
    host.wait(
        lambda: host.property("ActiveState") == "active" and host.property("MainPID") not in ("0", first),
        "another process that is ready",
    )
    wait_for_more_samples(host)
    assert int(host.property("NRestarts")) >= 1


def test_the_drop_in_gives_access_to_roots_sockets_and_not_to_the_hosts_secrets(
    installed: tuple[ServiceHost, Hypervisor],
) -> None:
    host, _ = installed
    host.do("sh", "-c", "chown root /run/vm/*.qmp")
    host.do("systemctl", "start", "barograph")
    host.wait(lambda: "reason=denied" in host.log(), "the state `denied`")

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


def test_the_exposure_level_of_the_service_is_low(installed: tuple[ServiceHost, Hypervisor]) -> None:
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


def test_the_environment_sees_libvirt_and_nothing_else_of_the_distribution(
    installed: tuple[ServiceHost, Hypervisor],
) -> None:
    host, _ = installed
    python = "/opt/barograph/bin/python"

    assert host.do(python, "-c", "import libvirt; print(libvirt.__file__)").strip() == (
        "/usr/lib/python3/dist-packages/libvirt.py"
    )
    assert host.do("python3", "-c", "import libvirt_qemu") == ""
    assert "ModuleNotFoundError" in host.try_to(python, "-c", "import libvirt_qemu").stderr
    assert "dist-packages" not in host.do(python, "-c", "import sys; print(sys.path)")


def test_the_command_ignores_python_variables_of_the_caller(
    installed: tuple[ServiceHost, Hypervisor],
) -> None:
    host, _ = installed
    host.do("mkdir", "-p", "/tmp/others")
    host.do(
        "sh", "-c", "echo 'print(\"others\")' | tee /tmp/others/structlog.py /tmp/others/sitecustomize.py"
    )

    said = host.do(
        "env", "PYTHONPATH=/tmp/others", "PYTHONSTARTUP=/tmp/others/structlog.py", "barograph", "version"
    )

    assert "others" not in said


def test_the_files_that_the_configuration_and_the_manual_name_are_there(
    installed: tuple[ServiceHost, Hypervisor],
) -> None:
    host, _ = installed
    texts = (ROOT / "packaging/barograph.yaml").read_text() + "\n".join(FILES)
    named = re.findall(r"/(?:usr|etc)/[\w/.-]*\w", texts)

    assert "/usr/share/doc/barograph/configuration.md" in named
    for name in (
        *named,
        *(f"/usr/share/doc/barograph/{each}" for each in ("install.md", "examples/proxmox.conf")),
    ):
        host.do("test", "-s", name)


def test_the_package_adapts_to_another_python_of_the_distribution(
    installed: tuple[ServiceHost, Hypervisor],
) -> None:
    host, _ = installed
    host.do("/opt/barograph/libexec/clear")
    assert host.try_to("barograph", "version").returncode != 0

    host.do("dpkg-trigger", "--by-package=python3-minimal", "/usr/bin/python3")
    host.do("dpkg", "--configure", "--pending")

    assert host.do("barograph", "version").startswith("barograph ")
    compiled = "find /opt/barograph/lib -name __pycache__ | cut -d/ -f5 | sort -u"
    assert host.do("sh", "-c", compiled).split() == ["common", "python3.11"]


def test_a_removal_changes_only_the_files_of_the_package(installed: tuple[ServiceHost, Hypervisor]) -> None:
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


@pytest.mark.guest
@pytest.mark.usefixtures("real_libvirt")
@pytest.mark.parametrize(
    ("suite", "architecture"),
    [
        *((each, "amd64") for each in DEBIAN),
        *(pytest.param(each, "amd64", marks=pytest.mark.long) for each in UBUNTU),
        pytest.param("bookworm", "arm64", marks=pytest.mark.long),
    ],
)
def test_it_watches_a_real_qemu_and_a_real_domain_and_is_upgraded_and_purged(
    suite: str, architecture: str, request: pytest.FixtureRequest, folder: Path
) -> None:
    ending = "" if architecture == "amd64" else "_arm64"
    packages: Mapping[str, Path] = request.getfixturevalue(f"packages{ending}")
    watched = {("plain", "qmp")}
    if suite not in NO_LIBVIRT:
        watched.add(("owned", "libvirt"))
    if suite in UBUNTU:
        try:
            host_image(suite)
        except CannotHave as error:
            cannot_run(f"no host with Ubuntu: {error}")
    with ExitStack() as stack:
        if suite == "bookworm":
            place: Place = request.getfixturevalue(f"debian_12{ending}")
            place.host.do("dpkg", "--purge", "barograph")
        else:
            place = stack.enter_context(host_of(suite, packages))
        host = place.host
        host.begin_log()
        before = left_on(host)
        stack.enter_context(guest(place.vms, "plain"))
        daemon = stack.enter_context(libvirtd(folder, "host", runtime=place.libvirt))
        daemon.domain("owned", period_s=1)
        host.do(*INSTALL, f"/dist/{packages['older'].name}")
        host.do("sh", "-c", "chown barograph /run/vm/plain.qmp")
        socket = f"/run/libvirt/{daemon.socket.name}"
        libvirt = "" if suite in NO_LIBVIRT else LIBVIRT.format(socket=socket)
        configure(host, CONFIG.format(interval="1s") + libvirt)

        host.do("systemctl", "start", "barograph")
        host.wait(lambda: read_by(host) == watched, "samples of each VM", 300)
        first = host.property("MainPID")
        upgraded = host.try_to(*INSTALL, f"/dist/{packages['deb'].name}")
        assert upgraded.returncode == 0, upgraded.stderr
        assert "not empty" not in upgraded.stderr
        assert former_module_on(host) == ""
        host.wait(lambda: host.property("MainPID") not in ("0", first), "another process")
        host.begin_log()
        host.wait(lambda: read_by(host) == watched, "samples of each VM", 300)

        host.do("dpkg", "--purge", "barograph")
        assert left_on(host) == before
        assert host.try_to("getent", "passwd", "barograph").returncode != 0


def former_module_on(host: ServiceHost) -> str:
    """Return what is left of the module that only the older package has."""
    return host.do("find", "/opt/barograph", "-name", "former*")


def read_by(host: ServiceHost) -> set[tuple[str, str]]:
    return {(each["vm"]["name"], each["via"]) for each in samples(host) if each["statistics"]}


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_rpm_is_installed_upgraded_from_an_older_version_and_erased(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    ending = "" if architecture == "amd64" else "_arm64"
    packages: Mapping[str, Path] = request.getfixturevalue(f"packages{ending}")
    place: Place = request.getfixturevalue(f"debian_12{ending}")
    with installed_on(place, packages) as (host, hypervisor):
        check_the_rpm(host, hypervisor, packages)


def check_the_rpm(host: ServiceHost, hypervisor: Hypervisor, packages: Mapping[str, Path]) -> None:
    host.do("dpkg", "--purge", "barograph")
    host.do("rm", "-rf", "/etc/barograph")  # another test leaves a password in it
    before = left_on(host)
    rpm = ("rpm", "--nodeps")  # rpm does not know Debian's packages

    host.do(*rpm, "--install", f"/dist/{older_rpm(packages).name}")
    assert host.do("rpm", "--query", "barograph").startswith(f"barograph-{OLDER}-")
    configure(host, CONFIG.format(interval="1s"))
    host.do("sh", "-c", "chown barograph /run/vm/*.qmp")
    host.do("systemctl", "start", "barograph")
    host.wait(lambda: intervals(hypervisor) == {1}, "polling is switched on")
    wait_for_more_samples(host)
    first = host.property("MainPID")

    host.do(*rpm, "--upgrade", f"/dist/{packages['rpm'].name}")
    assert host.do("rpm", "--query", "barograph").startswith(f"barograph-{__version__}-")
    assert former_module_on(host) == ""
    assert "interval: 1s" in host.do("cat", "/etc/barograph/barograph.yaml")
    host.wait(lambda: host.property("MainPID") not in ("0", first), "another process")
    wait_for_more_samples(host)
    assert intervals(hypervisor) == {1}
    for name in ("vm0001", "vm0002"):
        told = [each for each in samples(host) if each["vm"]["name"] == name]
        assert [each["sequence"] for each in told] == list(range(1, len(told) + 1))
    assert host.do("sh", "-c", "find /opt/barograph/lib/common/agent -name '*.pyc' | head -n 1") != ""

    host.do(*rpm, "--erase", "barograph")
    assert intervals(hypervisor) == {0}
    host.do("rm", "-rf", "/var/lib/barograph", "/etc/barograph")  # as docs/install.md says
    host.do("userdel", "barograph")
    assert left_on(host) == before


@pytest.mark.long
def test_lintian_reports_nothing(packages: Mapping[str, Path]) -> None:
    debian.install(["lintian"], "checks the package", there=lambda: shutil.which("lintian") is not None)

    assert run(["lintian", "--allow-root", "--no-cfg", packages["deb"]]).strip() == ""
