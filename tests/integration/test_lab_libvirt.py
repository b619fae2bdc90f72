"""Tests of the lab's libvirt: daemons isolated from each other and from the host's, and their guests."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.libvirt import Daemon, Domain, kubevirt, libvirtd, nova, virt_launcher

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_libvirt")]


def balloon(domain: Domain) -> dict[str, int]:
    """Return libvirt's values of the balloon: sizes in KiB, names as in `virConnectGetAllDomainStats`."""
    lines = domain.virsh("domstats", "--balloon", "--nowait").splitlines()
    fields = dict(line.strip().removeprefix("balloon.").split("=") for line in lines if "=" in line)
    return {name: int(value) for name, value in fields.items()}


def comes(holds: Callable[[], bool], timeout_s: float = 120.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def domains(daemon: Daemon) -> list[str]:
    return daemon.virsh("list", "--all", "--name").split()


def test_libvirt_shows_the_values_of_a_domains_second_monitor(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", period_s=1, metadata=nova("web & co", "shop"), driver=False)
        with domain.monitor() as truth:
            assert (truth.interval_s(), balloon(domain)["last-update"]) == (1, 0)
            domain.order("load")
            truth.wait_for_update()
            domain.set_period(3)
            assert truth.interval_s() == 3
            truth.wait_for_update()
            while True:
                shown, statistics = truth.guest_stats()
                told = balloon(domain)
                if truth.guest_stats()[0] == shown:  # no update came in between
                    break

        assert (told["last-update"], told["unused"]) == (shown, statistics["stat-free-memory"] // 1024)
        assert "web &amp; co" in domain.virsh("metadata", "http://openstack.org/xmlns/libvirt/nova/1.1")


def test_a_guest_without_a_balloon_and_one_that_panics(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", balloon=False, on_crash="preserve")
        assert set(balloon(domain)) == {"current", "maximum", "rss"}

        domain.order("crash")
        assert comes(lambda: domain.state == "crashed (panicked)")

        domain.virsh("destroy")
        domain.start()
        domain.wait_until_booted()
        assert domain.state == "running (booted)"


def test_qemus_outlive_their_daemon_and_neither_outlives_the_block(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", period_s=1)
        qemu, first = domain.pid, daemon.pid

        daemon.stop()
        with pytest.raises(subprocess.TimeoutExpired):
            domain.virsh("domstate", timeout_s=0.5)
        daemon.cont()
        daemon.kill()
        with pytest.raises(RuntimeError, match="Connection refused"):
            domain.virsh("domstate")
        daemon.start()
        daemon.restart()

        assert daemon.pid != first
        assert (domain.pid, domain.state) == (qemu, "running (restored)")
        domain.order("hello")
        daemon.kill()

    assert not Path(f"/proc/{qemu}").exists()


def test_a_domain_is_saved_and_comes_back_where_it_was(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g")
        domain.order("dirty 8")

        domain.virsh("managedsave")
        assert domain.state == "shut off (saved)"
        domain.start()

        assert domain.state == "running (restored)"
        domain.order("hello")
        domain.virsh("destroy")
        domain.virsh("undefine")
        assert domains(daemon) == []


def test_a_domain_moves_between_two_daemons_unless_that_is_cancelled(folder: Path) -> None:
    with libvirtd(folder, "one") as one, libvirtd(folder, "two") as two:
        here = one.domain("g", period_s=1)
        here.virsh("migrate-setspeed", "1")
        moving = here.begin_migration(two)
        assert comes(lambda: "g" in domains(two))
        assert comes(lambda: "Outgoing" in here.virsh("domjobinfo"))
        here.virsh("domjobabort")
        assert moving.wait(120) == 1
        assert (here.state, domains(two)) == ("running (restored)", [])

        here.virsh("migrate-setspeed", "1000")
        there = here.migrate(two)

        assert (here.state, there.state) == ("shut off (migrated)", "running (migrated)")
        there.order("hello")
        assert there.uuid == here.uuid
        with there.monitor() as truth:
            truth.wait_for_update()


def test_a_pods_libvirt_is_in_the_pods_volume_and_ends_with_it(folder: Path) -> None:
    kubelet = folder / "var/lib/kubelet"
    pattern = "pods/*/volumes/kubernetes.io~empty-dir/libvirt-runtime/virtqemud-sock"
    with virt_launcher(kubelet, folder, "a") as pod, virt_launcher(kubelet, folder, "b"):
        assert len(list(kubelet.glob(pattern))) == 2
        domain = pod.domain(
            "shop_web-3", period_s=10, metadata=kubevirt("f4686d2c-6e8d-4335-b8fd-81bee22f4814")
        )

        assert pod.uri == f"qemu+unix:///session?socket={pod.socket}"
        assert "f4686d2c" in domain.virsh("metadata", "http://kubevirt.io")
        with domain.monitor() as truth:
            assert truth.interval_s() == 10
        qemu = domain.pid
        pod.restart()
        assert (domain.pid, domains(pod)) == (qemu, ["shop_web-3"])

    assert list(kubelet.glob("pods/*")) == []
