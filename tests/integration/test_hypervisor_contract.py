"""What a client sees of a balloon, its timer and its guest: the same cases on each kind of VM.

The client uses QMP on a real QEMU and on the simulated one, and libvirt on a QEMU that libvirt manages.

If a case fails on the simulated one alone, the simulator is wrong. Limits of time are those of a busy machine
that emulates the guest: the cases compare only what QEMU guarantees, with a margin.
"""

import time
from typing import cast

from tests.integration.hypervisor_kinds import QUICK_S, UNSET, AnyKind

# ---- the timer


def test_enabling_polling_brings_an_update_at_once_and_then_one_per_interval(any_kind: AnyKind) -> None:
    client = any_kind.watch(any_kind.guest())
    time.sleep(1.1)  # past the second of the first buffer

    before, asked = client.stats(), time.monotonic()
    assert client.interval(2 * int(QUICK_S)) == {}
    first, _ = client.next_update(after=before)
    assert first - asked < QUICK_S

    changed = time.monotonic()
    assert client.interval(2) == {}
    second, _ = client.next_update()
    third, _ = client.next_update()
    # Each may have been seen late, on a busy machine.
    assert 1.99 < second - changed < 2 + QUICK_S
    assert 3.98 < third - changed < 4 + 2 * QUICK_S


def test_the_same_interval_again_changes_nothing(any_kind: AnyKind) -> None:
    client = any_kind.watch(any_kind.guest())
    assert client.interval(2) == {}
    deadline = time.monotonic() + 120
    updates = 0
    last = client.stats()
    while updates < 3:  # there would be none after the first if each call restarted the timer
        assert time.monotonic() < deadline, f"{updates} updates"
        assert client.interval(2) == {}
        updates += (now := client.stats()) != last
        last = now
        time.sleep(0.1)


def test_changing_the_interval_before_it_elapses_prevents_updates(any_kind: AnyKind) -> None:
    client = any_kind.watch(any_kind.guest())
    time.sleep(1.1)  # past the second of the first buffer
    assert client.interval(3) == {}
    client.next_update()
    before = client.stats()

    for value in (4, 3) * 5:
        assert client.interval(value) == {}
        time.sleep(0.5)
    assert client.stats() == before

    changed = time.monotonic()
    assert client.interval(2) == {}
    assert 1.99 < client.next_update()[0] - changed < 2 + QUICK_S


def test_without_polling_the_last_values_stay(any_kind: AnyKind) -> None:
    client = any_kind.watch(any_kind.guest())
    assert client.interval(2) == {}
    client.next_update()
    time.sleep(0.3)  # long before the guest is asked again

    assert client.interval(0) == {}

    client.stands(3.0)
    assert client.stats()[0] > 0


def test_the_timer_is_on_the_vms_clock(any_kind: AnyKind) -> None:
    client = any_kind.watch(any_kind.guest())
    assert client.interval(4) == {}
    client.next_update()
    time.sleep(1)

    client.pause()
    assert client.run_state() == "paused"
    client.stands(4.5)
    client.resume()
    resumed = time.monotonic()
    took = client.next_update()[0] - resumed

    assert 0.5 < took < 3 + QUICK_S  # the rest of the interval; the pause may have begun late
    assert [event["event"] for event in client.wait_for(["STOP", "RESUME"])] == ["STOP", "RESUME"]


def test_polling_enabled_on_a_stopped_vm_begins_when_the_vm_runs(any_kind: AnyKind) -> None:
    client = any_kind.watch(any_kind.guest())
    time.sleep(1.1)
    client.pause()
    before = client.stats()
    assert client.interval(2 * int(QUICK_S)) == {}
    client.stands(1.2)

    client.resume()
    resumed = time.monotonic()
    assert client.next_update(after=before)[0] - resumed < QUICK_S


# ---- the guest


def test_a_guest_sends_no_update_until_it_loads_a_driver(any_kind: AnyKind) -> None:
    vm = any_kind.guest("silent")
    client = any_kind.watch(vm)
    assert client.interval(1) == {}
    time.sleep(2.2)

    last_update, stats = nothing = client.stats()
    assert last_update == 0
    assert set(stats.values()) <= {UNSET}
    assert client.actual() == 128 << 20

    vm.order("load")
    first, last_update = client.next_update(after=nothing)
    assert last_update > 0
    assert client.next_update()[0] - first < 1 + QUICK_S  # polling continues by itself


def test_a_driver_that_leaves_and_comes_back(any_kind: AnyKind) -> None:
    vm = any_kind.guest()
    client = any_kind.watch(vm)
    assert client.interval(1) == {}
    client.next_update()

    vm.order("unload")
    before = client.stats()
    client.stands(2.5)
    assert 0 < before[1]["stat-total-memory"] < 128 << 20
    assert client.interval_now() == 1

    vm.order("load")
    client.next_update(after=before)
    client.next_update()


def test_a_crashed_guest_is_silent_and_the_vm_runs_on(any_kind: AnyKind) -> None:
    vm = any_kind.guest()
    client = any_kind.watch(vm)
    assert client.interval(1) == {}
    client.next_update()

    vm.order("crash")
    deadline = time.monotonic() + 180  # it may report once more while it crashes
    last = None
    while (now := client.stats()) != last:
        assert time.monotonic() < deadline, now
        last = now
        time.sleep(3)

    client.stands(2.5)
    assert client.run_state() == "running"
    client.silence(0.1)


def test_a_reset_keeps_interval_and_values_and_polling_comes_back(any_kind: AnyKind) -> None:
    """As in QEMU 7.2. QEMU 10.0 clears the values: see tests/unit/simulator."""
    client = any_kind.watch(any_kind.guest())
    assert client.interval(1) == {}
    client.next_update()
    client.next_update()

    before = client.stats()
    client.reset()
    after = client.stats()
    assert after[0] >= before[0] > 0
    assert after[1]["stat-total-memory"] == before[1]["stat-total-memory"]

    client.wait_for(["RESET"])
    client.next_update(300, every_s=0.5)  # under emulation, each read slows the boot of a guest
    client.next_update()
    assert client.interval_now() == 1


def test_a_resized_balloon_sends_an_event_at_most_once_a_second(any_kind: AnyKind) -> None:
    client = any_kind.watch(any_kind.guest())

    sizes, at_s = list[int](), [time.monotonic()]
    client.resize(100 << 20)
    while not sizes or sizes[-1] != 100 << 20:  # the last event has the final size
        event = client.wait_for(["BALLOON_CHANGE"])[-1]
        sizes.append(cast(dict[str, int], event["data"])["actual"])
        at_s.append(time.monotonic())

    assert 100 << 20 < sizes[0] < 128 << 20
    assert sizes == sorted(sizes, reverse=True)
    assert at_s[1] - at_s[0] < QUICK_S
    assert len(sizes) <= at_s[-1] - at_s[0] + 2  # once a second
    assert client.actual() == 100 << 20

    before = client.stats()
    total = before[1]["stat-total-memory"]
    assert client.interval(1) == {}
    client.next_update(after=before)
    assert total - client.stats()[1]["stat-total-memory"] == 28 << 20

    client.resize(128 << 20)
    client.wait_for(["BALLOON_CHANGE"])
    deadline = time.monotonic() + 180
    while client.actual() != 128 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
