import pytest

from agent.discovery import owners


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/libvirt/qemu/domain-1-web/monitor.sock",
        "/host/var/lib/kubelet/pods/0/volumes/kubernetes.io~empty-dir/private/libvirt/qemu/lib/domain-1-ns_a/monitor.sock",
        "/x/domain-9/monitor.sock",
    ],
)
def test_libvirts_monitors_are_known_wherever_they_are(path: str) -> None:
    said = owners.owned_by_libvirt(path)

    assert said is not None
    assert "qemu:commandline" in said


@pytest.mark.parametrize("path", ["/run/incus/web/qemu.monitor", "/host/run/lxd/p_web/qemu.monitor"])
def test_monitors_of_incus_are_known_wherever_they_are(path: str) -> None:
    said = owners.owned_by_incus(path)

    assert said is not None
    assert "raw.qemu" in said


@pytest.mark.parametrize(
    "path",
    [
        "/run/vm/domain-1/qmp.sock",
        "/run/vm/monitor.sock",
        "/run/domain-1/x/monitor.sock",
        "/run/vm/qemu.monitor.sock",
        "/run/qemu.monitor/qmp.sock",
    ],
)
def test_other_sockets_are_not_taken_for_monitors_of_libvirt_or_incus(path: str) -> None:
    assert owners.owned_by_libvirt(path) is None
    assert owners.owned_by_incus(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/run/vc/vm/8a2d1f/qmp.sock",
        "/host/run/vc/vm/8a2d1f/qmp.sock",
        "/var/run/ganeti/kvm-hypervisor/ctrl/web.example.com.kvmd",
    ],
)
def test_monitors_of_kata_and_of_ganetis_daemon_are_known_wherever_they_are(path: str) -> None:
    said = owners.owned_by_another(path)

    assert said is not None
    assert "monitor" in said


@pytest.mark.parametrize(
    "path",
    [
        "/run/vc/vm/8a2d1f/extra-monitor.sock",
        "/run/vm/8a2d1f/qmp.sock",
        "/run/ganeti/kvm-hypervisor/ctrl/web.example.com.qmp",
        "/run/vm/web.kvmd",
    ],
)
def test_other_monitors_have_no_owner(path: str) -> None:
    assert owners.owned_by_another(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/var/run/ganeti/kvm-hypervisor/ctrl/web.example.com.qmp",
        "/vm/qmp-sigterm.sock",
        "/proc/7/root/vm/qmp-sigterm.sock",
    ],
)
def test_the_only_monitors_of_ganeti_and_neonvm_are_shared(path: str) -> None:
    assert owners.shared(path)


def test_proxmoxs_sockets_are_shared() -> None:
    assert owners.shared("/var/run/qemu-server/100.qmp")
    assert owners.shared("/host/run/qemu-server/100.qmp")
    assert not owners.shared("/run/qemu-server")
    assert not owners.shared("/run/qemu-server-2/100.qmp")
