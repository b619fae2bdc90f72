"""Tests of the jobs with real guests: agent, Kafka and jobs, compared with each guest's second monitor."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from barograph_streams.core.jobs import SAMPLES_TOPIC, STATES_TOPIC
from barograph_streams.core.leak_job import TOPIC as LEAK_TOPIC
from barograph_streams.core.pressure_job import TOPIC as PRESSURE_TOPIC
from barograph_streams.core.quality_job import HOST_TOPIC, VM_TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from simulator.demo.measure import decoded
from tests.integration.conftest import need
from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.flink import Job, job
from tests.lab.guest_troubles import run_out, swap
from tests.lab.kafka import RealKafka, consume
from tests.lab.played_troubles import guests
from tests.lab.process import freeze, thaw
from tests.lab.wall_clock import WallClock

INTERVAL_S = 10
HEARTBEAT_S = 10
HOST_ID = "7" * 32
ALLOWANCE_S = 10
SLACK_S = 60
"""For a busy machine, beyond what a job waits for."""

DAY_S = 86_400
DAYS = 9
LEAK_MIB = 4
"""Per day."""

Document = Mapping[str, Any]
Update = tuple[int, Mapping[str, int]]
"""last-update, and the statistics."""

pytestmark = [pytest.mark.long, pytest.mark.guest]


class SecondMonitor(threading.Thread):
    """Reads the updates of a guest, which are much further apart than its readings."""

    def __init__(self, vm: qemu.Vm) -> None:
        super().__init__(daemon=True)
        self._monitor = qemu.Monitor(vm.hands)
        self._ending = threading.Event()
        self.updates: list[Update] = []

    def run(self) -> None:
        """Read until `stop`."""
        while not self._ending.wait(0.5):
            at_s, stats = self._monitor.guest_stats()
            if at_s and (not self.updates or self.updates[-1][0] != at_s):
                self.updates.append((at_s, decoded(stats)))

    def stop(self) -> None:
        """Stop reading."""
        self._ending.set()
        self.join(60)
        self._monitor.close()


def shortages(updates: Sequence[Update]) -> list[tuple[int, bool]]:
    """Return for each update whether the condition of `pressure` in docs/pressure.md holds."""
    found: list[tuple[int, bool]] = []
    for (start_s, before), (end_s, now) in pairwise(updates):
        passed_s = end_s - start_s
        faults = (now["major_faults"] - before["major_faults"]) / passed_s
        swapped = sum(now[name] - before[name] for name in ("swap_in", "swap_out")) / passed_s
        is_tight = now["available_memory"] / now["total_memory"] < 0.05
        found.append((end_s, is_tight and (faults >= 5 or swapped >= 1 << 20)))
    return found


def changes(updates: Sequence[Update]) -> list[tuple[str, int]]:
    """Return when a guest without OOM kills is under pressure, and when it no longer is."""
    found: list[tuple[str, int]] = []
    level, since_s, held = "none", 0, False
    for at_s, holds in shortages(updates):
        if holds is not held:
            since_s, held = at_s, holds
        wanted, after_s = ("pressure", 300) if holds else ("none", 900)
        if level != wanted and at_s - since_s >= after_s:
            level = wanted
            found.append((level, at_s))
    return found


def documents(kafka: RealKafka, topic: str, key: str) -> list[Document]:
    """Return the records of a key, in order."""
    return [json.loads(each.value) for each in consume(kafka.bootstrap, [topic]) if each.key == key]


def levels(kafka: RealKafka, vm: str) -> list[tuple[str, int]]:
    """Return the changes of a VM's pressure level."""
    found = documents(kafka, PRESSURE_TOPIC, vm)
    return [(each["level"], each["last_update"]) for each in found if "previous_level" in each]


