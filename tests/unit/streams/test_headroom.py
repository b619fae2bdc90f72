"""Tests of the headroom job, on single hosts and on a simulated fleet with known memory."""

import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barograph_streams.core.documents import Outcome
from barograph_streams.core.headroom import RESERVE_DIVISOR
from barograph_streams.core.headroom_job import HEARTBEAT_MS
from barograph_streams.core.jobs import JOBS
from barograph_streams.core.placement import HOSTS_KEPT
from tests.unit.streams.hosting import (
    GIB,
    HOSTS,
    INTERVAL_S,
    T0_MS,
    Fleet,
    host_memory,
    vm_memory,
    vm_state,
)
from tests.unit.streams.making import T0_S, Made, make

JOB = JOBS["headroom"]


def sample(vm: int, host: int, round_: int, *, used: int = 4 * GIB, epoch: int = 0) -> Made:
    """Return a sample of a guest of 8 GiB."""
    return make(
        round_ + 1,
        vm=vm,
        host=host,
        epoch=100 * vm + 10 * epoch + host,
        last_update_s=T0_S + round_ * INTERVAL_S - 10,
        statistics={"total_memory": 8 * GIB, "available_memory": 8 * GIB - used},
    )


def written(*records: tuple[str, bytes]) -> dict[str, Any]:
    """Return the only document that the job writes for the records of a round."""
    fleet = Fleet(JOB)
    fleet.round(*records)
    (document,) = fleet.written
    return document


def test_the_unused_memory_of_a_guest_minus_a_fifth_is_reclaimable() -> None:
    document = written(
        sample(0, 0, 0).record, vm_memory(0, 0, 0), host_memory(0, 0, vms={"count": 1, "reporting": 1})
    )

    part = 8 * GIB - 4 * GIB - 8 * GIB // RESERVE_DIVISOR
    assert document["reclaimable"] == {"bytes": part, "vms": 1}
    assert document["reclaimable_resident"] == {"bytes": part - 2 * GIB, "vms": 1}  # 6 GiB are resident
    assert document["headroom_bytes"] == 8 * GIB + part
    assert document["configured"] == {"bytes": 8 * GIB, "vms": 1, "ratio": 1 / 8}
    assert document["resident"] == {"bytes": 6 * GIB, "vms": 1, "ratio": 6 / 64}
    assert (document["confidence"], document["left_out"], document["condition"]) == (1.0, {}, "current")


def test_a_balloon_that_linux_counts_as_memory_in_use_is_not_counted_as_used() -> None:
    balloon = {"actual_bytes": 6 * GIB, "observed_at_ms": T0_MS, "deflate_on_oom": True}

    document = written(
        sample(0, 0, 0, used=5 * GIB).record, vm_memory(0, 0, 0, balloon=balloon), host_memory(0, 0)
    )

    assert document["reclaimable"]["bytes"] == 6 * GIB - 3 * GIB - 6 * GIB // RESERVE_DIVISOR


@pytest.mark.parametrize(
    ("reason", "more"),
    [
        ("no_balloon", {"balloon": None}),
        ("huge_pages", {"process": {"resident_bytes": 1, "hugetlb_bytes": GIB, "observed_at_ms": T0_MS}}),
        ("no_statistics", {"state": "stalled"}),
    ],
)
def test_a_vm_with_too_few_values_is_left_out_with_its_reason(reason: str, more: dict[str, Any]) -> None:
    document = written(
        sample(0, 0, 0).record,
        vm_memory(0, 0, 0, **more),
        vm_memory(1, 0, 0, state="waiting", configured=None),
        host_memory(0, 0, vms={"count": 3, "reporting": 1}),
    )

    expected = {"no_statistics": 1, "unseen": 1}
    expected[reason] = expected.get(reason, 0) + 1
    assert document["left_out"] == expected
    assert document["reclaimable"] == {"bytes": 0, "vms": 0}
    assert document["headroom_bytes"] == 8 * GIB
    assert document["confidence"] == 0
    assert document["configured"]["vms"] == 1
    silent = 1 + (reason == "no_statistics")
    assert (document["unreported_vms"], document["unreported"]["vms"]) == (silent, silent - 1)


