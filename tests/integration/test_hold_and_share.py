"""Holding a monitor, and sharing it with other tools, on real QEMUs (Debian's 7.2 in CI)."""

import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.promises import best_of_three, promised
from tests.integration.rival import Rival
from tests.integration.watching import Document, Lines, conserved, steady
from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.other_tool import Met, longest, other_tool
from tests.lab.turnstile import turnstile

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu")]

VISIT_MS = 100.0
"""The promise: `share` disconnects within this time."""

ALONE_S = 5.0
REACTS_MS = 50.0
"""The promise: with `hold`, an event becomes a state event within this time."""


LOADED_S = 10.0
"""How long another client may wait for a visit to end while other tests run."""


def shared_folder(folder: Path) -> Path:
    """Return a folder named like Proxmox's. The default access of monitors in it is `share`."""
    path = folder / "qemu-server"
    path.mkdir()
    return path


def beside_a_tool(folder: Path, interval_s: int, seconds: float) -> tuple[Met, Met]:
    """Run a tool on a guest's one monitor, alone and then beside the agent; return the results of both."""
    place = shared_folder(folder)
    with qemu.guest(place, "101") as vm:
        with other_tool(vm.qmp, folder / "tool") as tool:
            time.sleep(ALONE_S)
            quiet = tool.stop()
        with (
            Rival(vm) as truth,
            other_tool(vm.qmp, folder / "tool") as tool,
            agent(folder, "--monitor", f"{place}/*.qmp", "--interval", f"{interval_s}s") as process,
        ):
            lines = Lines(process)
            lines.wait_for_state(vm.qmp, "reporting")
            time.sleep(seconds)
            shown = list(truth.updates)
            lines.wait(lambda: lines.samples("101")[-1]["last_update"] >= shown[-1], "the newest sample")
            lines.wait_for_state(vm.qmp, "reporting")
            assert process.stop() == 0
            beside = tool.stop()
            samples = lines.samples("101")
            totals = conserved(process)

    times = [each["last_update"] for each in samples]
    assert [at_s for at_s in shown if times[0] <= at_s and at_s not in times] == []
    assert {state for state, _ in steady(lines.words(vm.qmp))} <= {"connecting", "waiting", "reporting"}
    per_sample = totals["readings"] / totals["samples"]
    visits = totals["links_opened"] / totals["samples"]
    print(
        f"a tool beside the agent, {interval_s} s: {beside.sessions} sessions, "
        f"{len(beside.failures)} failures, {beside.full_queues} full queues, longest wait "
        f"{longest(beside.waits_ms):.0f} ms (alone {longest(quiet.waits_ms):.0f} ms); {len(times)} samples, "
        f"{per_sample:.2f} readings and {visits:.2f} visits a sample"
    )
    alone_per_s = quiet.sessions / ALONE_S
    promised(
        beside.sessions > seconds * alone_per_s / 4, f"{beside.sessions} sessions, {alone_per_s}/s alone"
    )
    promised(per_sample <= 2.5, f"{per_sample:.2f} readings per sample")
    return quiet, beside


@pytest.mark.alone
@pytest.mark.paired
@best_of_three
def test_a_tool_on_a_shared_monitor_never_fails_and_waits_for_at_most_one_visit(folder: Path) -> None:
    quiet, beside = beside_a_tool(folder, 2, 20)

    assert beside.failures == []
    waits_ms = longest(beside.waits_ms), longest(quiet.waits_ms)
    promised(
        waits_ms[0] <= VISIT_MS + waits_ms[1] + 50, f"the longest waits, beside and alone: {waits_ms} ms"
    )


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("interval_s", [2, 10])
def test_a_tool_on_a_shared_monitor_never_fails_over_minutes(folder: Path, interval_s: int) -> None:
    quiet, beside = beside_a_tool(folder, interval_s, 120)

    assert beside.failures == []
    assert longest(beside.waits_ms) <= VISIT_MS + longest(quiet.waits_ms) + 50


@pytest.mark.alone
@pytest.mark.paired
@best_of_three
def test_a_visit_ends_within_a_tenth_of_a_second(folder: Path) -> None:
    place = shared_folder(folder)
    with (
        qemu.guest(folder, "g") as vm,
        turnstile(place / "101.qmp", vm.qmp) as between,
        agent(folder, "--monitor", f"{place}/*.qmp", "--interval", "1s") as process,
    ):
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("g")) >= 15, "fifteen samples")
        assert process.stop() == 0

        visits = sorted(between.visits_ms)
        print(f"{len(visits)} visits: median {visits[len(visits) // 2]:.0f} ms, longest {visits[-1]:.0f} ms")
        assert len(visits) >= 10
        promised(visits[-1] <= VISIT_MS, f"a visit of {visits[-1]:.0f} ms")


