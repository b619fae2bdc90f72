"""Tests of parsing the memory files of several kernels, and text that no kernel writes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.host_metrics import HOST_MEMORY
from agent.core.host_memory import (
    HostMemory,
    HugePages,
    Ksm,
    Ram,
    Sum,
    VmShare,
    default_huge_pages,
    ksm_of,
    parse_meminfo,
    parse_number,
    ram_of,
    share_of,
    sums_of,
)
from agent.core.numbers import EXACT_MAX
from agent.core.psi import parse_psi
from agent.core.reading import Balloon, State
from tests.golden.documents import HOST_MEMORY_EVENT
from tests.unit.sinks.views import sample, view

# Linux 6.1 with a pool of 2 MiB pages and swap; lines that are not read are left out.
HUGE = b"""MemTotal:       65862736 kB
MemFree:         1186512 kB
MemAvailable:   20945560 kB
Buffers:          413136 kB
Active(anon):       2032 kB
SwapTotal:       8388604 kB
SwapFree:        8380000 kB
HugePages_Total:   16384
HugePages_Free:     1024
HugePages_Rsvd:       12
HugePages_Surp:        0
Hugepagesize:       2048 kB
Hugetlb:        33554432 kB
DirectMap1G:    25165824 kB
"""

# Linux 3.10 without CONFIG_HUGETLB_PAGE: no MemAvailable before 3.14.
OLD = b"""MemTotal:        1922356 kB
MemFree:          156128 kB
SwapTotal:             0 kB
SwapFree:              0 kB
"""


def test_a_host_with_huge_pages_and_swap_is_parsed() -> None:
    meminfo = parse_meminfo(HUGE)

    assert ram_of(meminfo) == Ram(
        65862736 * 1024, 1186512 * 1024, 20945560 * 1024, 8388604 * 1024, 8380000 * 1024
    )
    assert default_huge_pages(meminfo) == HugePages(2 << 20, 16384, 1024, 12, 0)


def test_an_old_kernel_without_swap_and_huge_pages_is_parsed() -> None:
    meminfo = parse_meminfo(OLD)

    assert ram_of(meminfo) == Ram(1922356 * 1024, 156128 * 1024, None, 0, 0)
    assert default_huge_pages(meminfo) is None


@pytest.mark.parametrize(
    "line",
    [
        b"MemTotal: -1 kB",
        b"MemTotal: 1.5 kB",
        b"MemTotal: 1 MB",
        b"MemTotal: 999999999999999 kB",  # above 2^53 bytes
        b"MemTotal: 18446744073709551615 kB",
        b"MemTotal:",
        b"MemTotal\0: 1 kB",
        b"x" * (1 << 20),
    ],
)
def test_an_impossible_value_is_absent_and_the_others_are_present(line: bytes) -> None:
    assert ram_of(parse_meminfo(line + b"\nMemFree: 1 kB\n")) == Ram(free_bytes=1024)


def test_the_first_of_two_lines_counts() -> None:
    assert parse_meminfo(b"MemTotal: 1 kB\nMemTotal: 2 kB\n") == {"MemTotal": 1024}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"7\n", 7),
        (b"-4096\n", -4096),
        (b"", None),
        (b"1 2", None),
        (b"0x10", None),
        (b"9" * 16, None),
        (b"9" * 20, None),
        (str(EXACT_MAX).encode(), EXACT_MAX),
    ],
)
def test_a_number_of_sysfs_is_parsed(text: bytes, number: int | None) -> None:
    assert parse_number(text) == number


def test_ksm_counts_pages_and_its_profit_may_be_negative() -> None:
    numbers = {"run": 1, "pages_shared": 10, "pages_sharing": 40, "pages_unshared": 3, "general_profit": -64}

    assert ksm_of(numbers, 4096) == Ksm(1, 40960, 163840, 12288, -64)
    assert ksm_of({"run": 9, "pages_shared": -1, "pages_sharing": EXACT_MAX}, 4096) == Ksm()
    assert ksm_of({}, 4096) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed(text: bytes) -> None:
    parse_meminfo(text)
    parse_psi(text)
    parse_number(text)


def test_sums_have_the_number_of_vms_that_they_cover() -> None:
    vms = [
        VmShare(True, 100, 1000, None),
        VmShare(True, 200, None, None),
        VmShare(False, 2**64 - 4096, None, None),  # a guest that reports too many pages
        None,
    ]

    sums = sums_of(vms)

    assert (sums.count, sums.reporting) == (3, 2)
    assert (sums.actual, sums.configured, sums.resident) == (Sum(300, 2), Sum(1000, 1), None)
    assert sums_of([VmShare(True, EXACT_MAX), VmShare(True, 1)]).actual is None
    assert sums_of([]).count == 0


def test_a_vm_that_is_gone_or_a_duplicate_is_not_counted() -> None:
    reporting = replace(view(sample()), balloon=Balloon(128 << 20, 1))

    assert share_of(reporting) == VmShare(True, 128 << 20)
    assert share_of(view(unknown=True, state=State.CONNECTING)) == VmShare(False)
    for state in (State.GONE, State.DUPLICATE):
        assert share_of(view(state=state)) is None


def test_an_unknown_value_has_no_data_point() -> None:
    nothing = replace(HOST_MEMORY_EVENT, memory=HostMemory(), vms=sums_of([]))

    assert [each.metric.name for each in HOST_MEMORY if list(each.values(nothing))] == []
    known = {each.metric.name: list(each.values(HOST_MEMORY_EVENT)) for each in HOST_MEMORY}
    assert known["qemu.host.memory.pressure.some"] == [(1.234567, {})]
    assert known["qemu.host.memory.hugepages.free"] == [
        (100 * (2 << 20), {"qemu.host.hugepage.size": "2097152"}),
        (2 << 30, {"qemu.host.hugepage.size": "1073741824"}),
    ]
    assert {name for name, values in known.items() if not values} == {
        "qemu.host.memory.vms.configured",
        "qemu.host.memory.vms.resident",
    }
