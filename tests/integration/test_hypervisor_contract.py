"""What a client sees of a balloon, its timer and its guest: the same cases on each kind of VM.

Where a case fails on the simulated one alone, the simulator is wrong. Times are those of a busy machine that
emulates: only what QEMU promises is compared, with room.
"""

import time
from typing import cast

from tests.integration.hypervisor_kinds import INTERVAL, QUICK_S, UNSET, Kind
from tests.lab.qemu import BALLOON

# ---- the timer


def test_from_0_an_update_at_once_and_then_one_an_interval(kind: Kind) -> None:
    client = kind.client(kind.vm())
    time.sleep(1.1)  # past the second of the first buffer

    before, asked = client.stats(), time.monotonic()
    assert client.interval(2) == {}
    first, _ = client.next_update(after=before)
    second, _ = client.next_update()
    third, _ = client.next_update()

    assert first - asked < QUICK_S
    # The first may have been seen late, on a busy machine.
    assert 1.5 < second - first < 2 + QUICK_S
    assert 3.5 < third - first < 4 + 2 * QUICK_S


def test_the_same_interval_again_changes_nothing(kind: Kind) -> None:
    client = kind.client(kind.vm())
    assert client.interval(2) == {}
    deadline = time.monotonic() + 8
    updates = 0
    last = client.stats()
    while time.monotonic() < deadline:
        assert client.interval(2) == {}
        updates += (now := client.stats()) != last
        last = now
        time.sleep(0.1)

    assert updates >= 3


def test_intervals_that_alternate_faster_than_they_last_starve_it(kind: Kind) -> None:
    client = kind.client(kind.vm())
    assert client.interval(3) == {}
    time.sleep(QUICK_S)
    before = client.stats()

    for value in (4, 3) * 5:
        assert client.interval(value) == {}
        time.sleep(0.5)
    assert client.stats() == before

    changed = time.monotonic()
    assert client.interval(2) == {}
    assert 1.99 < client.next_update()[0] - changed < 2 + QUICK_S


def test_switched_off_it_stands_and_keeps_its_values(kind: Kind) -> None:
    client = kind.client(kind.vm())
    assert client.interval(1) == {}
    client.next_update()
    time.sleep(0.3)

    assert client.interval(0) == {}

    client.stands(2.5)
    assert client.stats()[0] > 0


def test_the_timer_is_on_the_vms_clock(kind: Kind) -> None:
    client = kind.client(kind.vm())
    assert client.interval(3) == {}
    client.next_update()
    time.sleep(1)

    assert client.ask("stop") == {}
    assert client.ask("query-status") == {"status": "paused", "singlestep": False, "running": False}
    client.stands(3.5)
    assert client.ask("cont") == {}
    resumed = time.monotonic()
    took = client.next_update()[0] - resumed

    assert 1.0 < took < 2 + QUICK_S  # what was left of the interval
    assert [event["event"] for event in client.wait_for(["STOP", "RESUME"])] == ["STOP", "RESUME"]


def test_switched_on_while_stopped_the_guest_is_asked_when_the_vm_runs(kind: Kind) -> None:
    client = kind.client(kind.vm())
    time.sleep(1.1)
    assert client.ask("stop") == {}
    before = client.stats()
    assert client.interval(5) == {}
    client.stands(1.2)

    assert client.ask("cont") == {}
    resumed = time.monotonic()
    assert client.next_update(after=before)[0] - resumed < QUICK_S


# ---- the guest


def test_a_guest_without_a_driver_is_never_heard_until_it_loads_one(kind: Kind) -> None:
    vm = kind.vm("silent")
    client = kind.client(vm)
    assert client.interval(1) == {}
    time.sleep(2.2)

    last_update, stats = nothing = client.stats()
    assert last_update == 0
    assert set(stats.values()) == {UNSET}
    assert client.ask("query-balloon") == {"actual": 128 << 20}

    vm.order("load")
    first, last_update = client.next_update(after=nothing)
    assert last_update > 0
    assert client.next_update()[0] - first < 1 + QUICK_S  # polling goes on by itself


