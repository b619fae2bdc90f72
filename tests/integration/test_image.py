"""The content and the behavior of the image, built from the tree and run as documented."""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest

from agent import __version__
from tests.integration.audit import ask
from tests.integration.conftest import need, running_arm64
from tests.lab import image
from tests.lab.container import Container, container, output_of, run_to_its_end
from tests.lab.libvirt import libvirtd
from tests.lab.process import free_port
from tests.lab.sim import simulated

pytestmark = pytest.mark.timeout(1800)  # the image may have to be built

NOBODY = 65534

SIZE_MAX_BYTES = 130_000_000
"""The limit of what the image adds to its base."""

BUILD_TOOLS = ("gcc", "cc", "make", "git", "pip", "pip3", "uv", "hatchling", "cyclonedx-py")


@pytest.fixture(scope="module")
def built() -> str:
    """The image's name."""
    need("image")
    return image.image()


def test_the_image_prints_its_version_and_has_the_labels(built: str) -> None:
    labels = cast(dict[str, str], image.inspect(built)["Labels"])

    assert output_of("version") == f"barograph {__version__}\n"
    assert labels["org.opencontainers.image.title"] == "barograph"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"version", "revision", "created", "base.name", "description"} <= {
        name.removeprefix("org.opencontainers.image.") for name in labels
    }


def test_the_image_runs_unprivileged_and_can_write_only_to_its_state(built: str) -> None:
    config = cast(dict[str, Any], image.inspect(built)["Config"])
    script = (
        "import os; status = open('/proc/self/status').read();"
        "print(os.getuid(), os.getgid(), status.split('CapEff:')[1].split()[0]);"
        "print([p for p in ('/', '/opt/barograph', '/etc', '/var/lib/barograph') if os.access(p, os.W_OK)])"
    )

    assert config["User"] == "10001:10001"
    assert output_of("-c", script, entrypoint="python").splitlines() == [
        "10001 10001 0000000000000000",
        "['/var/lib/barograph']",
    ]


def test_the_image_has_no_build_tools_and_every_module_is_compiled(built: str) -> None:
    script = f"""
import importlib.util, pathlib, shutil, sys
print([each for each in {BUILD_TOOLS} if shutil.which(each)])
print([each for each in ("pip", "setuptools", "ensurepip", "hatchling") if importlib.util.find_spec(each)])
sources = list(pathlib.Path("/opt/barograph/lib").rglob("*.py"))
print(len(sources) > 1000)
print([str(each) for each in sources if not pathlib.Path(importlib.util.cache_from_source(each)).exists()])
flags = {{pathlib.Path(importlib.util.cache_from_source(each)).read_bytes()[4] for each in sources}}
print(flags)  # 1: by unchecked hash (PEP 552)
"""

    assert output_of("-c", script, entrypoint="python").splitlines() == ["[]", "[]", "True", "[]", "{1}"]


def test_its_sbom_names_every_package_in_it_and_no_other(built: str) -> None:
    script = """
import importlib.metadata, json
print(json.dumps(sorted({each.name + "==" + each.version for each in importlib.metadata.distributions()})))
print(open("/opt/barograph/sbom.cdx.json").read())
"""

    first, _, rest = output_of("-c", script, entrypoint="python").partition("\n")
    bom = json.loads(rest)

    parts = [bom["metadata"]["component"], *bom["components"]]
    named = {f"{each['name']}=={each['version']}".lower().replace("_", "-") for each in parts}
    assert bom["bomFormat"] == "CycloneDX"
    assert named == {each.lower().replace("_", "-") for each in json.loads(first)}


def test_it_is_small(built: str) -> None:
    ours = image.inspect(built)["Size"] - image.inspect(image.BASE)["Size"]

    print(f"{ours / 1e6:.0f} MB on a base of {image.inspect(image.BASE)['Size'] / 1e6:.0f} MB")
    assert 0 < ours < SIZE_MAX_BYTES


@pytest.fixture(params=["amd64", pytest.param("arm64", marks=pytest.mark.long)])
def architecture(request: pytest.FixtureRequest) -> Generator[str]:
    """Yield the architecture of an image that this machine can run now."""
    need("image")
    if request.param == "amd64":
        yield "amd64"
        return
    with running_arm64():
        yield "arm64"