def test_old_records_and_old_samples_are_stale() -> None:
    fleet = Fleet(JOB)
    fleet.round(sample(0, 0, 0).record, vm_memory(0, 0, 0), host_memory(0, 0))
    for number in range(1, 5):
        fleet.round(vm_memory(1, 0, number, process=None), host_memory(0, number))
    assert fleet.written[-1]["left_out"] == {"stale": 1, "no_statistics": 1}
    assert fleet.written[-1]["vms"] == 1

    for number in range(5, 12):
        fleet.round(vm_memory(1, 0, number, process=None), host_memory(0, number))
    assert fleet.written[-1]["left_out"] == {"no_statistics": 1}

    fleet.round(sample(1, 0, 12).record, vm_memory(1, 0, 12), host_memory(0, 12))
    assert fleet.written[-1]["left_out"] == {}
    for number in range(13, 18):
        fleet.round(vm_memory(1, 0, number), host_memory(0, number))
    assert fleet.written[-1]["left_out"] == {"stale": 1}


def test_a_host_without_its_files_has_sums_and_no_ratios() -> None:
    document = written(vm_memory(0, 0, 0), host_memory(0, 0, memory={}))

    assert document["memory"] == {}
    assert document["configured"] == {"bytes": 8 * GIB, "vms": 1}
    assert "headroom_bytes" not in document


