"""Which guest disturbs its neighbors: its share of the demand for memory while the host waits for memory.

A round is the time between two memory records of the host. It is *pressed* if tasks of the host waited for
memory for a part of it (PSI `some`). The demand of a VM in a round is the memory that its QEMU has taken in
addition, in RAM or in the host's swap, and what its guest has moved to and from its own swap, which occupies
the host's disk. A VM whose memory the host swaps out takes nothing in addition, so a victim has no demand.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from barograph_streams.core.facts import STALE_INTERVALS, HostFact, VmFact

ROUNDS = 5
"""The window, in rounds: five minutes with the default interval."""

PRESSED_MIN = 3
"""Pressed rounds in the window, below which no VM is noisy."""

PRESSED_SHARE = 0.1
"""A round is pressed if tasks waited for memory for this part of it."""

SHARE_MIN = 1 / 3
"""Of the host's demand in the pressed rounds, a noisy VM has at least this share: there are three at most."""

BYTES_PER_S_MIN = 1 << 20
"""Below this demand no VM is noisy."""

TIMES_BASELINE = 2
"""A noisy VM's demand is at least so many times that of its quiet rounds."""

BASELINE_WEIGHT = 0.1
"""Of the newest quiet round in the baseline, an exponential mean."""

CALM_MS = 900_000
"""How long a VM stays noisy without the condition."""

NOISY, QUIET, UNKNOWN = "noisy", "quiet", "unknown"


class Round(Struct, array_like=True, frozen=True):
    """One round of a host."""

    ms: int
    stalled: float  # the part of the time in which tasks waited for memory
    own: int  # demand of the host's other programs, in bytes

    @property
    def is_pressed(self) -> bool:
        """Whether the host was short of memory."""
        return self.stalled >= PRESSED_SHARE


class VmNoise(Struct, array_like=True, frozen=True):
    """What is kept of a VM on its host."""

    footprint: int | None  # in RAM and in the host's swap, in bytes
    resident: int | None  # the part in RAM, without huge pages
    epoch: str
    swapped: int | None
    at_ms: int  # of the VM's record
    demands: tuple[int | None, ...]  # of the window's rounds; None: not known
    baseline: float | None = None  # bytes per second in quiet rounds
    level: str = QUIET
    since_ms: int = 0  # by the host's clock
    held_ms: int = 0  # when the condition held last


class Finding(Struct, frozen=True):
    """What the window shows of a VM."""

    holds: bool
    share: float  # of the host's demand in the pressed rounds
    bytes_per_s: float  # in the pressed rounds
    baseline: float | None
    stalled: float  # mean part of the pressed rounds in which tasks waited
    pressed: int  # rounds
    confidence: float


def round_of(before: HostFact, now: HostFact, growth: int) -> Round | None:
    """Return the round between two records; `None`: there is none.

    The host has no PSI, it rebooted, its clock went back, or records in between are missing.

    Args:
        before: the record before.
        now: the newest record.
        growth: of the resident memory of all VMs, in bytes.
    """
    ms = now.at_ms - before.at_ms
    if before.stalled_us is None or now.stalled_us is None or now.stalled_us < before.stalled_us:
        return None
    if not 0 < ms <= STALE_INTERVALS * now.interval_s * 1000:
        return None
    taken = 0
    if before.available is not None and now.available is not None:
        taken = before.available - now.available
    stalled = min(1.0, (now.stalled_us - before.stalled_us) / 1000 / ms)
    return Round(ms, stalled, max(0, taken - growth))


def footprint_of(vm: VmFact) -> int | None:
    """Return what a VM's QEMU takes of the host, in RAM and in swap."""
    return None if vm.resident is None else vm.resident + vm.huge + vm.swapped


def demand_of(before: VmNoise, vm: VmFact) -> int | None:
    """Return what a VM has taken in addition since its record before; `None`: not known."""
    footprint = footprint_of(vm)
    if footprint is None or before.footprint is None or vm.at_ms <= before.at_ms:
        return None
    guest, traffic = vm.guest, 0
    swapped = None if guest is None or guest.epoch != before.epoch else guest.swapped
    if swapped is not None and before.swapped is not None:
        traffic = max(0, swapped - before.swapped)
    return max(0, footprint - before.footprint) + traffic


def baseline_of(before: float | None, demand: int | None, ms: int) -> float | None:
    """Return the baseline after a quiet round."""
    if demand is None:
        return before
    rate = demand * 1000 / ms
    return rate if before is None else before + BASELINE_WEIGHT * (rate - before)


def finding_of(rounds: Sequence[Round], noise: VmNoise, vms: Mapping[str, VmNoise]) -> Finding:
    """Return what the window of a host shows of one of its VMs.

    Args:
        rounds: of the host, the newest last.
        noise: of the VM.
        vms: all VMs of the host.
    """
    pressed = [back for back in range(1, len(rounds) + 1) if rounds[-back].is_pressed]
    all_demand = sum(rounds[-back].own for back in pressed)
    known = 0
    for each in vms.values():
        found = _demands(each, pressed)
        all_demand += sum(found)
        known += len(found) == len(pressed)
    own = sum(_demands(noise, pressed))
    seconds = sum(rounds[-back].ms for back in pressed) / 1000
    share = own / all_demand if all_demand else 0.0
    rate = own / seconds if seconds else 0.0
    holds = (
        len(pressed) >= PRESSED_MIN
        and share >= SHARE_MIN
        and rate >= BYTES_PER_S_MIN
        and rate >= TIMES_BASELINE * (noise.baseline or 0.0)
    )
    return Finding(
        holds=holds,
        share=share,
        bytes_per_s=rate,
        baseline=noise.baseline,
        stalled=sum(rounds[-back].stalled for back in pressed) / len(pressed) if pressed else 0.0,
        pressed=len(pressed),
        # A VM that has never been seen in a quiet round may always be like that.
        confidence=len(pressed) / ROUNDS * known / len(vms) * (0.5 if noise.baseline is None else 1.0),
    )


def _demands(noise: VmNoise, pressed: Sequence[int]) -> list[int]:
    found = [noise.demands[-back] for back in pressed if back <= len(noise.demands)]
    return [demand for demand in found if demand is not None]