def waiting_at(path: Path) -> int:
    """Return how many connections a listener has not accepted: SS_CONNECTING in /proc/net/unix."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(words[-1] == str(path) and words[5] == "02" for words in lines[1:])


def test_a_shared_monitor_that_another_client_held_for_long_is_read_again(folder: Path) -> None:
    """At an interval of 2 s, the agent reports another client on the monitor only after 7 s."""
    place = shared_folder(folder)
    with (
        qemu.guest(place, "101") as vm,
        agent(folder, "--monitor", f"{place}/*.qmp", "--interval", "2s") as process,
    ):
        lines = Lines(process)
        lines.wait(lambda: len(lines.samples("101")) >= 3, "three samples")

        def hold(seconds: float) -> tuple[int, tuple[str, str], float]:
            """Hold the monitor; return the most waiting clients, the last state, and the next one's wait."""
            with qemu.Monitor(vm.qmp) as holder:
                most, until_s = 0, time.monotonic() + seconds
                while time.monotonic() < until_s:
                    most = max(most, waiting_at(vm.qmp))
                    time.sleep(0.005)
                holder.command("query-status")
                said = lines.words(vm.qmp)[-1]
            begun_s = time.monotonic()
            qemu.Monitor(vm.qmp).close()
            return most, said, time.monotonic() - begun_s

        lines.wait_for_state(vm.qmp, "reporting")
        most, said, next_s = hold(4)
        left_ms = time.time() * 1000
        lines.wait(lambda: lines.samples("101")[-1]["observed_at_ms"] > left_ms, "a sample after the holder")
        assert said[0] == "reporting"
        lines.wait_for_state(vm.qmp, "reporting")
        assert "no-greeting" not in dict(lines.words(vm.qmp))
        assert (most, next_s < LOADED_S) == (1, True)

        most, said, next_s = hold(14)
        assert said == ("no-greeting", "busy")
        assert (most, next_s < LOADED_S) == (1, True)
        lines.wait_for_state(vm.qmp, "reporting")
        states = {state for state, _ in steady(lines.words(vm.qmp))}
        assert states.isdisjoint({"stalled", "unreachable", "gone"})


def test_a_held_monitor_keeps_room_for_others_and_the_next_one_gets_it(folder: Path) -> None:
    with qemu.idle(folder, "g") as vm, qemu.Monitor(vm.qmp) as holder:
        with agent(folder, "--monitor", f"{folder}/*.qmp") as process:
            lines = Lines(process)
            lines.wait_for_state(vm.qmp, "no-greeting")
            lines.wait(lambda: waiting_at(vm.qmp) == 1, "a waiting connection")
            assert process.stop() == 0
        waiter = socket.socket(socket.AF_UNIX)  # there is still room for others
        waiter.setblocking(False)
        waiter.connect(str(vm.qmp))
        holder.close()
        waiter.settimeout(60)
        assert b'"QMP"' in waiter.recv(1000)
        waiter.close()


@pytest.mark.alone
@pytest.mark.paired
@best_of_three
def test_hold_reports_an_event_within_fifty_milliseconds(folder: Path) -> None:
    trials = 20
    with ExitStack() as stack:
        vms = [stack.enter_context(qemu.idle(folder, f"g{number:02}")) for number in range(trials)]
        process = stack.enter_context(agent(folder, "--monitor", f"{folder}/*.qmp", "--interval", "10s"))
        lines = Lines(process)
        for vm in vms:
            lines.wait_for_state(vm.qmp, "waiting")
        took_ms: dict[str, list[float]] = {}
        for command, event, said in (
            ("stop", "STOP", "paused"),
            ("cont", "RESUME", "waiting"),
            ("system_reset", "RESET", "rebooted"),
        ):
            for vm in vms:
                with vm.monitor() as monitor:
                    monitor.command(command)
                    begun_ms = monitor.event_ms(event)  # QEMU itself may take as long to reset its devices

                    def last(at: Path = vm.qmp) -> Document:
                        return lines.states(at)[-1]

                    lines.wait(
                        lambda last=last, said=said: said in (last()["state"], last()["reason"]),
                        f"{command}: {said}",
                    )
                    took_ms.setdefault(command, []).append(last()["observed_at_ms"] - begun_ms)

        words = ", ".join(f"{command} {max(took):.0f} ms" for command, took in took_ms.items())
        print(f"longest of {trials} each: {words}")
        promised(all(max(took) <= REACTS_MS for took in took_ms.values()), words)


def is_held(path: Path, seconds: float) -> bool:
    """Return whether a client has the monitor all the time: SS_CONNECTED in /proc/net/unix."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        if not any(words[-1] == str(path) and words[5] == "03" for words in lines[1:]):
            return False
        time.sleep(0.02)
    return True


def test_each_glob_has_its_own_access(folder: Path) -> None:
    """The default is `hold`, and `share` below `qemu-server`. A glob may set the other one."""
    names = ("plain/told", "plain/default", "qemu-server/told", "qemu-server/default")
    for place in ("plain", "qemu-server"):
        (folder / place).mkdir()
    config = folder / "barograph.json"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "monitors": [
                    {"glob": f"{folder}/plain/told.qmp", "access": "share"},
                    {"glob": f"{folder}/qemu-server/told.qmp", "access": "hold"},
                    f"{folder}/plain/*.qmp",
                    f"{folder}/qemu-server/*.qmp",
                ]
            }
        )
    )
    with ExitStack() as stack:
        vms = {
            name: stack.enter_context(qemu.idle(folder / name.split("/")[0], name.split("/")[1]))
            for name in names
        }
        process = stack.enter_context(agent(folder, "--config", str(config)))
        lines = Lines(process)
        for vm in vms.values():
            lines.wait_for_state(vm.qmp, "waiting")

        held = {name: is_held(vm.qmp, 0.7) for name, vm in vms.items()}

        assert held == {
            "plain/told": False,
            "plain/default": True,
            "qemu-server/told": True,
            "qemu-server/default": False,
        }
