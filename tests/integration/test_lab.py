"""Tests of the lab: each piece works, reports correctly and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from simulator.demo.measure import decoded
from tests.lab import cache, qemu, setup
from tests.lab.collector import Collector, Point, problems
from tests.lab.kafka import EmbeddedKafka, RealKafka, consume
from tests.lab.local_http import OPENER
from tests.lab.observer import Observer
from tests.lab.played_troubles import Habit, Step, play
from tests.lab.process import is_running, no_child_left, start, wait_until
from tests.lab.prometheus import Prometheus
from tests.lab.recorded_series import from_pages

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024


# --- setting up ---


def set_up(*pieces: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.lab.setup", *pieces]
    return subprocess.run(
        argv, check=False, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}
    )


def test_an_unknown_piece_is_reported_with_the_known_ones() -> None:
    done = set_up("qemo")

    assert done.returncode == 2
    assert "qemo" in done.stderr
    assert ", ".join(setup.PIECES) in done.stderr


def test_a_missing_prerequisite_is_reported_and_leaves_nothing(folder: Path) -> None:
    done = set_up("qemu", "guest", PATH=str(folder), BAROGRAPH_CACHE=str(folder))

    assert done.returncode == 1
    assert "qemu-system-x86 (Debian's names), the VMs: install what brings them" in done.stderr
    assert [each for each in (folder / "lab").iterdir() if each.is_dir()] == []


def test_a_piece_is_complete_or_absent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAROGRAPH_CACHE", str(folder))

    def build_half() -> None:
        with cache.made("thing", "1") as work:
            assert work is not None
            (work / "half").touch()
            raise cache.CannotHave

    with pytest.raises(cache.CannotHave):
        build_half()
    assert not cache.place("thing", "1").exists()
    assert not list((folder / "lab").glob(".thing-*"))


def test_two_set_ups_at_once_build_a_piece_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAROGRAPH_CACHE", str(folder))
    together = threading.Barrier(2)
    built: list[Path] = []

    def build() -> None:
        together.wait()
        with cache.made("thing", "1") as work:
            if work is not None:
                time.sleep(0.1)  # long enough for the other thread to arrive
                built.append(work)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(built) == 1
    assert cache.place("thing", "1").is_dir()


@pytest.mark.parametrize(("required", "code", "word"), [("", 0, "skipped"), ("required", 1, "error")])
def test_a_missing_piece_skips_its_tests_and_fails_them_where_it_is_required(
    folder: Path, required: str, code: int, word: str
) -> None:
    argv = [
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/integration/test_lab.py",
        "-k",
        "comes_out_of_the_collector",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *argv],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CI": "", "BAROGRAPH_LAB": required, "BAROGRAPH_CACHE": str(folder)},
    )

    assert done.returncode == code, done.stdout
    assert f"1 {word}" in done.stdout
    assert "missing: collector; run `make lab`" in done.stdout


# --- processes ---


def test_a_process_started_by_a_thread_outlives_the_thread(folder: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: started.append(start(["sleep", "60"], folder / "log")))
    thread.start()
    thread.join()

    try:
        with pytest.raises(subprocess.TimeoutExpired):
            started[0].wait(0.2)
    finally:
        started[0].kill()
        started[0].wait()


def test_a_started_process_ends_with_its_starter_even_if_that_is_killed(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.lab.process import start;"
        "print(start(['sleep', '60'], Path(sys.argv[1])).pid, flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, folder / "log"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        os.kill(pid, signal.SIGSTOP)  # even a stopped process ends
        assert Path(f"/proc/{pid}").exists()

        starter.kill()

        deadline = time.monotonic() + 60
        while is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_process_left_behind_is_found(folder: Path) -> None:
    left: list[subprocess.Popen[bytes]] = []
    try:
        with pytest.raises(AssertionError, match="sleep 60"), no_child_left(grace_s=0.1):
            left.append(start(["sleep", "60"], folder / "log"))
    finally:
        left[0].kill()
        left[0].wait()


def test_a_process_that_fails_to_start_is_reported_at_once_with_its_log(folder: Path) -> None:
    log = folder / "log"
    process = start(["sh", "-c", "echo no such thing; exit 3"], log)
    begun_s = time.monotonic()

    with pytest.raises(RuntimeError, match=r"(?s)ended with exit code 3.*no such thing"):
        wait_until(lambda: False, "it", process, log, 300)

    assert time.monotonic() - begun_s < 100


# --- QEMU and the guest ---


@pytest.mark.usefixtures("real_qemu")
def test_a_bare_qemu_answers_on_both_monitors(folder: Path) -> None:
    with qemu.bare(folder, "b") as vm, vm.monitor() as truth, qemu.Monitor(vm.qmp) as monitor:
        for each in (truth, monitor):
            assert each.command("query-status")
        with pytest.raises(RuntimeError, match="not found"):
            monitor.guest_stats()


@pytest.mark.usefixtures("real_qemu")
def test_a_qemu_starts_even_while_another_client_holds_its_monitor(folder: Path) -> None:
    held: list[qemu.Monitor] = []

    with qemu.bare(folder, "b") as vm:
        begun_s = time.monotonic()
        for _ in range(5):
            vm.kill()
            thread = threading.Thread(target=lambda: held.append(qemu.Monitor(vm.truth)))
            thread.start()  # it connects as soon as the monitor exists
            vm.restart()
            thread.join()
        took_s = time.monotonic() - begun_s
    for each in held:
        each.close()

    assert len(held) == 5
    assert took_s < 100  # waiting for a held monitor would take a minute


@pytest.mark.usefixtures("real_qemu")
def test_a_qemu_that_fails_to_start_is_ended_and_its_error_is_reported(folder: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="no-such-device"),
        qemu.bare(folder, "b", "-device", "no-such-device"),
    ):
        pass


@pytest.mark.guest
@pytest.mark.usefixtures("real_qemu")
def test_a_guest_follows_its_orders(folder: Path) -> None:
    with qemu.guest(folder, "g", driver=False) as vm, vm.monitor() as monitor:
        monitor.set_interval(1)
        assert (monitor.interval_s(), monitor.guest_stats()[0]) == (1, 0)

        vm.order("load")
        monitor.wait_for_update()
        before = free(monitor)
        assert 30 * MIB < before < 128 * MIB

        vm.order("dirty 24")
        wait_until_free(monitor, lambda now: before - now > 20 * MIB)
        vm.order("clean")
        wait_until_free(monitor, lambda now: before - now < 10 * MIB)

        vm.order("unload")
        with pytest.raises(TimeoutError):
            monitor.wait_for_update(2.5)
        with pytest.raises(RuntimeError, match="no driver"):
            vm.order("unload")
        with pytest.raises(RuntimeError, match="no such order"):
            vm.order("dance")

        vm.order("reboot")
        vm.wait_until_booted()
        vm.order("load")
        monitor.wait_for_update()
        vm.order("crash")
        with pytest.raises(TimeoutError):
            wait_for_updates(monitor)


def free(monitor: qemu.Monitor) -> int:
    return decoded(monitor.guest_stats()[1])["free_memory"]


def wait_for_updates(monitor: qemu.Monitor) -> None:
    """Wait for 30 updates in turn: a guest may still send one while it crashes."""
    for _ in range(30):
        monitor.wait_for_update(4)


def wait_until_free(monitor: qemu.Monitor, holds: Callable[[int], bool]) -> None:
    """Wait for an update that fits: the first one after an order may have been requested before it."""
    deadline = time.monotonic() + 120
    while not holds(now := free(monitor)):
        assert time.monotonic() < deadline, now
        time.sleep(0.05)


@pytest.mark.guest
@pytest.mark.usefixtures("real_qemu")
def test_the_observer_sees_what_another_monitor_shows_even_after_a_restart(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm, qemu.guest(folder, "other") as frozen:
        with Observer([vm.truth, frozen.truth], folder) as observer:
            frozen.freeze()  # it does not answer, and must not block the observer
            shown = watch(vm, 3)
            vm.restart()
            vm.wait_until_booted()
            shown |= watch(vm, 2)
            seen = {each.last_update_s: each.statistics for each in observer.stop()[vm.truth]}
            pace = observer.paces()[vm.truth]
        frozen.thaw()

    assert len(shown) == 5
    for last_update_s, statistics in shown.items():
        assert seen[last_update_s] == statistics
    assert pace.usual_gap_ms < 500  # 5 are intended; blocked by the frozen QEMU it would be seconds


def watch(vm: qemu.Vm, updates: int) -> dict[int, dict[str, int]]:
    """Return updates as the agent's monitor shows them, complete readings only."""
    with qemu.Monitor(vm.qmp) as monitor:
        monitor.set_interval(1)
        shown: dict[int, dict[str, int]] = {}
        for _ in range(updates):
            monitor.wait_for_update()
            last_update_s, stats = monitor.guest_stats()
            shown[last_update_s] = decoded(stats)
        monitor.wait_for_update()  # so that the last of them was visible for a second
    return shown


