"""Tests of each state on a real QEMU (Debian's 7.2 in CI) with a real Linux guest."""

import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.watching import PROMPT_S, STALL_DEADLINE_S, Lines, steady, watch
from tests.lab import qemu
from tests.lab.agent import agent, barograph

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu")]


def test_a_vm_is_stalled_within_its_deadline_until_the_unloaded_driver_is_loaded(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, agent(folder, *watch(folder)) as process:
        lines = Lines(process)
        lines.wait_for_state(vm.qmp, "reporting")
        lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")

        vm.order("unload")
        before = len(lines.samples("g"))
        took_s = lines.wait_for_state(vm.qmp, "stalled")
        during = len(lines.samples("g"))
        silent_ms = lines.states(vm.qmp)[-1]["observed_at_ms"] - lines.samples("g")[-1]["observed_at_ms"]
        vm.order("load")
        lines.wait_for_state(vm.qmp, "reporting")
        came_back = lines.wait_for_polls("g", after=during)

        assert silent_ms > (STALL_DEADLINE_S - 1.5) * 1000
        assert took_s < STALL_DEADLINE_S + 15
        assert during - before <= 1  # one may have been under way
        assert came_back[0]["origin"] == "unsolicited"
        assert "unreachable" not in dict(steady(lines.words(vm.qmp)))


def test_a_guest_without_the_driver_is_waiting(folder: Path) -> None:
    with qemu.guest(folder, "g", driver=False) as vm, agent(folder, *watch(folder)) as process:
        lines = Lines(process)

        lines.wait_for_state(vm.qmp, "waiting")

        assert lines.words(vm.qmp)[-1] == ("waiting", "no_update_yet")
        assert lines.samples("g") == []


def test_a_vm_without_a_balloon_device_has_the_state_no_balloon(folder: Path) -> None:
    with qemu.bare(folder, "g") as vm, agent(folder, *watch(folder)) as process:
        lines = Lines(process)

        lines.wait_for_state(vm.qmp, "no-balloon")

        assert lines.words(vm.qmp)[-1] == ("no-balloon", "no_device")


def test_a_monitor_held_by_another_client_is_no_greeting_and_left_to_that_client(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm:
        holder = qemu.Monitor(vm.qmp)
        with agent(folder, *watch(folder)) as process:
            lines = Lines(process)
            lines.wait_for_state(vm.qmp, "no-greeting")
            assert lines.words(vm.qmp)[-1][1] in ("silent", "busy")
            holder.command("query-status")
            holder.close()
            # The next client gets the monitor: no connection of the agent is queued before it.
            again = qemu.Monitor(vm.qmp)
            again.command("query-status")
            again.close()


def test_a_killed_qemu_is_gone_and_a_new_one_on_its_path_is_a_new_epoch(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, agent(folder, *watch(folder)) as process:
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")

        vm.kill()
        lines.wait_for_state(vm.qmp, "gone")
        first = lines.samples("g")
        vm.restart()
        vm.wait_until_booted()
        lines.wait_for_state(vm.qmp, "reporting")
        lines.wait(lambda: len(lines.samples("g")) >= len(first) + 2, "samples of the new process")

        second = lines.samples("g")[len(first) :]
        assert second[0]["epoch"] != first[-1]["epoch"]
        assert second[0]["sequence"] == 1
        assert second[0]["previous"] == {"epoch": first[-1]["epoch"], "sequence": first[-1]["sequence"]}
        assert second[0]["origin"] == "unsolicited"
        states = [state for state, _ in steady(lines.words(vm.qmp))]
        assert states[states.index("gone") - 1] == "reporting"


def test_a_rebooted_guest_is_waiting_in_a_new_epoch_and_never_stalled(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    """Up to QEMU 9.2 the last boot's update stays until the next one; since 10 a reset sets it to 0."""
    with (
        qemu.guest(folder, "g", command=each_qemu) as vm,
        vm.monitor() as monitor,
        agent(folder, *watch(folder)) as process,
    ):
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")

        vm.order("reboot")
        lines.wait_for_state(vm.qmp, "waiting")
        assert (monitor.guest_stats()[0] == 0) == (monitor.version >= (10,))
        before = lines.samples("g")
        lines.wait_for_state(vm.qmp, "reporting")
        lines.wait(lambda: len(lines.samples("g")) >= len(before) + 2, "samples of the new boot")

        after = lines.samples("g")[len(before) :]
        assert ("waiting", "rebooted") in lines.words(vm.qmp)
        assert "stalled" not in [state for state, _ in lines.words(vm.qmp)]
        assert after[0]["epoch"] != before[-1]["epoch"]
        assert after[0]["origin"] == "unsolicited"


def test_a_frozen_qemu_is_unreachable_within_its_deadline_and_back_when_thawed(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, agent(folder, *watch(folder)) as process:
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")

        vm.freeze()
        took_s = lines.wait_for_state(vm.qmp, "unreachable")
        time.sleep(STALL_DEADLINE_S + 2)  # past the stall deadline: it must not become stalled
        assert lines.words(vm.qmp)[-1] == ("unreachable", "no_answer")
        vm.thaw()
        lines.wait_for_state(vm.qmp, "reporting")

        assert took_s < 1.0 + 1.0 + 15  # the next reading is within a second, its deadline is one more
        assert [state for state, _ in steady(lines.words(vm.qmp))] == ["connecting", "reporting"]


def test_polling_off_under_observe_is_off_and_old_values_are_not_emitted_again(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, vm.monitor() as monitor:
        monitor.set_interval(1)
        often = {"BAROGRAPH_POLLING__RECHECK": "2s"}
        with agent(folder, *watch(folder, "--policy", "observe"), env=often) as process:
            lines = Lines(process)
            lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")
            monitor.set_interval(0)
            lines.wait_for_state(vm.qmp, "off")
            count = len(lines.samples("g"))
            time.sleep(3)

            assert lines.words(vm.qmp)[-1] == ("off", "polling_disabled")
            assert len(lines.samples("g")) == count
        assert monitor.interval_s() == 0


def test_stop_and_cont_are_paused_and_not_stalled(folder: Path) -> None:
    with (
        qemu.guest(folder, "g") as vm,
        vm.monitor() as monitor,
        agent(folder, *watch(folder)) as process,
    ):
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 3, "three samples")

        monitor.command("stop")
        took_s = lines.wait_for_state(vm.qmp, "paused")
        time.sleep(STALL_DEADLINE_S + 2)
        before = lines.samples("g")
        monitor.command("cont")
        lines.wait_for_state(vm.qmp, "reporting")
        after = lines.wait_for_polls("g", after=len(before))

        assert took_s < PROMPT_S
        assert ("paused", "paused") in lines.words(vm.qmp)
        assert after[0]["last_update"] - before[-1]["last_update"] > STALL_DEADLINE_S
        assert after[0]["origin"] == "unsolicited"
        assert "stalled" not in [state for state, _ in lines.words(vm.qmp)]
        # No update is missed during the pause.
        assert max(each["missed_at_most"] for each in lines.samples("g")) < STALL_DEADLINE_S


def test_a_clean_exit_restores_the_interval_and_after_a_kill_the_next_run_does(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, vm.monitor() as monitor:
        with agent(folder / "1", *watch(folder), state=folder) as process:
            Lines(process).wait_for_state(vm.qmp, "reporting")
            assert monitor.interval_s() == 1
            assert process.stop() == 0
        assert monitor.interval_s() == 0

        with agent(folder / "2", *watch(folder), state=folder) as process:
            Lines(process).wait(lambda: monitor.interval_s() == 1, "the interval set again")
            process.kill()
        assert monitor.interval_s() == 1

        with agent(folder / "3", *watch(folder, "--policy", "observe"), state=folder) as process:
            Lines(process).wait_for_state(vm.qmp, "reporting")
            assert process.stop() == 0
        assert monitor.interval_s() == 0  # restored by the next run


def test_give_back_restores_what_a_killed_agent_changed_and_nothing_else(folder: Path) -> None:
    with (
        qemu.guest(folder, "g") as vm,
        qemu.guest(folder, "h") as other,
        vm.monitor() as monitor,
        other.monitor() as others,
    ):
        with agent(folder / "1", *watch(folder), state=folder) as process:
            lines = Lines(process)
            lines.wait(lambda: monitor.interval_s() == others.interval_s() == 1, "both intervals set")
            process.kill()
        others.set_interval(7)  # now set by another client

        done = barograph("give-back", "--state-directory", str(folder))

        assert done.returncode == 0, done.stderr
        assert f"given-back {vm.qmp}" in done.stdout
        assert f"not-ours {other.qmp}" in done.stdout
        assert (monitor.interval_s(), others.interval_s()) == (0, 7)
        assert barograph("give-back", "--state-directory", str(folder)).stdout == ""


def test_a_second_socket_of_one_vm_is_duplicate_and_names_the_first(folder: Path) -> None:
    uuid = "5f0cb4a5-9d3f-4b6e-8a39-3a2d5c1b0e11"
    extra = ["-qmp", f"unix:{folder}/z.qmp,server=on,wait=off"]
    with qemu.guest(folder, "g", *extra, uuid=uuid) as vm, agent(folder, *watch(folder)) as process:
        lines = Lines(process)
        states = [folder / "z.qmp", vm.qmp]
        lines.wait(
            lambda: (
                sorted(lines.words(path)[-1][0] if lines.words(path) else "" for path in states)
                == ["duplicate", "reporting"]
            ),
            "one reporting, one duplicate",
        )

        duplicate = next(path for path in states if lines.words(path)[-1][0] == "duplicate")
        other = next(path for path in states if path != duplicate)
        said = lines.states(duplicate)[-1]
        assert str(other) in said["detail"]
        assert "uuid" not in said["vm"]


def test_a_socket_that_is_not_qmp_is_left_alone(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "odd.qmp"))
        listener.listen()
        with agent(folder, *watch(folder)) as process:
            lines = Lines(process)
            peer, _ = listener.accept()
            peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            lines.wait_for_state(folder / "odd.qmp", "no-greeting")
            peer.close()

            assert lines.words(folder / "odd.qmp")[-1] == ("no-greeting", "not_qmp")
            listener.settimeout(2)
            with pytest.raises(TimeoutError):
                listener.accept()
