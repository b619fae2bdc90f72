"""Tests of devices that are plugged and unplugged in a running VM: the balloon, a second one, memory.

They run on the installed QEMU (Debian 12's 7.2 in CI) and on a newer one (10), shown by the test's id.
`-machine none`, which has no balloon, is in test_states_on_real_guests.
"""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tests.integration.watching import Lines, steady, watch
from tests.lab import qemu
from tests.lab.agent import agent

pytestmark = pytest.mark.guest

PORT = ("-device", "pcie-root-port,id=port0,slot=1,chassis=1")
IN_PORT = ("-device", "virtio-balloon-pci,id=balloon0,bus=port0")
MIB = 1 << 20


def test_the_agent_sets_the_interval_of_a_balloon_that_was_plugged_in_again(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    with (
        qemu.guest(folder, "g", *PORT, *IN_PORT, balloon=False, command=each_qemu) as vm,
        qemu.Monitor(vm.hands) as monitor,
        agent(folder, *watch(folder), env={"BAROGRAPH_POLLING__RECHECK": "2s"}) as process,
    ):
        lines = Lines(process)
        lines.wait_for_samples("g", 3)

        monitor.command("device_del", id="balloon0")
        lines.wait_for_state(vm.qmp, "no-balloon")  # the guest waits 5 s: a second press would cancel it
        before = lines.samples("g")
        monitor.command("device_add", driver="virtio-balloon-pci", id="balloon1", bus="port0")
        after = lines.wait_for_samples("g", len(before) + 3)[len(before) :]
        lines.wait_for_state(vm.qmp, "reporting")

        assert monitor.get("guest-stats-polling-interval", "/machine/peripheral/balloon1") == 1
        assert ("no-balloon", "no_device") in lines.words(vm.qmp)
        assert after[0]["epoch"] != before[-1]["epoch"]
        assert after[0]["sequence"] == 1
        assert after[0]["previous"] == {"epoch": before[-1]["epoch"], "sequence": before[-1]["sequence"]}
        assert "unreachable" not in {state for state, _ in steady(lines.words(vm.qmp))}


def test_qemu_refuses_a_second_balloon_and_the_first_continues(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    with (
        qemu.guest(folder, "g", *PORT, command=each_qemu) as vm,
        qemu.Monitor(vm.hands) as monitor,
        agent(folder, *watch(folder)) as process,
    ):
        lines = Lines(process)
        lines.wait_for_samples("g", 2)

        with pytest.raises(RuntimeError, match="Only one balloon device is supported"):
            monitor.command("device_add", driver="virtio-balloon-pci", id="balloon1", bus="port0")
        samples = lines.wait_for_samples("g", len(lines.samples("g")) + 2)
        lines.wait_for_state(vm.qmp, "reporting")

        assert [each["sequence"] for each in samples] == list(range(1, len(samples) + 1))
        assert {state for state, _ in steady(lines.words(vm.qmp))} == {"connecting", "reporting"}

    two = ("-device", "virtio-balloon-pci") * 2
    argv = [*each_qemu, "-M", "q35", "-nodefaults", "-display", "none", "-S", *two]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "Only one balloon device is supported" in done.stderr


def test_plugged_in_memory_adds_to_the_balloons_size_and_samples_continue(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    """No event reports the new size: the agent reads it with each heartbeat."""
    room = ("-m", "256,slots=2,maxmem=1G")
    with (
        qemu.guest(folder, "g", *room, command=each_qemu) as vm,
        qemu.Monitor(vm.hands) as monitor,
        agent(folder, *watch(folder), env={"BAROGRAPH_POLLING__HEARTBEAT": "2s"}) as process,
    ):
        lines = Lines(process)
        before = lines.wait_for_samples("g", 3)[-1]
        assert before["balloon"]["actual_bytes"] == 256 * MIB

        monitor.command("object-add", **{"qom-type": "memory-backend-ram", "id": "more", "size": 128 * MIB})
        monitor.command("device_add", driver="pc-dimm", id="dimm0", memdev="more")
        lines.wait(lambda: lines.samples("g")[-1]["balloon"]["actual_bytes"] == 384 * MIB, "the new size")
        total = "total_memory"  # the guest adds the memory by itself, a moment later
        lines.wait(
            lambda: lines.samples("g")[-1]["statistics"][total] >= before["statistics"][total] + 128 * MIB,
            "the guest's total",
        )
        samples = lines.samples("g")
        lines.wait_for_state(vm.qmp, "reporting")

        assert [each["sequence"] for each in samples] == list(range(1, len(samples) + 1))
        assert len({each["epoch"] for each in samples}) == 1
        assert {state for state, _ in steady(lines.words(vm.qmp))} == {"connecting", "reporting"}


def write_actual(vm: qemu.Vm, qtest: Path, pages: int) -> None:
    """Write the balloon's size to its configuration, as otherwise only its driver in the guest does."""
    with vm.monitor() as monitor:
        (bus,) = cast(Any, monitor.command("query-pci"))
    (device,) = (each for each in bus["devices"] if each["qdev_id"] == "balloon0")
    (region,) = (each for each in device["regions"] if each["bar"] == 4)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(qtest))
        # virtio-pci.c: the device's configuration; virtio_balloon.h: `actual` is its second field.
        client.sendall(f"writel {region['address'] + 0x2004:#x} {pages:#x}\n".encode())
        assert client.recv(100).startswith(b"OK")


def test_a_guest_with_an_impossible_balloon_size_is_still_read(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    qtest = folder / "qtest"
    extra = ("-qtest", f"unix:{qtest},server=on,wait=off", "-qtest-log", "none")
    with qemu.guest(folder, "g", *extra, command=each_qemu) as vm:
        write_actual(vm, qtest, 0xFFFF_FFFF)
        with vm.monitor() as monitor:
            assert cast(Any, monitor.command("query-balloon"))["actual"] < 0
        with agent(folder, *watch(folder)) as process:
            lines = Lines(process)
            samples = lines.wait_for_samples("g", 3)
            lines.wait_for_state(vm.qmp, "reporting")
            assert "unreachable" not in {state for state, _ in steady(lines.words(vm.qmp))}
            assert all("balloon" not in each for each in samples)

            write_actual(vm, qtest, 1)
            lines.wait(lambda: "balloon" in lines.samples("g")[-1], "the size of the balloon")
            assert lines.samples("g")[-1]["balloon"]["actual_bytes"] == 128 * MIB - 4096
