"""The memory of the host and of all its VMs together: parsed from the kernel's texts, and summed. Pure.

A value that a text does not give, or gives in a form that cannot be right, is `None`: no 0 stands for it.

Sources: proc_meminfo(5); Linux Documentation/accounting/psi.rst, admin-guide/mm/ksm.rst and
admin-guide/mm/hugetlbpage.rst.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.core.numbers import EXACT_MAX
from agent.core.psi import Psi
from agent.core.reading import State, VmView
from agent.core.vm_memory import amounts


class FileFault(StrEnum):
    """Why a file of the kernel could not be used."""

    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Ram:
    """The host's memory and swap, in bytes."""

    total_bytes: int | None = None
    free_bytes: int | None = None
    available_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class HugePages:
    """The pool of huge pages of one size, in pages."""

    size_bytes: int
    total: int
    free: int | None
    reserved: int | None
    surplus: int | None


@dataclass(frozen=True, slots=True)
class Ksm:
    """Memory that the kernel merges. `profit_bytes` may be negative: the cost of merging is larger."""

    run: int | None = None  # 0: off, 1: on, 2: off, and all merged pages are split again
    shared_bytes: int | None = None
    sharing_bytes: int | None = None
    unshared_bytes: int | None = None
    profit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum over VMs, and how many of them it covers."""

    size_bytes: int
    vms: int


@dataclass(frozen=True, slots=True)
class VmShare:
    """One VM in the sums of its host. `None`: not known."""

    is_reporting: bool
    actual_bytes: int | None = None
    configured_bytes: int | None = None
    resident_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class VmSums:
    """The VMs of the host together. A sum is `None` if it covers no VM."""

    count: int
    reporting: int
    actual: Sum | None
    configured: Sum | None
    resident: Sum | None


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Everything the files say."""

    ram: Ram = Ram()
    huge_pages: Sequence[HugePages] = ()  # by size
    pressure: Psi | None = None
    ksm: Ksm | None = None


@dataclass(frozen=True, slots=True)
class HostMemoryEvent:
    """One reading of the host's memory."""

    sequence: int  # per agent run, from 1
    observed_at_ms: int
    interval_s: int
    memory: HostMemory
    vms: VmSums


# --- the kernel's texts ---

_MEMINFO = re.compile(rb"^([A-Za-z_]{1,64}): +([0-9]{1,15})( kB)?$", re.MULTILINE)
_NUMBER = re.compile(rb"-?[0-9]{1,16}")


def parse_meminfo(text: bytes) -> Mapping[str, int]:
    """Return the values of /proc/meminfo: sizes in bytes, counts of pages as they are."""
    found: dict[str, int] = {}
    for name, number, unit in _MEMINFO.findall(text):
        value = int(number) * (1024 if unit else 1)
        if value <= EXACT_MAX:
            found.setdefault(name.decode(), value)
    return found


def ram_of(meminfo: Mapping[str, int]) -> Ram:
    """Return the memory and the swap."""
    return Ram(
        *(meminfo.get(name) for name in ("MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree"))
    )


def default_huge_pages(meminfo: Mapping[str, int]) -> HugePages | None:
    """Return the pool of the default size; `None`: the kernel has no huge pages."""
    size_bytes, total = meminfo.get("Hugepagesize"), meminfo.get("HugePages_Total")
    if not size_bytes or total is None or size_bytes * total > EXACT_MAX:
        return None
    rest = (meminfo.get(f"HugePages_{name}") for name in ("Free", "Rsvd", "Surp"))
    return HugePages(size_bytes, total, *(None if each is None or each > total else each for each in rest))


def parse_number(text: bytes) -> int | None:
    """Return the one number of a file of sysfs; `None`: it is something else, or too large."""
    match = _NUMBER.fullmatch(text.strip())
    return None if match is None or abs(int(match[0])) > EXACT_MAX else int(match[0])


def ksm_of(numbers: Mapping[str, int], page_bytes: int) -> Ksm | None:
    """Return KSM from the numbers of its files, by name; `None`: the kernel has none of them."""
    if not numbers:
        return None

    def size(name: str) -> int | None:
        pages = numbers.get(name)
        return None if pages is None or not 0 <= pages * page_bytes <= EXACT_MAX else pages * page_bytes

    run = numbers.get("run")
    return Ksm(
        run if run in (0, 1, 2) else None,
        size("pages_shared"),
        size("pages_sharing"),
        size("pages_unshared"),
        numbers.get("general_profit"),
    )


# --- the VMs ---


def share_of(view: VmView) -> VmShare | None:
    """Return what a VM adds to the sums; `None`: it is gone, or counted under another path."""
    if view.state.state in (State.GONE, State.DUPLICATE):
        return None
    actual_bytes = None if view.balloon is None else view.balloon.actual_bytes
    known = None if view.memory is None else amounts(view.memory)
    return VmShare(
        view.state.state is State.REPORTING,
        actual_bytes,
        None if known is None else known.configured_bytes,
        None if known is None else known.resident_bytes,
    )


def sums_of(vms: Iterable[VmShare | None]) -> VmSums:
    """Return the sums over the VMs that are not `None`."""
    present = [each for each in vms if each is not None]
    return VmSums(
        count=len(present),
        reporting=sum(each.is_reporting for each in present),
        actual=_sum(each.actual_bytes for each in present),
        configured=_sum(each.configured_bytes for each in present),
        resident=_sum(each.resident_bytes for each in present),
    )


def _sum(sizes_bytes: Iterable[int | None]) -> Sum | None:
    # QEMU computes `actual` from a field that the guest writes: it may be near 2^64.
    known = [each for each in sizes_bytes if each is not None and 0 <= each <= EXACT_MAX]
    total = sum(known)
    return Sum(total, len(known)) if known and total <= EXACT_MAX else None
