"""Tests of the states of a guest that panics, shuts down, hangs or is suspended.

They run on the installed QEMU (Debian 12's 7.2 in CI) and on a newer one (10), shown by the test's id.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.watching import Document, Lines, steady, watch
from tests.lab import qemu
from tests.lab.agent import agent

pytestmark = pytest.mark.guest

SOON_S = 4.0
SOON = {"BAROGRAPH_POLLING__STALL_DEADLINE": f"{SOON_S}s"}
"""A short stall deadline: test_states_on_real_guests tests the default one."""


@contextmanager
def reporting(folder: Path, command: Sequence[str], *extra: str) -> Generator[tuple[qemu.Vm, Lines]]:
    """Yield a guest that reports, and the records of an agent that observes it."""
    with (
        qemu.guest(folder, "g", *extra, command=command) as vm,
        agent(folder, *watch(folder), env=SOON) as process,
    ):
        lines = Lines(process)
        lines.wait_for_samples("g", 3)
        lines.wait_for_state(vm.qmp, "reporting")
        yield vm, lines


def since(lines: Lines, vm: qemu.Vm) -> list[tuple[str, str]]:
    """Return the changes of the VM's state and reason since it first reported."""
    words = steady(lines.words(vm.qmp))
    return words[words.index(("reporting", "advancing")) + 1 :]


def reset(vm: qemu.Vm, *more: str) -> None:
    """Reset the VM from outside, as an operator would; `more` commands may be needed to continue it."""
    with qemu.Monitor(vm.hands) as monitor:
        for command in ("system_reset", *more):
            monitor.command(command)


def assert_another_boot(before: Sequence[Document], after: Sequence[Document]) -> None:
    assert after[0]["epoch"] != before[-1]["epoch"]
    assert after[0]["previous"] == {"epoch": before[-1]["epoch"], "sequence": before[-1]["sequence"]}
    assert after[0]["origin"] == "unsolicited"


def test_a_panic_reported_by_a_panic_device_is_paused_guest_panicked(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    panics = ("-device", "pvpanic-pci", "-action", "panic=pause")
    with reporting(folder, each_qemu, *panics) as (vm, lines):
        vm.order("crash")
        lines.wait_for_state(vm.qmp, "paused")
        before = lines.samples("g")
        reset(vm, "cont")
        lines.wait_for_state(vm.qmp, "waiting")
        after = lines.wait_for_samples("g", len(before) + 2)[len(before) :]

        words = since(lines, vm)
        assert words[0] == ("paused", "guest-panicked")
        assert words[-2:] == [("waiting", "rebooted"), ("reporting", "advancing")]
        assert {state for state, _ in words[:-2]} == {"paused"}  # the run states that QEMU passes through
        assert_another_boot(before, after)


def test_a_panic_that_ends_qemu_is_gone(folder: Path, each_qemu: Sequence[str]) -> None:
    """The default action: QEMU reports the panic, and exits."""
    with reporting(folder, each_qemu, "-device", "pvpanic-pci") as (vm, lines):
        vm.order("crash")
        vm.wait_for_exit()
        lines.wait_for_state(vm.qmp, "gone")

        assert since(lines, vm)[-1] == ("gone", "missing")
        assert {state for state, _ in since(lines, vm)} <= {"paused", "gone"}


def test_a_panic_without_a_panic_device_is_stalled(folder: Path, each_qemu: Sequence[str]) -> None:
    """QEMU does not notice the panic: the run state stays `running`, and there is no event."""
    with reporting(folder, each_qemu) as (vm, lines), vm.monitor() as monitor:
        vm.order("crash")
        lines.wait_for_state(vm.qmp, "stalled")
        status = monitor.command("query-status")

        assert since(lines, vm) == [("stalled", "no_advance")]
        assert lines.states(vm.qmp)[-1]["run_state"] == "running"
        assert isinstance(status, dict)
        assert status["status"] == "running"


def test_a_hung_guest_is_stalled_until_it_is_reset(folder: Path, each_qemu: Sequence[str]) -> None:
    with reporting(folder, each_qemu) as (vm, lines), vm.monitor() as monitor:
        vm.order("hang")
        lines.wait_for_state(vm.qmp, "stalled")
        before, truth = lines.samples("g"), monitor.guest_stats()
        reset(vm)
        lines.wait_for_state(vm.qmp, "waiting")
        after = lines.wait_for_samples("g", len(before) + 2)[len(before) :]

        assert since(lines, vm) == [
            *(("stalled", "no_advance"), ("waiting", "rebooted"), ("reporting", "advancing")),
        ]
        assert before[-1]["last_update"] == truth[0]
        assert_another_boot(before, after)


def test_a_guest_that_shuts_down_is_gone_with_its_qemu(folder: Path, each_qemu: Sequence[str]) -> None:
    with reporting(folder, each_qemu) as (vm, lines):
        vm.order("poweroff")
        vm.wait_for_exit()
        lines.wait_for_state(vm.qmp, "gone")

        assert since(lines, vm)[-1] == ("gone", "missing")
        assert {state for state, _ in since(lines, vm)} <= {"paused", "gone"}


def test_a_guest_that_shuts_down_under_no_shutdown_is_paused_until_it_boots_again(
    folder: Path, each_qemu: Sequence[str]
) -> None:
    with reporting(folder, each_qemu, "-no-shutdown") as (vm, lines):
        vm.order("poweroff")
        lines.wait_for_state(vm.qmp, "paused")
        before = lines.samples("g")
        assert since(lines, vm) == [("paused", "shutdown")]
        reset(vm, "cont")
        after = lines.wait_for_samples("g", len(before) + 2)[len(before) :]

        words = since(lines, vm)
        assert words[-2:] == [("waiting", "rebooted"), ("reporting", "advancing")]
        assert {state for state, _ in words[:-2]} == {"paused"}
        assert_another_boot(before, after)


def test_a_suspended_guest_is_paused_and_not_stalled(folder: Path, each_qemu: Sequence[str]) -> None:
    """Suspended to memory (S3): QEMU sends SUSPEND and WAKEUP, not STOP and RESUME."""
    with reporting(folder, each_qemu) as (vm, lines):
        vm.order("suspend")
        lines.wait_for_state(vm.qmp, "paused")
        before = lines.samples("g")
        time.sleep(SOON_S + 1)  # it must not become stalled
        with qemu.Monitor(vm.hands) as monitor:
            monitor.command("system_wakeup")
        lines.wait_for_state(vm.qmp, "reporting")
        after = lines.wait_for_polls("g", after=len(before))

        assert since(lines, vm) == [("paused", "suspended"), ("reporting", "advancing")]
        assert after[0]["origin"] == "unsolicited"
        assert max(each["missed_at_most"] for each in after) < SOON_S  # none is missed while it is suspended
        assert {each["epoch"] for each in after} == {before[-1]["epoch"]}