# --- Kafka ---


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    producer.produce(topic, value, key=b"key", headers=[("name", b"value")], timestamp=1234567890123)
    assert producer.flush(120) == 0


def test_the_embedded_kafka_returns_what_was_produced(embedded_kafka: EmbeddedKafka) -> None:
    produce(embedded_kafka.bootstrap, "t", b"1")

    (got,) = consume(embedded_kafka.bootstrap, ["t"])

    assert (got.topic, got.offset, got.key, got.value) == ("t", 0, "key", b"1")
    assert (got.timestamp_ms, got.headers) == (1234567890123, {"name": b"value"})


def test_the_real_kafka_keeps_its_records_however_it_ends(own_kafka: RealKafka) -> None:
    own_kafka.create_topic("t", 1)
    own_kafka.create_topic("t", 1)  # an existing topic is accepted
    produce(own_kafka.bootstrap, "t", b"1")

    own_kafka.kill()
    own_kafka.start()
    produce(own_kafka.bootstrap, "t", b"2")
    own_kafka.stop()
    own_kafka.start()
    own_kafka.freeze()
    own_kafka.thaw()

    got = consume(own_kafka.bootstrap, ["t"])
    assert [(each.offset, each.key, each.value) for each in got] == [(0, "key", b"1"), (1, "key", b"2")]
    assert (got[0].timestamp_ms, got[0].headers) == (1234567890123, {"name": b"value"})


