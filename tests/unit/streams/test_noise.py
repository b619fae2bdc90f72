"""Tests of the noisy-guest job: which VM takes memory while the host waits for it."""

import pytest

from barograph_streams.core.jobs import JOBS
from barograph_streams.core.noise import CALM_MS, PRESSED_MIN, PRESSED_SHARE, ROUNDS
from barograph_streams.core.noise_job import HEARTBEAT_MS
from tests.unit.streams.hosting import GIB, INTERVAL_S, Fleet, host_memory, pressed_round, vm_memory, vm_state
from tests.unit.streams.making import T0_S, make, vm_id

JOB = JOBS["noisy-guest"]
ROUND_US = INTERVAL_S * 1_000_000
STEP = GIB // 8


class Host:
    """A host with some VMs that a test drives. Sizes are in bytes, by VM."""

    def __init__(self, *, vms: int = 3) -> None:
        self.fleet = Fleet(JOB)
        self.number = self.stalled_us = 0
        self.resident, self.swapped, self.traffic = [2 * GIB] * vms, [0] * vms, [0] * vms
        self.available = 32 * GIB

    def rounds(
        self,
        count: int,
        *,
        stalled: float = 0.0,
        grow: int = 0,
        vm: int = 0,
        out: int = 0,
        traffic: int = 0,
        own: int = 0,
    ) -> None:
        """Let rounds pass.

        Args:
            count: the number of rounds.
            stalled: the part of the time in which tasks waited for memory.
            grow: growth of the VM's resident memory in each round.
            vm: the VM.
            out: what the host swaps out of the VM in each round.
            traffic: traffic of the guest's own swap in each round.
            own: what other programs of the host take in each round.
        """
        for _ in range(count):
            self.stalled_us += int(stalled * ROUND_US)
            self.resident[vm] += grow - out
            self.swapped[vm] += out
            self.traffic[vm] += traffic
            self.available -= grow - out + own
            for each, resident in enumerate(self.resident):
                statistics = {"swap_in": 0, "swap_out": self.traffic[each]}
                at_s = T0_S + self.number * INTERVAL_S
                made = make(self.number + 1, vm=each, epoch=each, last_update_s=at_s, statistics=statistics)
                process = {"resident_bytes": resident, "swap_bytes": self.swapped[each]}
                self.fleet.read(made.record)
                self.fleet.read(vm_memory(each, 0, self.number, process=process))
            memory = {"total_bytes": 64 * GIB, "available_bytes": self.available}
            pressure = {"some": {"total_us": self.stalled_us}}
            self.fleet.round(host_memory(0, self.number, memory=memory, pressure=pressure))
            self.number += 1

    @property
    def levels(self) -> list[tuple[str, str]]:
        """Return VM and level of each change."""
        return [(each["vm"]["id"], each["level"]) for each in self.fleet.written if not each["heartbeat"]]


