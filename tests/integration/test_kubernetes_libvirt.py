"""The chart's two presets for libvirt on a real node, with real libvirt daemons, QEMUs and guests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from agent import __version__
from tests.integration.pods import Release, documents, on_this_machine, to
from tests.lab.image import NAME_LIBVIRT, image_tar
from tests.lab.kafka import RealKafka
from tests.lab.kubernetes import Node
from tests.lab.libvirt import kubevirt, libvirtd, virt_launcher

pytestmark = [
    pytest.mark.guest,
    pytest.mark.alone,
    pytest.mark.long,
    pytest.mark.usefixtures("real_libvirt"),
    pytest.mark.timeout(1200),
]

TAG = f"{__version__}-libvirt"
LIBVIRT_QEMU = 64055  # Debian's user for QEMUs; KubeVirt's is 107, which does not exist here


@pytest.fixture(scope="module", autouse=True)
def _image(node: Node) -> None:
    node.import_image(image_tar(NAME_LIBVIRT), f"localhost/barograph:{TAG}")


def install(
    released: Release, folder: Path, kafka: RealKafka, values: Mapping[str, object]
) -> tuple[str, str]:
    """Install the chart with a preset, and return its topics."""
    topics = (f"{folder.name}.samples", f"{folder.name}.states")
    for topic in (*topics, f"{folder.name}.memory"):
        kafka.create_topic(topic)
    config = {"kafka": to(kafka, topics), "polling": {"interval": "1s"}}
    released.install({"image": {"tag": TAG}, "config": config, **values, **on_this_machine(folder)})
    return topics


def user_of(released: Release) -> Sequence[str]:
    """Return the agent's user, and its effective and bounding capabilities."""
    fields = released.status()
    return (fields["Uid"].split()[1], fields["CapEff"].strip("0"), fields["CapBnd"].strip("0"))


@pytest.mark.parametrize("socket", ["libvirt-sock", "virtqemud-sock"], ids=["monolithic", "modular"])
def test_the_libvirt_of_a_node_is_watched_as_nobody_by_its_read_only_socket(
    released: Release, folder: Path, pods_kafka: RealKafka, socket: str
) -> None:
    with libvirtd(folder, "one", socket_name=socket) as daemon:
        uuid = daemon.domain("g", period_s=1).uuid
        place: dict[str, object] = {"directory": str(daemon.runtime)}
        if socket != "libvirt-sock":  # which is the chart's default
            place["socket"] = daemon.socket_ro.name
        preset = {"preset": "libvirt", "libvirt": place}

        samples, _ = install(released, folder, pods_kafka, preset)

        def there() -> bool:
            found = documents(pods_kafka, samples)
            return len(found) >= 3 and {(each["via"], each["vm"]["uuid"]) for each in found} == {
                ("libvirt", uuid)
            }

        released.wait(there, "samples of the domain")
        assert user_of(released) == ("65534", "", "")


def test_the_launchers_of_a_node_are_watched_as_they_come_and_go(
    released: Release, folder: Path, pods_kafka: RealKafka
) -> None:
    kubelet = folder / "kubelet"
    (kubelet / "pods").mkdir(parents=True)
    runs_as = {"runAs": {"user": LIBVIRT_QEMU, "group": LIBVIRT_QEMU}}
    preset = {"preset": "kubevirt", "kubevirt": {"podsDirectory": str(kubelet / "pods")}, **runs_as}
    samples, states = install(released, folder, pods_kafka, preset)
    assert documents(pods_kafka, samples) == []

    with virt_launcher(kubelet, folder, "one") as launcher:
        launcher.domain("shop_web", period_s=1, metadata=kubevirt("f4686d2c"))

        def there() -> bool:
            found = documents(pods_kafka, samples)
            return len(found) >= 3 and {each["vm"]["labels"]["kubevirt_vmi_name"] for each in found} == {
                "web"
            }

        released.wait(there, "samples of the launcher's domain")
        assert user_of(released) == (str(LIBVIRT_QEMU), "", "")

    def gone() -> bool:
        return any(each["state"] == "gone" for each in documents(pods_kafka, states) if "vm" in each)

    released.wait(gone, "the domain's end")
    assert (released.restarts, released.ready) == (0, True)
