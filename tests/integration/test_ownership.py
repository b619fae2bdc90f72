"""Tests of the control of the polling interval, with real QEMUs (Debian's 7.2 in CI) and a rival client.

The rival holds the VM's second monitor, and records each change of the interval that is not its own.
"""

import json
import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.rival import Rival
from tests.integration.watching import Lines, steady
from tests.lab import qemu
from tests.lab.agent import agent, barograph

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu")]

RECHECK_S, SET_AGAIN_S = 1, 3
QUICK = {
    "BAROGRAPH_POLLING__RECHECK": f"{RECHECK_S}s",
    "BAROGRAPH_POLLING__SET_AGAIN": f"{SET_AGAIN_S}s",
}
KEPT = {"BAROGRAPH_SPOOL__MODE": "disk"}


def watch(folder: Path, *extra: str) -> list[str]:
    return ["--monitor", f"{folder}/*.qmp", "--interval", "1s", *extra]


def owed(folder: Path) -> list[str]:
    """Return the names of the sockets with an interval to be restored, by the ledger, sorted."""
    file = folder / "owed.json"
    if not file.exists():
        return []
    return sorted(Path(each["path"]).name for each in json.loads(file.read_text())["owed"])


def contend(folder: Path, policy: str, insists: int, env: dict[str, str], set_again_s: float) -> None:
    """Let a rival insist on its value: the agent sets its own twice, with a pause, and then never again."""
    with qemu.guest(folder, "g") as vm, vm.monitor() as monitor:
        monitor.set_interval(insists)
        monitor.close()
        with (
            Rival(vm, insists=insists) as rival,
            agent(folder, *watch(folder, "--policy", policy), env=env, state=folder) as process,
        ):
            lines = Lines(process)
            lines.wait(lambda: len(rival.writes()) >= 2, "the second write", 3 * set_again_s + 120)
            lines.wait(lambda: not owed(folder), "left to the other client", set_again_s + 120)
            time.sleep(2 * set_again_s + 2)  # there must not be a third write

            first, second = rival.writes()
            assert [first.interval_s, second.interval_s] == [1, 1]
            assert second.at_s - first.at_s >= set_again_s - 1  # the rival may have seen the first one late
            assert rival.interval_s == insists
            lines.wait_for_state(vm.qmp, "reporting" if insists else "off")
            assert process.stop() == 0
            assert len(rival.writes()) == 2  # nor restored: the rival controls it
            words = steady(lines.words(vm.qmp))
            if insists:
                assert words[-1][0] == "reporting"
                assert lines.samples("g")[-1]["polling_interval_s"] == insists
            else:
                assert words[-1] == ("off", "contended")
                assert ("off", "set_back") in words


def test_fill_sets_an_interval_once_more_after_it_was_switched_off(folder: Path) -> None:
    contend(folder, "fill", 0, QUICK, SET_AGAIN_S)


def test_enforce_sets_an_interval_once_more_after_it_was_changed(folder: Path) -> None:
    contend(folder, "enforce", 2, QUICK, SET_AGAIN_S)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_fill_waits_a_minute_by_default(folder: Path) -> None:
    contend(folder, "fill", 0, {}, 60)


def test_observe_never_sets_and_follows_what_others_set(folder: Path) -> None:
    with (
        qemu.guest(folder, "g") as vm,
        Rival(vm) as rival,
        agent(folder, *watch(folder, "--policy", "observe"), env=QUICK, state=folder) as process,
    ):
        lines = Lines(process)
        lines.wait_for_state(vm.qmp, "off")
        rival.set(1)
        lines.wait_for_state(vm.qmp, "reporting", RECHECK_S + 120)
        rival.set(0)
        lines.wait_for_state(vm.qmp, "off", RECHECK_S + 120)
        time.sleep(SET_AGAIN_S + 1)

        assert lines.words(vm.qmp)[-1] == ("off", "polling_disabled")
        assert rival.writes() == []
        assert owed(folder) == []


def test_fill_keeps_the_value_of_another_client_and_does_not_restore_it(folder: Path) -> None:
    with (
        qemu.guest(folder, "g") as vm,
        Rival(vm) as rival,
        agent(folder, *watch(folder), env=QUICK, state=folder) as process,
    ):
        lines = Lines(process)
        lines.wait_for_state(vm.qmp, "reporting")
        assert owed(folder) == ["g.qmp"]
        rival.set(2)
        lines.wait(lambda: owed(folder) == [], "removed from the ledger", RECHECK_S + 120)
        time.sleep(SET_AGAIN_S + 1)

        assert process.stop() == 0
        assert [turn.interval_s for turn in rival.turns] == [0, 1, 2]


