"""What a QMP client sees of devices, snapshots and migrations: on a real QEMU and on the simulated one.

If a case fails on the simulated one alone, the simulator is wrong.
"""

import time
from typing import cast

from tests.integration.hypervisor_kinds import INTERVAL, Kind
from tests.lab.qemu import BALLOON


def test_a_reset_event_contains_its_cause(kind: Kind) -> None:
    client = kind.client(kind.vm())

    client.reset()

    events = client.wait_for(["RESET", "RESET"])
    assert events[0]["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert {"guest": True, "reason": "guest-reset"} in [event["data"] for event in events[1:]]
    assert {event["event"] for event in events} == {"RESET"}


def test_a_balloon_cannot_be_resized_to_0_or_beyond_the_vms_memory(kind: Kind) -> None:
    client = kind.client(kind.vm())
    client.resize(100 << 20)
    client.wait_for(["BALLOON_CHANGE"])

    assert client.ask("balloon", value=0) == ("GenericError", "Parameter 'target' expects a size")
    client.resize(1 << 40)

    deadline = time.monotonic() + 120
    while client.ask("query-balloon") != {"actual": 128 << 20}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_reset_of_a_stopped_vm_leaves_it_in_prelaunch(kind: Kind) -> None:
    client = kind.client(kind.vm("bare"))
    assert client.ask("cont") == {}
    assert client.ask("stop") == {}

    assert client.ask("system_reset") == {}

    assert client.ask("query-status") == {"status": "prelaunch", "singlestep": False, "running": False}


def test_a_bus_without_hotplug_refuses_devices(kind: Kind) -> None:
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
    client.balloon = path
    deadline = time.monotonic() + 120
    while client.stats()[0] == 0:  # its driver's first buffer
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.interval(1) == {}
    client.next_update()


def test_loading_a_snapshot_restores_the_values_but_not_the_time(kind: Kind) -> None:
    vm = kind.vm("saved")
    client = kind.client(vm)
    assert client.interval(2) == {}  # so that no update comes between a snapshot and the reading after it
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
    assert client.ask("qom-get", path=BALLOON, property=INTERVAL) == 2
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
    destination.wait_for(["RESUME"])
    resumed_s = time.time()
    source.wait_for(["STOP"])
    after = destination.stats()

    assert after[1] == source.stats()[1]
    assert after[0] >= before[0]
    assert abs(after[0] - resumed_s) <= 60
    assert destination.ask("qom-get", path=BALLOON, property=INTERVAL) == 0
    assert destination.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
    destination.stands(2.5)
    deadline = time.monotonic() + 120
    while cast(dict[str, str], source.ask("query-status"))["status"] != "postmigrate":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert cast(dict[str, str], source.ask("query-migrate"))["status"] == "completed"
    assert source.ask("qom-get", path=BALLOON, property=INTERVAL) == 2
    source.stands(2.5)

    assert destination.interval(1) == {}
    destination.next_update(after=after)
    moved = destination.stats()[1]["stat-free-memory"]
    assert abs(moved - before[1]["stat-free-memory"]) < 8 << 20  # the guest's memory was migrated too


def test_a_migration_without_a_destination_fails_and_the_vm_runs_on(kind: Kind) -> None:
    client = kind.client(kind.vm())
    path = f"{kind.folder}/nowhere"

    assert client.ask("migrate", uri=f"unix:{path}") == {}
    deadline = time.monotonic() + 60
    while cast(dict[str, str], client.ask("query-migrate")).get("status") != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.05)

    words = f"Failed to connect to '{path}': No such file or directory"
    assert client.ask("query-migrate") == {"status": "failed", "error-desc": words}
    assert client.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
