"""Reads the kernel's files about the host's memory, each once. Blocks: the caller has a thread for it.

In a container, /proc/meminfo and /proc/pressure/memory are the host's, unless lxcfs replaces the former.
"""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.host_memory import (
    FileFault,
    HostMemory,
    HugePages,
    default_huge_pages,
    ksm_of,
    parse_meminfo,
    parse_number,
    ram_of,
)
from agent.core.psi import parse_psi

FILE_BYTES_MAX = 16 * 1024
"""Ten times /proc/meminfo, the largest of them."""

HUGE_PAGE_SIZES_MAX = 16
"""An architecture has 2 to 6."""

_MEMINFO = "proc/meminfo"
_PRESSURE = "proc/pressure/memory"
_KSM = "sys/kernel/mm/ksm"
_KSM_FILES = ("run", "pages_shared", "pages_sharing", "pages_unshared", "general_profit")
_HUGE_PAGES = "sys/kernel/mm/hugepages"
_HUGE_PAGE_FILES = ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages")

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EOPNOTSUPP})
"""The kernel was built or started without it. PSI that is off at boot gives EOPNOTSUPP at the first read."""


@dataclass(slots=True)
class Contents:
    """What has been read so far. Written by the thread that reads, and taken by another if that hangs."""

    texts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    faults: dict[str, FileFault] = field(default_factory=dict[str, FileFault])
    reading: str | None = None  # the file that is being read


def read_files(contents: Contents, root: Path = Path("/")) -> None:
    """Read every file that is there into `contents`. An error of one file does not affect the others."""
    for name in (_MEMINFO, _PRESSURE, *(f"{_KSM}/{each}" for each in _KSM_FILES)):
        _read(contents, root, name)
    contents.reading = _HUGE_PAGES
    try:
        sizes = sorted(each for each in os.listdir(root / _HUGE_PAGES) if each.startswith("hugepages-"))
    except OSError as error:
        _failed(contents, _HUGE_PAGES, error)
        sizes = []
    for size in sizes[:HUGE_PAGE_SIZES_MAX]:
        for each in _HUGE_PAGE_FILES:
            _read(contents, root, f"{_HUGE_PAGES}/{size}/{each}")
    contents.reading = None


def parsed(contents: Contents, page_bytes: int) -> tuple[HostMemory, dict[str, FileFault]]:
    """Return the memory, and why each file that is there could not be used."""
    texts, faults = dict(contents.texts), dict(contents.faults)
    meminfo = parse_meminfo(texts.get(_MEMINFO, b""))
    if _MEMINFO in texts and "MemTotal" not in meminfo:
        faults[_MEMINFO] = FileFault.MALFORMED
    pressure = parse_psi(texts.get(_PRESSURE, b""))
    if _PRESSURE in texts and pressure is None:
        faults[_PRESSURE] = FileFault.MALFORMED
    numbers: dict[str, int] = {}
    for name, text in texts.items():
        if name.startswith("sys/"):
            number = parse_number(text)
            if number is None:
                faults[name] = FileFault.MALFORMED
            else:
                numbers[name] = number
    ksm = {each: numbers[name] for each in _KSM_FILES if (name := f"{_KSM}/{each}") in numbers}
    pages = _huge_pages(numbers)
    if not pages and (default := default_huge_pages(meminfo)) is not None:
        pages = (default,)
    return HostMemory(ram_of(meminfo), pages, pressure, ksm_of(ksm, page_bytes)), faults


def _huge_pages(numbers: dict[str, int]) -> tuple[HugePages, ...]:
    """Return the pools by size, from the files of sysfs."""
    found: list[HugePages] = []
    for folder in {os.path.dirname(name) for name in numbers if name.startswith(f"{_HUGE_PAGES}/")}:
        size_kib = folder.rpartition("hugepages-")[2].removesuffix("kB")
        total, *rest = (numbers.get(f"{folder}/{each}") for each in _HUGE_PAGE_FILES)
        if not size_kib.isdecimal() or len(size_kib) > 10 or total is None or total < 0:
            continue
        free, reserved, surplus = (None if each is None or each < 0 else each for each in rest)
        found.append(HugePages(int(size_kib) * 1024, total, free, reserved, surplus))
    return tuple(sorted(found, key=lambda each: each.size_bytes))


def _read(contents: Contents, root: Path, name: str) -> None:
    contents.reading = name
    try:
        file = os.open(root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            text = os.read(file, FILE_BYTES_MAX + 1)
        finally:
            os.close(file)
    except OSError as error:
        _failed(contents, name, error)
        return
    if len(text) > FILE_BYTES_MAX:
        contents.faults[name] = FileFault.TOO_LARGE
    else:
        contents.texts[name] = text


def _failed(contents: Contents, name: str, error: OSError) -> None:
    if error.errno not in _NOT_THERE:
        contents.faults[name] = FileFault.UNREADABLE
