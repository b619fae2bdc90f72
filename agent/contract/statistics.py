"""The statistics that QEMU is known to give: what each means, in which unit, and since when.

Sources, for every row: names, QEMU 10.2 hw/virtio/virtio-balloon.c (balloon_stat_names) and Linux
include/uapi/linux/virtio_balloon.h; meaning, Linux 7.1 drivers/virtio/virtio_balloon.c
(update_balloon_stats), and for Windows virtio-win Balloon/app/memstat.cpp. The OASIS specification
defines the first ten only, and says that every one is optional. "About" marks a version that was not
looked up release by release.

schemas/sample holds the same table for readers, and a test compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class Statistic:
    """One statistic. `unit` is UCUM; a counter is cumulative since the guest booted."""

    name: str  # as in a sample
    unit: str
    kind: Literal["counter", "gauge"]
    description: str
    first_qemu: str
    first_linux: str  # the first guest kernel that gives it
    source: str  # in the guest's kernel

    @property
    def wire_name(self) -> str:
        """QEMU's name, e.g. `stat-free-memory`."""
        return "stat-" + self.name.replace("_", "-")


_TABLE = (
    Statistic(
        "swap_in",
        "By",
        "counter",
        "Read back from the guest's swap.",
        "2.5 or before",
        "2.6.34",
        "PSWPIN in pages",
    ),
    Statistic(
        "swap_out",
        "By",
        "counter",
        "Written to the guest's swap.",
        "2.5 or before",
        "2.6.34",
        "PSWPOUT in pages",
    ),
    Statistic(
        "major_faults",
        "{fault}",
        "counter",
        "Page faults that had to wait for a disk.",
        "2.5 or before",
        "2.6.34",
        "PGMAJFAULT",
    ),
    Statistic(
        "minor_faults",
        "{fault}",
        "counter",
        "Page faults. Linux counts all of them here, major ones too, whatever the name says; Windows' service"
        " wraps at 32 bits.",
        "2.5 or before",
        "2.6.34",
        "PGFAULT",
    ),
    Statistic(
        "free_memory",
        "By",
        "gauge",
        "Memory that nothing uses. Linux: MemFree. Windows: what it calls available, standby pages included.",
        "2.5 or before",
        "2.6.34",
        "si_meminfo freeram",
    ),
    Statistic(
        "total_memory",
        "By",
        "gauge",
        "Memory the guest manages: the VM's less what the kernel keeps (1.5 to 10 %). On Linux without"
        " deflate-on-oom also less the balloon; with it, and on Windows, the balloon does not lower it.",
        "2.5 or before",
        "2.6.34",
        "si_meminfo totalram",
    ),
    Statistic(
        "available_memory",
        "By",
        "gauge",
        "Memory that programs could still get without swapping, by the guest's estimate."
        " Linux: MemAvailable. Windows: free plus half the cache, which may be too much.",
        "2.6",
        "4.6",
        "si_mem_available",
    ),
    Statistic(
        "disk_caches",
        "By",
        "gauge",
        "Memory that caches files. Linux: page cache and buffers, and also swap cache, tmpfs and shared"
        " memory, which cannot be dropped.",
        "about 2.12",
        "about 4.16",
        "NR_FILE_PAGES in pages",
    ),
    Statistic(
        "htlb_pgalloc",
        "{page}",
        "counter",
        "Huge pages allocated from the page allocator. Windows: always 0.",
        "about 3.0",
        "about 4.18",
        "HTLB_BUDDY_PGALLOC",
    ),
    Statistic(
        "htlb_pgfail",
        "{page}",
        "counter",
        "Huge pages that could not be allocated. Windows: always 0.",
        "about 3.0",
        "about 4.18",
        "HTLB_BUDDY_PGALLOC_FAIL",
    ),
    Statistic(
        "oom_kills",
        "{kill}",
        "counter",
        "Processes killed because memory ran out.",
        "9.2",
        "6.12 or before, after 6.1",
        "OOM_KILL",
    ),
    Statistic(
        "alloc_stalls",
        "{stall}",
        "counter",
        "Allocations that had to wait for memory to be reclaimed.",
        "9.2",
        "6.12 or before, after 6.1",
        "ALLOCSTALL, all zones",
    ),
    Statistic(
        "async_scans",
        "By",
        "counter",
        "Scanned by background reclaim.",
        "9.2",
        "6.12 or before, after 6.1",
        "PGSCAN_KSWAPD in pages",
    ),
    Statistic(
        "direct_scans",
        "By",
        "counter",
        "Scanned by programs themselves while they waited for memory.",
        "9.2",
        "6.12 or before, after 6.1",
        "PGSCAN_DIRECT in pages",
    ),
    Statistic(
        "async_reclaims",
        "By",
        "counter",
        "Reclaimed by background reclaim.",
        "9.2",
        "6.12 or before, after 6.1",
        "PGSTEAL_KSWAPD in pages",
    ),
    Statistic(
        "direct_reclaims",
        "By",
        "counter",
        "Reclaimed by programs themselves while they waited for memory.",
        "9.2",
        "6.12 or before, after 6.1",
        "PGSTEAL_DIRECT in pages",
    ),
)

KNOWN_STATISTICS: Mapping[str, Statistic] = MappingProxyType({known.name: known for known in _TABLE})
"""By name, in the order of QEMU's tags."""

COUNTERS = frozenset(known.name for known in _TABLE if known.kind == "counter")
"""Those that only grow while a guest runs."""