def test_it_watches_the_hosts_monitors_and_reports_its_health(architecture: str, folder: Path) -> None:
    port = free_port()
    with simulated(folder, vms=2, preset=1) as hypervisor:
        for vm in hypervisor.vms:
            vm.qmp.chmod(0o666)  # the container's user is not that of the simulated QEMUs
        folder.chmod(0o755)
        options = (
            *("--volume", f"{folder}:/run/vm:ro"),
            *("--env", "BAROGRAPH_HOST__ID=host-1", "--env", "BAROGRAPH_HOST__NAME=one"),
            *("--env", f"BAROGRAPH_WEB__LISTEN=127.0.0.1:{port}", "--env", "BAROGRAPH_SPOOL__MODE=disk"),
        )
        words = ("run", "--monitor", "/run/vm/*.qmp")
        name = image.image(architecture=architecture)
        with container(folder, *options, words=words, image=name) as running:
            running.wait_for(lambda: ready(port), "ready")
            running.wait_for(lambda: {"vm0001", "vm0002"} <= names(running), "samples of both VMs")
            machine = running.execute("uname", "-m").stdout.strip()
            well = running.execute("barograph", "health", "--ready")
            code = running.stop()

    assert machine == {"amd64": "x86_64", "arm64": "aarch64"}[architecture]
    assert (well.returncode, well.stdout) == (0, "ok\n")
    assert code == 0, running.stderr.read_text()
    assert all(document["host"]["id"] == "host-1" for document in samples(running))


@pytest.mark.guest
@pytest.mark.usefixtures("real_libvirt")
def test_the_libvirt_image_watches_the_hosts_libvirt_as_nobody(architecture: str, folder: Path) -> None:
    name = image.image(image.NAME_LIBVIRT, architecture)
    with libvirtd(folder, "one") as daemon:
        uuid = daemon.domain("g", period_s=1).uuid
        folder.chmod(0o755)
        uri = f"qemu+unix:///system?socket=/run/libvirt/{daemon.socket_ro.name}"
        state = folder / "state"
        state.mkdir()
        os.chown(state, NOBODY, NOBODY)
        options = (
            *(*HOST, "--volume", f"{daemon.runtime}:/run/libvirt:ro"),
            *("--volume", f"{state}:/var/lib/barograph", "--user", f"{NOBODY}:{NOBODY}"),
            *("--env", f"BAROGRAPH_LIBVIRT={uri}", "--env", "BAROGRAPH_POLLING__POLICY=observe"),
        )
        with container(folder, *options, words=("run",), image=name) as running:
            running.wait_for(lambda: len(samples(running)) >= 3, "samples of the domain")
            assert running.stop() == 0
        mount = ("--volume", f"{daemon.runtime}:/run/libvirt:ro")
        unknown = run_to_its_end("probe", f"{uri}#{uuid}", options=(*HOST, *mount), image=name)
        assert "accepts only clients whose user and group it can look up" in unknown.stdout

    assert {document["vm"]["uuid"] for document in samples(running)} == {uuid}


def test_a_missing_host_name_is_refused_and_not_taken_from_the_container(built: str) -> None:
    done = run_to_its_end("check-config", "--monitor", "/run/vm/*.qmp")

    assert done.returncode == 2
    assert "host.name: missing, and a container has a hostname of its own" in done.stderr
    assert "host.id: missing, and a container does not have the machine-id" in done.stderr


def test_its_health_check_fails_where_no_agent_answers(built: str) -> None:
    check = cast(dict[str, Any], image.inspect(built)["Healthcheck"])["Test"]
    done = run_to_its_end("health", "--web", f"127.0.0.1:{free_port()}", options=HOST)

    assert check == ["CMD", "barograph", "health"]
    assert done.returncode == 1
    assert "no answer from 127.0.0.1" in done.stderr


HOST = ("--env", "BAROGRAPH_HOST__ID=host-1", "--env", "BAROGRAPH_HOST__NAME=one")


def ready(port: int) -> bool:
    try:
        return ask(f"http://127.0.0.1:{port}/", "readyz") == (200, "ok\n")
    except OSError:
        return False


def samples(running: Container) -> list[dict[str, Any]]:
    lines = [
        json.loads(line) for line in running.stdout.read_text().splitlines(keepends=True) if line[-1] == "\n"
    ]
    return [each for each in lines if each["schema"].startswith("barograph.vm.sample/")]


def names(running: Container) -> set[str]:
    return {document["vm"]["name"] for document in samples(running)}
