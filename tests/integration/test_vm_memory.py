"""Tests of the memory that real VMs are given and use of the host, compared with /proc."""

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.domains import DomainLines, path_of, with_bindings
from tests.integration.domains import watch as watch_domains
from tests.integration.watching import Lines, watch
from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.libvirt import libvirtd

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200)]

EACH_SECOND = {"BAROGRAPH_MEMORY__INTERVAL": "1s"}
MIB = 1 << 20
DEFLATING = ("-device", "virtio-balloon-pci,id=balloon0,deflate-on-oom=on")
# Where memory may be plugged in, the guest reserves 64 MiB when it boots.
MORE = ("-m", "256,slots=2,maxmem=1G", "-object", "memory-backend-ram,id=more,size=256M")
VIRTIO_MEM = (*MORE, "-device", "virtio-mem-pci,id=vmem0,memdev=more,requested-size=128M")


def memory_of(lines: Lines, name: str) -> list[dict[str, Any]]:
    return [
        dict(each)
        for each in lines.all()
        if each["schema"].startswith("barograph.vm.memory/") and each["vm"].get("name") == name
    ]


def next_memory(lines: Lines, name: str, state: str = "reporting") -> dict[str, Any]:
    """Return the second record from now on, or the next in `state`, with values from after the call."""
    begin = len(memory_of(lines, name)) + 1

    def found() -> list[dict[str, Any]]:
        return [each for each in memory_of(lines, name)[begin:] if each["state"] == state]

    lines.wait(lambda: found() != [], f"memory of {name} in the state {state}")
    return found()[0]


def resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.usefixtures("real_qemu")
def test_a_record_has_the_given_and_the_used_memory_of_each_kind_of_vm(folder: Path) -> None:
    with ExitStack() as started:
        vms = {
            "plain": started.enter_context(qemu.guest(folder, "plain")),
            "small": started.enter_context(qemu.guest(folder, "small")),
            "deflating": started.enter_context(qemu.guest(folder, "deflating", *DEFLATING, balloon=False)),
            "vmem": started.enter_context(qemu.guest(folder, "vmem", *VIRTIO_MEM)),
            "nodriver": started.enter_context(qemu.guest(folder, "nodriver", driver=False)),
            "nodevice": started.enter_context(qemu.guest(folder, "nodevice", balloon=False)),
        }
        env = EACH_SECOND | {"BAROGRAPH_POLLING__RECHECK": "2s"}
        process = started.enter_context(agent(folder, *watch(folder), env=env))
        lines = Lines(process)
        states = dict.fromkeys(vms, "reporting") | {"nodriver": "waiting", "nodevice": "no-balloon"}
        for name, state in states.items():
            lines.wait_for_state(vms[name].qmp, state)
        for name in ("small", "deflating"):
            with qemu.Monitor(vms[name].hands) as monitor:
                monitor.command("balloon", value=96 * MIB)
        for name in ("small", "deflating"):
            lines.wait(
                lambda name=name: lines.samples(name)[-1]["balloon"]["actual_bytes"] == 96 * MIB,
                f"{name} follows the balloon",
            )
            lines.wait_for_samples(name, len(lines.samples(name)) + 2)
        before = lines.samples("vmem")[-1]["statistics"]["total_memory"]
        with qemu.Monitor(vms["vmem"].hands) as monitor:
            device = "/machine/peripheral/vmem0"
            monitor.command("qom-set", path=device, property="requested-size", value=192 * MIB)
        lines.wait(
            lambda: memory_of(lines, "vmem")[-1]["configured"]["plugged_bytes"] == 192 * MIB, "virtio-mem"
        )
        lines.wait(
            lambda: lines.samples("vmem")[-1]["statistics"]["total_memory"] - before == 64 * MIB,
            "the guest's total",
        )
        found = {name: next_memory(lines, name, state) for name, state in states.items()}
        taken = {name: resident_bytes(vm.pid) for name, vm in vms.items()}
        totals = {
            name: lines.samples(name)[-1]["statistics"]["total_memory"]
            for name in ("plain", "small", "deflating", "vmem")
        }

    for name, memory in found.items():
        base_bytes = (256 if name == "vmem" else 128) * MIB
        assert memory["configured"]["base_bytes"] == base_bytes, name
        assert abs(memory["process"]["resident_bytes"] - taken[name]) < 64 * MIB, name
        assert memory["process"]["swap_bytes"] >= 0
        assert memory["interval_s"] == 1
    actual = {name: memory.get("balloon", {}).get("actual_bytes") for name, memory in found.items()}
    assert (actual["plain"], actual["small"], actual["deflating"]) == (128 * MIB, 96 * MIB, 96 * MIB)
    assert (actual["nodriver"], actual["nodevice"]) == (128 * MIB, None)
    flags = {name: memory.get("balloon", {}).get("deflate_on_oom") for name, memory in found.items()}
    assert flags == {**dict.fromkeys(vms, False), "deflating": True, "nodevice": None}
    assert (found["vmem"]["configured"]["plugged_bytes"], actual["vmem"]) == (192 * MIB, 256 * MIB)
    assert totals["vmem"] - before == 64 * MIB
    # Without deflate-on-oom the guest's total shrinks with the balloon; with it, it does not.
    assert totals["small"] < totals["deflating"]
    assert totals["plain"] - totals["small"] >= 24 * MIB


@pytest.mark.usefixtures("real_qemu")
def test_memory_plugged_in_and_a_process_that_ends_show_in_the_records(folder: Path) -> None:
    env = EACH_SECOND | {"BAROGRAPH_POLLING__RECHECK": "2s"}
    with (
        qemu.guest(folder, "g", *MORE) as vm,
        qemu.Monitor(vm.hands) as monitor,
        agent(folder, *watch(folder), env=env) as process,
    ):
        lines = Lines(process)
        lines.wait_for_state(vm.qmp, "reporting")
        assert next_memory(lines, "g")["configured"]["plugged_bytes"] == 0

        monitor.command("device_add", driver="pc-dimm", id="dimm0", memdev="more")
        lines.wait(lambda: memory_of(lines, "g")[-1]["configured"]["plugged_bytes"] == 256 * MIB, "the DIMM")

        vm.kill()
        lines.wait_for_state(vm.qmp, "gone")
        records = memory_of(lines, "g")
        assert [each["sequence"] for each in records] == sorted({each["sequence"] for each in records})
        assert {each["state"] for each in records} <= {"connecting", "reporting", "unreachable"}


@pytest.mark.usefixtures("real_libvirt")
def test_a_domain_shows_its_memory_through_libvirt(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g")
        env = with_bindings(**EACH_SECOND)
        with agent(folder / "a", *watch_domains(daemon), env=env) as process:
            lines = DomainLines(process)
            lines.wait_until(path_of(domain), "reporting")
            lines.wait_for_samples("g", 2)
            memory = next_memory(lines, "g")
            taken = resident_bytes(domain.pid)

    assert memory["via"] == "libvirt"
    assert memory["configured"]["base_bytes"] == 128 * MIB
    assert memory["configured"]["plugged_bytes"] == 0
    assert memory["balloon"]["deflate_on_oom"] is False
    assert abs(memory["process"]["resident_bytes"] - taken) < 64 * MIB
    assert "cgroup" not in memory