def test_small_changes_wait_for_the_heartbeat() -> None:
    fleet = Fleet(JOB)
    for number in range(2 * HEARTBEAT_MS // 60_000):
        memory = {"total_bytes": 64 * GIB, "available_bytes": 8 * GIB + number % 2 * GIB}
        fleet.round(vm_memory(0, 0, number), host_memory(0, number, memory=memory))
    assert [each["heartbeat"] for each in fleet.written] == [False, True]

    fleet.round(host_memory(0, 40, memory={"total_bytes": 64 * GIB, "available_bytes": 5 * GIB}))
    assert [each["heartbeat"] for each in fleet.written] == [False, True, False]


def test_a_dark_host_is_void_and_has_no_values() -> None:
    fleet = Fleet(JOB)
    fleet.round(vm_memory(0, 0, 0), host_memory(0, 0))
    fleet.wait(3 * INTERVAL_S * 1000)

    last = fleet.written[-1]
    assert [each["condition"] for each in fleet.written] == ["current", "void"]
    assert last.keys() == {"schema", "host", "sequence", "observed_at_ms", "condition", "heartbeat"}
    fleet.wait(10**9)
    assert len(fleet.written) == 2

    fleet.round(host_memory(0, 20_000))
    assert fleet.written[-1]["condition"] == "current"


@pytest.mark.parametrize("rounds", [4, 30])
def test_a_backlog_gives_the_same_records_and_is_void_only_if_nothing_follows(rounds: int) -> None:
    records = [(vm_memory(0, 0, number), host_memory(0, number)) for number in range(30)]
    live, late = Fleet(JOB), Fleet(JOB)
    late.wait(rounds * INTERVAL_S * 1000)
    for each in records:
        live.round(*each)
        for sent in each:
            late.read(sent)
        late.wait(1_000)

    assert late.written == live.written
    late.wait(30 * INTERVAL_S * 1000)
    assert late.written[-1]["condition"] == "void"


def test_after_the_job_was_down_a_host_is_not_void_at_once() -> None:
    fleet = Fleet(JOB)
    fleet.round(host_memory(0, 0))
    fleet.wait(30 * INTERVAL_S * 1000, down=True)
    fleet.round(host_memory(0, 31))

    assert [each["condition"] for each in fleet.written] == ["current", "current"]


def test_a_clock_that_is_ahead_does_not_keep_a_host_current() -> None:
    fleet = Fleet(JOB)
    fleet.round(host_memory(0, 1_000))
    fleet.wait(4 * INTERVAL_S * 1000)

    assert fleet.written[-1]["condition"] == "void"


def test_repeats_and_redelivered_records_change_nothing() -> None:
    fleet = Fleet(JOB)
    for each in (vm_memory(0, 0, 3), host_memory(0, 3), vm_state(0, 0, 3, "reporting")):
        assert fleet.read(each) is Outcome.KEPT
        assert fleet.read(each) is Outcome.REPEAT
    kept = dict(fleet.hosts)

    assert fleet.read(vm_memory(0, 0, 5, redelivered=True)) is Outcome.REDELIVERED
    assert fleet.read(host_memory(0, 5, redelivered=True)) is Outcome.REDELIVERED
    assert fleet.read(vm_memory(0, 0, 2)) is Outcome.REPEAT
    assert fleet.hosts == kept


def test_a_record_under_another_key_is_a_dead_letter() -> None:
    fleet = Fleet(JOB)

    assert fleet.read((HOSTS[0], vm_memory(0, 0, 0)[1])) is Outcome.KEY
    assert fleet.read(("x", host_memory(0, 0)[1])) is Outcome.KEY
    assert fleet.hosts == {}


def test_a_second_monitor_that_ends_does_not_end_the_vm() -> None:
    fleet = Fleet(JOB)
    fleet.read(vm_memory(0, 0, 0))
    fleet.read(vm_state(0, 0, 0, "reporting"))
    fleet.read(vm_state(0, 0, 0, "duplicate", path="/b"))
    fleet.read(vm_state(0, 0, 1, "gone", path="/b"))
    fleet.round(host_memory(0, 0))
    assert fleet.written[-1]["vms"] == 1

    fleet.read(vm_state(0, 0, 1, "gone"))
    fleet.round(host_memory(0, 1))
    assert fleet.written[-1]["vms"] == 0


def test_a_vm_is_on_the_host_of_its_newest_samples_though_the_source_still_reports_it() -> None:
    fleet = Fleet(JOB)
    fleet.read(sample(0, 0, 0).record)
    fleet.read(vm_memory(0, 0, 0))
    fleet.read(vm_memory(0, 1, 0, "paused"))
    fleet.read(sample(0, 1, 1).record)
    fleet.read(vm_memory(0, 1, 1))
    fleet.read(vm_memory(0, 0, 1))  # made before the switch, and read late
    fleet.round(host_memory(0, 1), host_memory(1, 1))

    assert [each["vms"] for each in fleet.written] == [0, 1]


def test_the_hosts_of_a_vm_are_bounded() -> None:
    fleet = Fleet(JOB)
    for number in range(5 * HOSTS_KEPT):
        key, value = vm_memory(0, 0, number)
        fleet.read((key, value.replace(HOSTS[0].encode(), f"{number:032}".encode())))

    assert len(fleet.kept[vm_memory(0, 0, 0)[0]]) < 2048


@dataclass
class Vm:
    """A VM of the simulated fleet, as it really is."""

    host: int
    to: int | None = None  # where it migrates to
    left: int | None = None  # the host that it came from, until the next round
    epoch: int = 0
    has_statistics: bool = True
    has_balloon: bool = True
    used: int = 4 * GIB


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**9))
def test_a_fleet_with_migrations_has_each_vm_once_and_the_true_sums(seed: int) -> None:
    """Records of a round come in any order, and some come twice."""
    chance = random.Random(seed)
    vms = [
        Vm(chance.randrange(3), has_statistics=chance.random() < 0.7, has_balloon=chance.random() < 0.8)
        for _ in range(4)
    ]
    fleet = Fleet(JOB)
    old: list[tuple[str, bytes]] = []
    for round_ in range(8):
        records: list[tuple[str, bytes]] = []
        for number, vm in enumerate(vms):
            if vm.left is not None:
                records.append(vm_state(number, vm.left, round_, "gone"))
                vm.left = None
            elif vm.to is not None:  # the guest moves over
                vm.host, vm.left, vm.to, vm.epoch = vm.to, vm.host, None, vm.epoch + 1
                records.append(vm_memory(number, vm.left, round_, "paused"))
            elif chance.random() < 0.3:
                vm.to = (vm.host + chance.choice([1, 2])) % 3
                records.append(vm_memory(number, vm.to, round_, "paused"))
            vm.used = chance.randrange(8 * GIB)
            state = "reporting" if vm.has_statistics else "waiting"
            more: dict[str, Any] = {} if vm.has_balloon else {"balloon": None}
            records.append(vm_memory(number, vm.host, round_, state, **more))
            if vm.has_statistics:
                fleet.read(sample(number, vm.host, round_, used=vm.used, epoch=vm.epoch).record)
        chance.shuffle(records)
        records += chance.sample(old, min(len(old), 2))
        old = records
        for each in records:
            fleet.read(each)
        fleet.written.clear()
        for host in range(3):
            more = {"memory": {"total_bytes": 64 * GIB, "available_bytes": (1 + 9 * (round_ % 2)) * GIB}}
            fleet.read(host_memory(host, round_, **more))
            here = [vm for vm in vms if vm.host == host]
            known = [vm for vm in here if vm.has_balloon and vm.has_statistics]
            document = fleet.written[-1]
            assert document["host"]["id"] == HOSTS[host]
            assert document["vms"] == len(here)
            assert document["configured"]["bytes"] == 8 * GIB * len(here)
            assert document["actual"]["vms"] == sum(vm.has_balloon for vm in here)
            parts = [max(0, 8 * GIB - vm.used - 8 * GIB // RESERVE_DIVISOR) for vm in known]
            assert document["reclaimable"] == {"bytes": sum(parts), "vms": len(known)}
            moving = sum(host in (vm.to, vm.left) for vm in vms)
            assert document["left_out"].get("elsewhere", 0) == moving
            assert document["unreported_vms"] == sum(not vm.has_statistics for vm in here)
        fleet.wait(INTERVAL_S * 1000)
