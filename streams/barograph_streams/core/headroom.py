"""How much memory a host could have available, and how far it is overcommitted.

As in oVirt's MOM, a VM needs what its guest uses and a fifth of what its balloon leaves it; the rest could be
taken back. Source: `min_guest_free_percent` of MOM's doc/balloon.rules.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct

from barograph_streams.core.documents import SEQUENCE_MAX
from barograph_streams.core.facts import STALE_INTERVALS, HostFact, VmFact
from barograph_streams.core.states import REPORTING

RESERVE_DIVISOR = 5
"""Of a VM's actual memory, this part stays with it beside what it uses."""

SAMPLE_DELAY_MS = 5_000
"""Allowed for a sample beside three polling intervals, as the agent's `polling.stall_deadline` does."""


class LeftOut(StrEnum):
    """Why a VM has no part in what could be taken back."""

    ELSEWHERE = "elsewhere"  # in migration, and counted on the other host
    STALE = "stale"  # its memory record, or its newest sample, is too old
    UNSEEN = "unseen"  # the agent counts it, and no record of it has arrived
    NO_BALLOON = "no_balloon"
    HUGE_PAGES = "huge_pages"  # a balloon does not free them
    NO_STATISTICS = "no_statistics"  # its guest reports none, or not the two that are needed


class Sum(Struct, array_like=True, frozen=True):
    """A sum over those of the VMs that have the value."""

    bytes: int
    vms: int


class Headroom(Struct, array_like=True, frozen=True):
    """What a host's memory and VMs show, in bytes. `None`: the host's memory is not known."""

    total: int | None
    available: int | None
    vms: int  # counted on this host
    configured: Sum
    actual: Sum
    resident: Sum  # with huge pages
    reclaimable: Sum  # what guests could do without
    reclaimable_resident: Sum  # the part of it that certainly occupies the host
    unreported: Sum  # configured memory of VMs without current statistics
    unreported_vms: int
    left_out: Mapping[LeftOut, int]
    confidence: float  # from 0 to 1: the share of the VMs that `reclaimable` covers


def headroom_of(host: HostFact, vms: Iterable[VmFact]) -> Headroom:
    """Return what a host and its VMs show at the time of the host's record."""
    seen = list(vms)
    here = [vm for vm in seen if vm.counted and not _is_stale(vm, host)]
    left_out: dict[LeftOut, int] = {}
    parts: list[tuple[int, int | None]] = []
    unreported: list[VmFact] = []
    for vm in seen:
        part = _part_of(vm, host)
        if isinstance(part, LeftOut):
            left_out[part] = left_out.get(part, 0) + 1
        else:
            parts.append(part)
        if vm.counted and not _is_stale(vm, host) and not _reports(vm):
            unreported.append(vm)
    if host.vms > len(seen):
        left_out[LeftOut.UNSEEN] = host.vms - len(seen)
    should = sum(left_out.values()) - left_out.get(LeftOut.ELSEWHERE, 0) + len(parts)
    return Headroom(
        total=host.total,
        available=host.available,
        vms=len(here),
        configured=_sum(vm.configured for vm in here),
        actual=_sum(vm.actual for vm in here),
        resident=_sum(None if vm.resident is None else vm.resident + vm.huge for vm in here),
        reclaimable=_sum(part for part, _ in parts),
        reclaimable_resident=_sum(part for _, part in parts),
        unreported=_sum(vm.configured for vm in unreported),
        unreported_vms=len(unreported),
        left_out=dict(sorted(left_out.items())),
        confidence=len(parts) / should if should else 1.0,
    )


def _part_of(vm: VmFact, host: HostFact) -> tuple[int, int | None] | LeftOut:
    """Return what a VM could do without, and the part of it that occupies the host, if that is known."""
    if not vm.counted:
        return LeftOut.ELSEWHERE
    if _is_stale(vm, host):
        return LeftOut.STALE
    if vm.actual is None:
        return LeftOut.NO_BALLOON
    if vm.huge:
        return LeftOut.HUGE_PAGES
    guest = vm.guest
    if vm.state != REPORTING or guest is None or guest.used is None:
        return LeftOut.NO_STATISTICS
    longest_s = STALE_INTERVALS * max(vm.interval_s, guest.polling_interval_s)
    if vm.at_ms - guest.observed_at_ms > longest_s * 1000 + SAMPLE_DELAY_MS:
        return LeftOut.STALE
    used = guest.used
    if vm.deflates and vm.base is not None:  # Linux then counts the balloon as memory in use
        used = max(0, used - max(0, vm.base - vm.actual))
    needed = used + vm.actual // RESERVE_DIVISOR
    part = max(0, vm.actual - needed)
    return part, None if vm.resident is None else min(part, max(0, vm.resident - needed))


def _reports(vm: VmFact) -> bool:
    return vm.state == REPORTING and vm.guest is not None


def _is_stale(vm: VmFact, host: HostFact) -> bool:
    return host.at_ms - vm.at_ms > STALE_INTERVALS * vm.interval_s * 1000


def _sum(values: Iterable[int | None]) -> Sum:
    found = [value for value in values if value is not None]
    return Sum(min(sum(found), SEQUENCE_MAX), len(found))