def wait_for(holds: Callable[[], bool], what: str, timeout_s: float, jobs: Sequence[Job]) -> None:
    """Wait for something that a job writes."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        for each in jobs:
            assert each.is_running(), each.log.read_text()[-4000:]
        assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(1)


@pytest.mark.timeout(3_600)
def test_pressure_an_oom_kill_and_a_dark_host_are_seen_in_time(own_kafka: RealKafka, folder: Path) -> None:
    need("newer-qemu", "newer-guest", "flink")
    for topic in (SAMPLES_TOPIC, STATES_TOPIC, PRESSURE_TOPIC, VM_TOPIC, HOST_TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic)
    host = folder / "h7"
    host.mkdir()
    with ExitStack() as stack:
        vms = guests(stack, host, ["thrash", "oom"])
        ids = {name: f"00000000-0000-4000-8000-7{number:011d}" for number, name in enumerate(vms, 1)}
        jobs = [
            stack.enter_context(job(folder / name, name, own_kafka.bootstrap, checkpoint_interval_ms=1_000))
            for name in ("pressure", "quality")
        ]
        for each in jobs:
            each.start()
        words = ("--monitor", f"{host}/*.qmp", "--interval", f"{INTERVAL_S}s", "--host-id", HOST_ID)
        env = {"BAROGRAPH_POLLING__HEARTBEAT": f"{HEARTBEAT_S}s"}
        process = stack.enter_context(
            agent(folder / "agent", *words, "--kafka", own_kafka.bootstrap, env=env)
        )
        monitors = {name: SecondMonitor(vm) for name, vm in vms.items()}
        for monitor in monitors.values():
            monitor.start()
            stack.callback(monitor.stop)

        def conditions() -> list[str]:
            return [each["condition"] for each in documents(own_kafka, HOST_TOPIC, HOST_ID)]

        wait_for(
            lambda: all(documents(own_kafka, PRESSURE_TOPIC, vm) for vm in ids.values()), "levels", 300, jobs
        )
        wait_for(lambda: "reporting" in conditions(), "the host", 300, jobs)

        run_out(vms["oom"])
        killed_s = time.monotonic()
        wait_for(lambda: bool(levels(own_kafka, ids["oom"])), "oom", INTERVAL_S + SLACK_S, jobs)
        seen_s = time.monotonic() - killed_s
        swap(vms["thrash"])
        wait_for(lambda: bool(levels(own_kafka, ids["thrash"])), "pressure", 600 + SLACK_S, jobs)
        vms["thrash"].order("calm")
        wait_for(lambda: len(levels(own_kafka, ids["thrash"])) > 1, "none", 900 + 300 + SLACK_S, jobs)
        wait_for(lambda: len(levels(own_kafka, ids["oom"])) > 1, "none after oom", 900 + SLACK_S, jobs)
        for monitor in monitors.values():
            monitor.stop()

        process.kill()
        for vm in vms.values():
            vm.kill()
        wait_for(lambda: "dark" in conditions(), "dark", 1.1 * HEARTBEAT_S + ALLOWANCE_S + SLACK_S, jobs)
        wait_for(
            lambda: all(documents(own_kafka, VM_TOPIC, vm)[-1]["condition"] == "void" for vm in ids.values()),
            "void VMs",
            SLACK_S,
            jobs,
        )
        dark_ms = documents(own_kafka, HOST_TOPIC, HOST_ID)[-1]["observed_at_ms"]
        state = documents(own_kafka, STATES_TOPIC, HOST_ID)[-1]
        late_s = (dark_ms - state["next_heartbeat_by_ms"]) / 1000
        of_thrash, of_oom = levels(own_kafka, ids["thrash"]), levels(own_kafka, ids["oom"])
        dead = consume(own_kafka.bootstrap, [DEAD_LETTER_TOPIC])

    assert of_thrash == changes(monitors["thrash"].updates)
    kills = [
        now_s
        for (_, before), (now_s, now) in pairwise(monitors["oom"].updates)
        if now["oom_kills"] > before["oom_kills"]
    ]
    calm_s = next(at_s for at_s, _ in monitors["oom"].updates if at_s >= kills[-1] + 900)
    assert of_oom == [("oom", kills[0]), ("none", calm_s)]
    assert ALLOWANCE_S <= late_s < ALLOWANCE_S + SLACK_S
    assert dead == []
    print(f"oom {seen_s:.1f} s after the kill, dark {late_s:.1f} s after the heartbeat was due")


@pytest.mark.timeout(1_800)
def test_a_leak_of_a_known_slope_is_forecast_within_a_tenth(own_kafka: RealKafka, folder: Path) -> None:
    """The wall clock of QEMU and the agent is set forward, a day at a time; timers are not affected.

    The agent is stopped while the guest uses more memory, so that it reads nothing in between.
    """
    need("qemu", "guest", "faketime", "flink")
    for topic in (SAMPLES_TOPIC, STATES_TOPIC, LEAK_TOPIC, DEAD_LETTER_TOPIC):
        own_kafka.create_topic(topic, retention_ms="-1")  # the records are days old
    clock = WallClock(folder)
    clock.step(-DAYS * DAY_S)
    vm_id = "00000000-0000-4000-8000-700000000001"
    with ExitStack() as stack:
        vm = stack.enter_context(qemu.guest(folder, "leak", env=clock.env, uuid=vm_id))
        monitor = stack.enter_context(vm.monitor())
        vm.order("room 400")
        words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--host-id", HOST_ID)
        process = stack.enter_context(
            agent(folder / "agent", *words, "--kafka", own_kafka.bootstrap, env=clock.env)
        )
        running = stack.enter_context(job(folder / "job", "leak", own_kafka.bootstrap))
        running.start()

        def newest() -> int:
            found = documents(own_kafka, SAMPLES_TOPIC, vm_id)
            return found[-1]["last_update"] if found else 0

        for day in range(DAYS):
            if day:
                freeze(process.process.pid)
                vm.order(f"dirty {LEAK_MIB * day}")
                clock.step((day - DAYS) * DAY_S)
                monitor.wait_for_update()
                monitor.wait_for_update()
                thaw(process.process.pid)
            begun_s = monitor.wait_for_update()
            wait_for(lambda begun_s=begun_s: newest() > begun_s, f"a sample of day {day}", 120, [running])
        _, stats = monitor.guest_stats()
        wait_for(
            lambda: len(documents(own_kafka, LEAK_TOPIC, vm_id)) >= DAYS - 3, "the forecasts", 300, [running]
        )
        found = documents(own_kafka, LEAK_TOPIC, vm_id)

    slope = (LEAK_MIB << 20) / 24
    hours = stats["stat-available-memory"] / slope
    print([(each["days"], each["bytes_per_hour"] / slope, each.get("hours_left")) for each in found], hours)
    assert [each["days"] for each in found] == list(range(3, DAYS))
    assert all(each["leaking"] for each in found)
    assert found[-1]["bytes_per_hour"] == pytest.approx(slope, rel=0.1)
    assert found[-1]["hours_left"] == pytest.approx(hours, rel=0.1)
    assert found[-1]["confidence"] == 1