def test_an_interval_changed_by_another_client_causes_no_stall_and_no_uncounted_loss(folder: Path) -> None:
    with (
        qemu.guest(folder, "g") as vm,
        Rival(vm) as rival,
        agent(folder, *watch(folder), state=folder) as process,  # reads the interval every 30 s
    ):
        lines = Lines(process)

        def times() -> list[int]:
            return [each["last_update"] for each in lines.samples("g")]

        lines.wait(lambda: len(times()) >= 3, "three samples")
        rival.set(8)  # longer than the agent's stall deadline, 6 s
        lines.wait(lambda: rival.interval_s == 8, "set by the other client")
        count = len(rival.updates)
        lines.wait(lambda: len(rival.updates) > count, "an update at 8 s")
        lines.wait(lambda: times()[-1] == rival.updates[-1], "its sample")
        assert lines.samples("g")[-1]["polling_interval_s"] == 8
        assert uncounted(lines, rival) <= 0

        rival.set(2)
        lines.wait(lambda: lines.samples("g")[-1]["polling_interval_s"] == 2, "a sample at 2 s")
        followed_s = times()[-1]
        count = len(rival.updates)
        lines.wait(lambda: len(rival.updates) >= count + 3, "three more updates")
        lines.wait(lambda: times()[-1] == rival.updates[-1], "their samples")

        lost = [at_s for at_s in rival.updates if at_s not in times()]
        assert all(at_s < followed_s for at_s in lost)
        assert uncounted(lines, rival) <= 0
        assert "stalled" not in dict(lines.words(vm.qmp))
        print(f"8 s to 2 s: {len(lost)} overwritten before it was noticed")


def uncounted(lines: Lines, rival: Rival) -> int:
    """Return how many updates the rival saw more than the agent has counted, as samples or as missed."""
    samples = lines.samples("g")
    read = {each["last_update"] for each in samples}
    return sum(at_s not in read for at_s in rival.updates) - sum(each["missed_at_most"] for each in samples)


@contextmanager
def contended(folder: Path, vm: qemu.Vm) -> Generator[Lines]:
    """Yield the records of an agent that has left `vm` to a rival; the rival has disconnected."""
    with agent(folder / "1", *watch(folder), env=QUICK, state=folder / "state") as process:
        lines = Lines(process)
        with Rival(vm, insists=0):
            lines.wait(lambda: lines.words(vm.qmp)[-1:] == [("off", "contended")], "contended")
        yield lines


def test_contended_ends_with_the_process(folder: Path) -> None:
    with qemu.idle(folder, "g") as vm, contended(folder, vm) as lines:
        vm.restart()
        with Rival(vm) as rival:
            lines.wait(lambda: rival.interval_s == 1, "set on the new process")


def test_contended_ends_with_the_configuration(folder: Path) -> None:
    with qemu.idle(folder, "g") as vm:
        with contended(folder, vm):
            pass
        with (
            Rival(vm) as rival,
            agent(
                folder / "2", *watch(folder, "--interval", "2s"), env=QUICK, state=folder / "state"
            ) as process,
        ):
            Lines(process).wait(lambda: rival.interval_s == 2, "set by another configuration")


def test_contended_ends_with_the_device(folder: Path) -> None:
    port = ("-device", "pcie-root-port,id=hot,chassis=1")
    balloon = ("-device", "virtio-balloon-pci,id=balloon0,bus=hot")
    with qemu.guest(folder, "g", *port, *balloon, balloon=False) as vm, contended(folder, vm) as lines:
        with vm.monitor() as monitor:
            monitor.command("device_del", id="balloon0")
        lines.wait_for_state(vm.qmp, "no-balloon")
        with vm.monitor() as monitor:
            monitor.command("device_add", driver="virtio-balloon-pci", id="balloon0", bus="hot")
        with Rival(vm) as rival:
            lines.wait(lambda: rival.interval_s == 1, "set on the new device")


