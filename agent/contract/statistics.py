"""The statistics that QEMU can give: the meaning, unit and first version of each.

Sources of every row: for names, QEMU 10.2 hw/virtio/virtio-balloon.c (balloon_stat_names) and Linux
include/uapi/linux/virtio_balloon.h; for the meaning, Linux 7.1 drivers/virtio/virtio_balloon.c
(update_balloon_stats), and for Windows virtio-win Balloon/app/memstat.cpp. The OASIS specification
defines only the first ten, and all of them are optional. "About" marks a version that was not
verified release by release.

schemas/sample has the same table for readers, and a test compares them.
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
    first_linux: str  # the first guest kernel that has it
    source: str  # in the guest kernel

    @property
    def wire_name(self) -> str:
        """QEMU's name, e.g. `stat-free-memory`."""
        return "stat-" + self.name.replace("_", "-")


_TABLE = (
    Statistic(
        "swap_in",
        "By",
        "counter",
        "Memory read back from the guest's swap.",
        "2.5 or before",
        "2.6.34",
        "PSWPIN in pages",
    ),
    Statistic(
        "swap_out",
        "By",
        "counter",
        "Memory written to the guest's swap.",
        "2.5 or before",
        "2.6.34",
        "PSWPOUT in pages",
    ),
    Statistic(
        "major_faults",
        "{fault}",
        "counter",
        "Page faults that waited for a disk.",
        "2.5 or before",
        "2.6.34",
        "PGMAJFAULT",
    ),
    Statistic(
        "minor_faults",
        "{fault}",
        "counter",
        "Page faults. Despite the name, Linux counts all page faults here, including major ones. The"
        " Windows service wraps at 32 bits.",
        "2.5 or before",
        "2.6.34",
        "PGFAULT",
    ),
    Statistic(
        "free_memory",
        "By",
        "gauge",
        "Memory that nothing uses. Linux: MemFree. Windows: what Windows calls available, including"
        " standby pages.",
        "2.5 or before",
        "2.6.34",
        "si_meminfo freeram",
    ),
    Statistic(
        "total_memory",
        "By",
        "gauge",
        "Memory managed by the guest: the VM's memory less what the kernel reserves (1.5 to 10 %). On"
        " Linux without deflate-on-oom also less the balloon; with it, and on Windows, the balloon does"
        " not reduce this value.",
        "2.5 or before",
        "2.6.34",
        "si_meminfo totalram",
    ),
    Statistic(
        "available_memory",
        "By",
        "gauge",
        "Memory available to programs without swapping, as the guest estimates it. Linux: MemAvailable."
        " Windows: free memory plus half the cache, which may be too much.",
        "2.6",
        "4.6",
        "si_mem_available",
    ),
    Statistic(
        "disk_caches",
        "By",
        "gauge",
        "Memory used to cache files. Linux: page cache and buffers, and also swap cache, tmpfs and"
        " shared memory, which cannot be dropped.",
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
        "between 6.2 and 6.12",
        "OOM_KILL",
    ),
    Statistic(
        "alloc_stalls",
        "{stall}",
        "counter",
        "Allocations that waited for memory to be reclaimed.",
        "9.2",
        "between 6.2 and 6.12",
        "ALLOCSTALL, all zones",
    ),
    Statistic(
        "async_scans",
        "By",
        "counter",
        "Memory scanned by background reclaim.",
        "9.2",
        "between 6.2 and 6.12",
        "PGSCAN_KSWAPD in pages",
    ),
    Statistic(
        "direct_scans",
        "By",
        "counter",
        "Memory scanned by programs that waited for memory (direct reclaim).",
        "9.2",
        "between 6.2 and 6.12",
        "PGSCAN_DIRECT in pages",
    ),
    Statistic(
        "async_reclaims",
        "By",
        "counter",
        "Memory reclaimed by background reclaim.",
        "9.2",
        "between 6.2 and 6.12",
        "PGSTEAL_KSWAPD in pages",
    ),
    Statistic(
        "direct_reclaims",
        "By",
        "counter",
        "Memory reclaimed by programs that waited for memory (direct reclaim).",
        "9.2",
        "between 6.2 and 6.12",
        "PGSTEAL_DIRECT in pages",
    ),
)

KNOWN_STATISTICS: Mapping[str, Statistic] = MappingProxyType({known.name: known for known in _TABLE})
"""The statistics by name, in the order of QEMU's tags."""

COUNTERS = frozenset(known.name for known in _TABLE if known.kind == "counter")
"""The statistics that only increase while a guest runs."""