# --- OTLP ---


def request(value: int, now_ns: int) -> Mapping[str, Any]:
    """Return a gauge, a counter and an empty histogram as OTLP/JSON."""
    time_ = {"timeUnixNano": str(now_ns), "attributes": [{"key": "a", "value": {"stringValue": "x"}}]}
    total = {**time_, "startTimeUnixNano": str(now_ns - 10**9), "asInt": "9007199254740993"}
    empty = {
        **time_,
        "startTimeUnixNano": str(now_ns - 10**9),
        "bucketCounts": ["0", "0"],
        "explicitBounds": [1],
    }
    metrics = [
        {"name": "lab.gauge", "unit": "By", "gauge": {"dataPoints": [{**time_, "asInt": str(value)}]}},
        {
            "name": "lab.total",
            "unit": "{page}",
            "sum": {"dataPoints": [total], "isMonotonic": True, "aggregationTemporality": 2},
        },
        {"name": "lab.lag", "unit": "s", "histogram": {"dataPoints": [empty], "aggregationTemporality": 2}},
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "lab"}}]}
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": metrics}]}]}


def post(url: str, document: Mapping[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/json"}
    with OPENER.open(urllib.request.Request(f"{url}/v1/metrics", body, headers), timeout=60) as answer:
        assert answer.status == 200


def test_what_goes_in_comes_out_of_the_collector(own_collector: Collector) -> None:
    now_ns = time.time_ns()
    post(own_collector.http, request(5, now_ns))
    deadline = time.monotonic() + 120
    while len(own_collector.points()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    gauge, total, lag = own_collector.points()
    assert (gauge.name, gauge.unit, gauge.kind, gauge.value, gauge.time_ns) == (
        *("lab.gauge", "By", "gauge", 5, now_ns),
    )
    assert (gauge.about("service.name"), gauge.attributes, gauge.start_ns) == ("lab", (("a", "x"),), None)
    assert (total.kind, total.value, total.start_ns) == ("counter", 2**53 + 1, now_ns - 10**9)
    assert (lag.kind, lag.value) == ("histogram", 0)  # JSON omits the zero
    assert problems([gauge, total, lag]) == []


def point(
    *, name: str = "m", unit: str = "By", kind: str = "gauge", at: int = 2, start_at: int | None = None
) -> Point:
    return Point((), name, unit, kind, (), at, start_at, 1, ("", ""))


@pytest.mark.parametrize(
    ("points", "what"),
    [
        ([point(kind="counter")], "without a start"),
        ([point(kind="counter", start_at=3)], "starts after"),
        ([point(at=2), point(at=2)], "sent twice"),
        ([point(at=2), point(at=1)], "older than"),
        ([point(unit="bytes")], "not UCUM"),
        ([point(unit="")], "not UCUM"),
        ([point(unit="{two words}")], "not UCUM"),
    ],
)
def test_a_problem_that_a_collector_accepts_is_found(points: list[Point], what: str) -> None:
    (found,) = problems(points)
    assert what in found


@pytest.mark.parametrize("unit", ["By", "1", "s", "ms", "KiBy", "{fault}", "{fault}/s", "By/s", "%"])
def test_correct_points_have_no_problems(unit: str) -> None:
    assert problems([point(unit=unit, at=1), point(unit=unit, at=2), point(name="n", unit=unit, at=1)]) == []


def test_prometheus_takes_otlp_and_answers(own_prometheus: Prometheus) -> None:
    post(own_prometheus.otlp, request(5, time.time_ns()))  # an instant query looks back five minutes only

    wait_until(
        lambda: bool(own_prometheus.query("lab_gauge_bytes")),
        "the gauge",
        own_prometheus.process,
        own_prometheus.log,
        120,
    )
    (gauge,) = own_prometheus.query("lab_gauge_bytes")

    assert gauge["value"][1] == "5"
    assert gauge["metric"]["job"] == "lab"


# --- recordings of series ---


def test_a_recording_continues_after_a_failed_step() -> None:
    done: list[str] = []

    def times_out() -> None:
        raise subprocess.TimeoutExpired("a command", 180)

    steps = [Step(0, "a", "fails", times_out), Step(0, "b", "works", lambda: done.append("b"))]
    play({}, time.time(), 0.01, steps, [Habit(-1, 1, times_out)])

    assert done == ["b"]


def test_pages_become_series_with_gaps_and_ends() -> None:
    readings = "# TYPE barograph_readings counter\nbarograph_readings_total"
    state = '# TYPE qemu_vm_state_reason gauge\nqemu_vm_state_reason{qemu_vm_name="a"} 1\n'
    kills = "# TYPE qemu_vm_guest_oom_kills counter\nqemu_vm_guest_oom_kills_total 3 1007\n"
    other = "# TYPE other gauge\nother 1\n"
    pages = [f"{readings} 12345678\n{state}{kills}{other}# EOF\n", f"{readings} 12345679\n# EOF\n", ""]

    series = from_pages(pages, {"job": "barograph"}, 1_000, 15)

    assert series == {
        'up{job="barograph"}': "1x29 0x14",
        'barograph_readings_total{job="barograph"}': "12345678x14 12345679x14 stale _x14",
        'qemu_vm_state_reason{job="barograph",qemu_vm_name="a"}': "1x14 stale _x29",
        'qemu_vm_guest_oom_kills_total{job="barograph"}': "_x7 3 _x7 stale _x29",
    }