def test_a_restart_leaves_the_interval_on_without_a_gap(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, Rival(vm) as rival:
        for run in range(3):
            with agent(folder / str(run), *watch(folder), env=KEPT, state=folder / "state") as process:
                Lines(process).wait_for_state(vm.qmp, "reporting")
                assert process.stop() == 0

        assert [turn.interval_s for turn in rival.turns] == [0, 1]
        done = barograph("give-back", "--state-directory", str(folder / "state"))
        assert done.stdout == f"given-back {vm.qmp}: the interval is 0 s again\n"
        assert rival_sees(rival, 0)


def rival_sees(rival: Rival, interval_s: int) -> bool:
    deadline_s = time.monotonic() + 60
    while rival.interval_s != interval_s and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return rival.interval_s == interval_s


def test_give_back_after_a_crash_restores_only_the_intervals_of_the_agent(folder: Path) -> None:
    """The five VMs: unchanged, changed by another client, ended, replaced on its path, and wedged."""
    with (
        qemu.idle(folder, "ours") as ours,
        qemu.idle(folder, "theirs") as theirs,
        qemu.idle(folder, "quit") as gone,
        qemu.idle(folder, "replaced") as replaced,
        qemu.idle(folder, "wedged") as wedged,
    ):
        vms = (ours, theirs, gone, replaced, wedged)
        with agent(folder, *watch(folder), env=KEPT, state=folder) as process:
            Lines(process).wait(lambda: len(owed(folder)) == len(vms), "all five set")
            Lines(process).wait(lambda: all(interval(vm) == 1 for vm in vms), "all five set in QEMU")
            process.kill()
        with theirs.monitor() as monitor:
            monitor.set_interval(7)
        gone.kill()
        replaced.restart()
        with replaced.monitor() as monitor:
            monitor.set_interval(1)  # the agent's value, but on another process
        wedged.freeze()

        done = barograph("give-back", "--state-directory", str(folder))

        said = {words.split()[1].rstrip(":"): words.split()[0] for words in done.stdout.splitlines()}
        assert said == {
            str(ours.qmp): "given-back",
            str(theirs.qmp): "not-ours",
            str(gone.qmp): "process-gone",
            str(replaced.qmp): "process-gone",
            str(wedged.qmp): "kept",
        }
        assert done.returncode == 1  # an interval is still to be restored
        assert owed(folder) == ["wedged.qmp"]

        wedged.thaw()
        again = barograph("give-back", "--state-directory", str(folder))

        assert again.returncode == 0, again.stderr
        assert again.stdout == f"given-back {wedged.qmp}: the interval is 0 s again\n"
        assert [interval(vm) for vm in (ours, theirs, replaced, wedged)] == [0, 7, 1, 0]
        assert owed(folder) == []


def test_a_vm_that_has_left_the_globs_gets_its_interval_back_at_the_next_start(folder: Path) -> None:
    with (
        qemu.idle(folder, "a") as stays,
        qemu.idle(folder, "b") as leaves,
        qemu.idle(folder, "c") as theirs,
        qemu.idle(folder, "d") as wedged,
    ):
        with agent(folder / "1", *watch(folder), env=KEPT, state=folder) as process:
            Lines(process).wait(lambda: len(owed(folder)) == 4, "all set")
            Lines(process).wait(lambda: interval(leaves) == interval(theirs) == 1, "all set in QEMU")
            process.kill()
        with theirs.monitor() as monitor:
            monitor.set_interval(7)
        wedged.freeze()

        with (
            Rival(stays) as rival,
            agent(folder / "2", "--monitor", str(stays.qmp), env=KEPT, state=folder) as process,
        ):
            process.wait_for_log(f"outcome=given-back path={leaves.qmp}")
            process.wait_for_log(f"outcome=not-ours path={theirs.qmp}")
            process.wait_for_log(f"outcome=kept path={wedged.qmp}")
            assert (interval(leaves), interval(theirs)) == (0, 7)
            assert owed(folder) == ["a.qmp", "d.qmp"]
            assert process.stop() == 0
            assert [turn.interval_s for turn in rival.writes()] == [
                10
            ]  # set again: it is configured differently


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own: needs root")
def test_an_exit_with_a_full_disk_restores_the_intervals_and_ends_in_order(folder: Path) -> None:
    disk = folder / "state"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(disk)], check=True)
    try:
        with qemu.idle(folder, "g") as vm:
            env = {"BAROGRAPH_POLLING__ON_EXIT": "give-back"}
            with agent(folder, *watch(folder), env=env, state=disk) as process:
                Lines(process).wait(lambda: owed(disk) == ["g.qmp"] and interval(vm) == 1, "set")
                with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
                assert process.stop() == 0
                assert "it stays recorded" in process.stderr.read_text()
            assert interval(vm) == 0
            assert owed(disk) == ["g.qmp"]
            (disk / "ballast").unlink()
            done = barograph("give-back", "--state-directory", str(disk))
            assert (done.returncode, done.stdout.split()[0]) == (0, "not-ours"), done.stderr
            assert owed(disk) == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def interval(vm: qemu.Vm) -> int:
    with vm.monitor() as monitor:
        return monitor.interval_s()