def test_a_vm_that_grows_while_the_host_waits_is_noisy_and_then_quiet() -> None:
    host = Host()
    host.rounds(6)
    host.rounds(PRESSED_MIN, stalled=0.5, grow=STEP)
    (written,) = host.fleet.written

    assert host.levels == [(vm_id(0), "noisy")]
    assert written["share"] == 1.0
    assert written["bytes_per_s"] == pytest.approx(STEP / INTERVAL_S)
    assert written["baseline_bytes_per_s"] == 0
    assert written["host_stalled"] == 0.5
    assert (written["pressed_rounds"], written["confidence"]) == (PRESSED_MIN, PRESSED_MIN / ROUNDS)

    host.rounds(ROUNDS + CALM_MS // 60_000)
    assert host.levels == [(vm_id(0), "noisy"), (vm_id(0), "quiet")]
    assert host.fleet.written[-1]["previous_level"] == "noisy"


def test_growth_while_the_host_has_enough_is_not_noise() -> None:
    host = Host()
    host.rounds(20, stalled=PRESSED_SHARE / 2, grow=STEP)

    assert host.levels == []


def test_pressure_that_no_vm_adds_to_is_not_noise() -> None:
    host = Host()
    host.rounds(20, stalled=0.9)

    assert host.levels == []


def test_a_vm_that_is_swapped_out_and_in_is_a_victim() -> None:
    host = Host()
    host.rounds(6)
    host.rounds(8, stalled=0.9, out=STEP)
    host.rounds(8, stalled=0.9, out=-STEP)

    assert host.levels == []


def test_a_guest_that_swaps_is_noisy() -> None:
    host = Host()
    host.rounds(6)
    host.rounds(8, stalled=0.5, traffic=STEP, vm=1)

    assert host.levels == [(vm_id(1), "noisy")]


def test_memory_that_other_programs_of_the_host_take_is_not_blamed_on_a_vm() -> None:
    host = Host()
    host.rounds(6)
    host.rounds(8, stalled=0.5, grow=STEP, own=4 * STEP)

    assert host.levels == []


def test_a_vm_that_always_takes_as_much_is_not_noisy() -> None:
    host = Host()
    host.rounds(10, traffic=STEP)
    host.rounds(10, stalled=0.5, traffic=STEP)

    assert host.levels == []


def test_without_a_quiet_round_the_confidence_is_half() -> None:
    host = Host()
    host.rounds(1)
    host.rounds(ROUNDS, stalled=0.5, grow=STEP)

    assert "baseline_bytes_per_s" not in host.fleet.written[0]
    assert host.fleet.written[0]["confidence"] == PRESSED_MIN / ROUNDS / 2


def test_a_vm_that_stays_noisy_is_written_again() -> None:
    host = Host()
    host.rounds(6)
    host.rounds(2 * HEARTBEAT_MS // 60_000 + PRESSED_MIN, stalled=0.5, grow=STEP)

    assert [each["heartbeat"] for each in host.fleet.written] == [False, True, True]


@pytest.mark.parametrize("ends", ["gone", "dark"])
def test_a_noisy_vm_that_ends_or_a_host_that_is_dark_is_unknown(ends: str) -> None:
    host = Host()
    host.rounds(6)
    host.rounds(PRESSED_MIN, stalled=0.5, grow=STEP)
    if ends == "gone":
        host.fleet.read(vm_state(0, 0, host.number, "gone"))
        host.fleet.round(host_memory(0, host.number))
    else:
        host.fleet.wait(10 * INTERVAL_S * 1000)

    assert host.levels == [(vm_id(0), "noisy"), (vm_id(0), "unknown")]
    assert "share" not in host.fleet.written[-1]
    host.fleet.wait(10**8)
    assert len(host.fleet.written) == 2


def test_a_host_without_psi_has_no_noisy_guests() -> None:
    fleet = Fleet(JOB)
    for number in range(20):
        size = {"resident_bytes": GIB + number * STEP}
        fleet.round(vm_memory(0, 0, number, process=size), host_memory(0, number))

    assert fleet.written == []


def test_a_reboot_of_the_host_and_a_gap_start_the_rounds_again() -> None:
    host = Host()
    host.rounds(6)
    host.rounds(PRESSED_MIN - 1, stalled=0.5, grow=STEP)
    host.stalled_us = 0  # a reboot
    host.rounds(PRESSED_MIN, stalled=0.5, grow=STEP)
    host.number += 30  # a gap
    host.rounds(PRESSED_MIN, stalled=0.5, grow=STEP)
    assert host.levels == []

    host.rounds(1, stalled=0.5, grow=STEP)
    assert host.levels == [(vm_id(0), "noisy")]


def test_two_vms_that_take_half_each_are_both_noisy() -> None:
    host = Host()
    host.rounds(6)
    for _ in range(PRESSED_MIN):
        host.resident[1] += STEP
        host.available -= STEP
        host.rounds(1, stalled=0.5, grow=STEP)

    assert sorted(host.levels) == [(vm_id(0), "noisy"), (vm_id(1), "noisy")]


def test_the_rounds_of_the_other_tests_have_a_noisy_vm() -> None:
    fleet = Fleet(JOB)
    for number in range(20):
        fleet.round(*pressed_round(number))

    assert fleet.written[0]["level"] == "noisy"