def test_a_driver_that_leaves_and_comes_back(kind: Kind) -> None:
    vm = kind.vm()
    client = kind.client(vm)
    assert client.interval(1) == {}
    client.next_update()

    vm.order("unload")
    before = client.stats()
    client.stands(2.5)
    assert before[1]["stat-total-memory"] != UNSET
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 1

    vm.order("load")
    assert client.stats() != before
    client.next_update()


def test_a_crashed_guest_is_silent_and_the_vm_runs_on(kind: Kind) -> None:
    vm = kind.vm()
    client = kind.client(vm)
    assert client.interval(1) == {}
    client.next_update()

    vm.order("crash")
    time.sleep(1.5)

    client.stands(2.5)
    assert client.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
    client.silence(0.1)


def test_a_reset_keeps_interval_and_values_and_polling_comes_back(kind: Kind) -> None:
    """QEMU 7.2; 10.0 clears the values: tests/unit/sim."""
    client = kind.client(kind.vm())
    assert client.interval(1) == {}
    client.next_update()
    client.next_update()

    before = client.stats()
    assert client.ask("system_reset") == {}
    after = client.stats()
    assert after[0] >= before[0] > 0
    assert after[1]["stat-total-memory"] == before[1]["stat-total-memory"]

    events = client.wait_for(["RESET", "RESET"])
    assert events[0]["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert {"guest": True, "reason": "guest-reset"} in [event["data"] for event in events[1:]]
    assert {event["event"] for event in events} == {"RESET"}
    client.next_update(40)
    client.next_update()
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 1


def test_a_reset_of_a_stopped_vm_leaves_it_in_prelaunch(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"))
    assert client.ask("cont") == {}
    assert client.ask("stop") == {}

    assert client.ask("system_reset") == {}

    assert client.ask("query-status") == {"status": "prelaunch", "singlestep": False, "running": False}


def test_the_balloons_size_follows_and_says_so_once_a_second(kind: Kind) -> None:
    client = kind.client(kind.vm())

    assert client.ask("balloon", value=0) == ("GenericError", "Parameter 'target' expects a size")
    asked = time.monotonic()
    assert client.ask("balloon", value=100 << 20) == {}
    first = client.wait_for(["BALLOON_CHANGE"])
    quick = time.monotonic()
    second = client.wait_for(["BALLOON_CHANGE"])
    later = time.monotonic()

    sizes = [cast(dict[str, int], event["data"])["actual"] for event in (first[-1], second[-1])]
    assert 100 << 20 < sizes[0] < 128 << 20
    assert sizes[1] == 100 << 20  # the last one wins
    assert quick - asked < 2 * QUICK_S
    assert 0.5 < later - quick < 1 + QUICK_S
    assert client.ask("query-balloon") == {"actual": 100 << 20}

    total = client.stats()[1]["stat-total-memory"]
    assert client.interval(1) == {}
    time.sleep(QUICK_S)
    assert total - client.stats()[1]["stat-total-memory"] == 28 << 20

    assert client.ask("balloon", value=1 << 40) == {}
    client.wait_for(["BALLOON_CHANGE"])
    deadline = time.monotonic() + 5
    while client.ask("query-balloon") != {"actual": 128 << 20}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- devices, snapshots, migration


def test_a_bus_that_takes_no_devices(kind: Kind) -> None:
    client = kind.client(kind.vm())

    refused = ("GenericError", "Bus 'pcie.0' does not support hotplugging")
    assert client.ask("device_del", id="balloon0") == refused
    assert client.ask("device_add", driver="virtio-balloon-pci", id="balloon1") == refused


def test_a_balloon_unplugged_and_another_one_plugged(kind: Kind) -> None:
    client = kind.client(kind.vm("pluggable"))
    assert client.interval(1) == {}
    client.next_update()

    assert client.ask("device_del", id="balloon0") == {}
    events = client.wait_for(["DEVICE_DELETED", "DEVICE_DELETED"])
    assert [event["data"] for event in events] == [
        {"path": f"{BALLOON}/virtio-backend"},
        {"device": "balloon0", "path": BALLOON},
    ]
    absent = ("DeviceNotFound", f"Device '{BALLOON}' not found")
    assert client.ask("qom-get", path=BALLOON, property="guest-stats") == absent
    assert client.ask("query-balloon") == ("DeviceNotActive", "No balloon device has been activated")

    assert client.ask("device_add", driver="virtio-balloon-pci", id="balloon1") == {}
    refused = ("GenericError", "Only one balloon device is supported")
    assert client.ask("device_add", driver="virtio-balloon-pci", id="balloon2") == refused
    path = "/machine/peripheral/balloon1"
    assert client.ask("qom-get", path=path, property=INTERVAL) == 0
    deadline = time.monotonic() + 20
    while client.stats(path)[0] == 0:  # its driver's first buffer
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.interval(1, path) == {}
    client.next_update(path=path)


def test_a_snapshot_loaded_the_time_goes_on_and_the_values_go_back(kind: Kind) -> None:
    vm = kind.vm("saved")
    client = kind.client(vm)
    assert client.interval(1) == {}
    client.next_update()
    time.sleep(0.3)
    assert client.ask("human-monitor-command", **{"command-line": "savevm one"}) == ""
    saved = client.stats()
    client.wait_for(["STOP", "RESUME"])
    for _ in range(3):
        client.next_update()
    later = client.stats()

    assert client.ask("human-monitor-command", **{"command-line": "loadvm one"}) == ""
    loaded = client.stats()
    events = client.wait_for(["STOP", "RESUME"])

    assert [event["event"] for event in events] == ["STOP", "RESUME"]
    assert loaded[0] >= later[0] > saved[0]
    assert loaded[1] == saved[1]
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 1
    client.next_update()
    assert "does not exist" in str(client.ask("human-monitor-command", **{"command-line": "loadvm two"}))


def test_a_migration_carries_the_guest_and_neither_interval_nor_time(kind: Kind) -> None:
    vm = kind.vm(name="a")
    source, destination = kind.client(vm), kind.client(kind.vm("destination", "b"))
    assert destination.ask("query-status") == {"status": "inmigrate", "singlestep": False, "running": False}
    assert destination.stats()[0] == 0
    vm.order("dirty 30")
    before = source.stats()
    assert source.interval(2) == {}
    source.next_update(after=before)
    time.sleep(0.5)
    before = source.stats()

    assert source.ask("migrate", uri=f"unix:{kind.folder}/incoming") == {}
    destination.wait_for(["RESUME"], 40)
    resumed_s = time.time()
    source.wait_for(["STOP"])
    after = destination.stats()

    assert after[1] == source.stats()[1]
    assert after[0] >= before[0]
    assert abs(after[0] - resumed_s) <= 2
    assert destination.ask("qom-get", path=BALLOON, property=INTERVAL) == 0
    assert destination.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
    destination.stands(2.5)
    deadline = time.monotonic() + 10
    while cast(dict[str, str], source.ask("query-status"))["status"] != "postmigrate":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert cast(dict[str, str], source.ask("query-migrate"))["status"] == "completed"
    assert source.ask("qom-get", path=BALLOON, property=INTERVAL) == 2
    source.stands(2.5)

    assert destination.interval(1) == {}
    destination.next_update(after=after)
    moved = destination.stats()[1]["stat-free-memory"]
    assert abs(moved - before[1]["stat-free-memory"]) < 8 << 20  # the guest's memory came along


def test_a_migration_to_nobody_fails_and_the_vm_runs_on(kind: Kind) -> None:
    client = kind.client(kind.vm())
    path = f"{kind.folder}/nowhere"

    assert client.ask("migrate", uri=f"unix:{path}") == {}
    time.sleep(0.2)

    words = f"Failed to connect to '{path}': No such file or directory"
    assert client.ask("query-migrate") == {"status": "failed", "error-desc": words}
    assert client.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
