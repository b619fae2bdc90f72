"""Tests of the addresses of libvirt daemons, as users write them."""

import anyio
import pytest

from agent.core.address import Domain
from agent.errors import LibvirtUnreachable
from agent.libvirt.connections import Connections
from agent.libvirt.targets import Settings, mistakes, socket_of, uri_of_socket
from agent.telemetry import Counters

VOLUMES = "/var/lib/kubelet/pods/5f0c1a52-7e0b-4a35-9d3f-2f4a0f9c5b11/volumes"
LONG = f"{VOLUMES}/kubernetes.io~empty-dir/libvirt-runtime"


@pytest.mark.parametrize(
    "uri", ["qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"]
)
def test_a_libvirt_of_this_host_can_be_used(uri: str) -> None:
    assert list(mistakes(uri)) == []


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("xen:///system", "is not a URI of the QEMU driver"),
        ("qemu+ssh://root@other/system", "is not a URI of the QEMU driver"),
        ("qemu://other/system", "names another host"),
        ("qemu:///", "neither the path /system nor /session"),
        ("qemu:///system#5f0c", "has a fragment"),
        ("qemu+unix:///system?socket=libvirt-sock", "not an absolute path"),
    ],
)
def test_another_uri_is_refused_with_a_reason(uri: str, said: str) -> None:
    (found,) = mistakes(uri)

    assert said in found
    assert repr(uri) in found


@pytest.mark.parametrize(
    "uri", ["qemu+ssh:///system?command=/tmp/evil", "qemu+ext:///system?command=/tmp/evil"]
)
async def test_an_address_in_a_file_of_another_user_does_not_run_a_command(uri: str) -> None:
    """The ledger belongs to the service's user, and root restores what it records."""
    async with anyio.create_task_group() as group:
        connections = Connections(Settings(places=()), Counters())
        await group.start(connections.run)
        with pytest.raises(LibvirtUnreachable, match="is not a URI of the QEMU driver on this host"):
            await connections.open_to_write(Domain(uri, "5f0c1a52")).__aenter__()
        group.cancel_scope.cancel()


def test_the_owner_of_a_socket_determines_the_daemon() -> None:
    assert uri_of_socket(f"{LONG}/virtqemud-sock", 0).startswith("qemu+unix:///system?socket=/var/lib")
    assert uri_of_socket(f"{LONG}/virtqemud-sock", 107).startswith("qemu+unix:///session?socket=/var/lib")
    assert socket_of(uri_of_socket(f"{LONG}/virtqemud-sock", 107)) == f"{LONG}/virtqemud-sock"
