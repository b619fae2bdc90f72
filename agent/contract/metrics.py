"""The OTLP metrics: names, units and kinds. schemas/metrics/registry.yaml says the same, and a test compares.

A name is never used again for another quantity or unit. A statistic that is not listed here, since a later
QEMU has added it, goes out under `OTHER_PREFIX` as a gauge without a unit: neither is known.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

VM_ID: Final = "qemu.vm.id"
VM_NAME: Final = "qemu.vm.name"
VM_STATE: Final = "qemu.vm.state"
VM_PATH: Final = "qemu.vm.monitor.path"
VM_LABEL_PREFIX: Final = "qemu.vm.label."
HOST_ID: Final = "host.id"
HOST_NAME: Final = "host.name"

OTHER_PREFIX: Final = "qemu.vm.guest.other."

Kind = Literal["counter", "updowncounter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `unit` is UCUM; `kind` says how its points are added up.

    counter: monotonic cumulative Sum; updowncounter: cumulative Sum; gauge: Gauge.
    """

    name: str
    unit: str
    kind: Kind
    description: str


def prometheus_name(metric: Metric) -> str:
    """Return the name Prometheus 3 gives it by default.

    Source: OpenTelemetry specification, compatibility/prometheus_and_openmetrics.md, "OTLP Metric points to
    Prometheus": dots become underscores, the unit a suffix, a monotonic sum ends in `_total`.
    """
    return prometheus_family(metric) + ("_total" if metric.kind == "counter" else "")


def prometheus_family(metric: Metric) -> str:
    """Return the same without the ending of a counter: what OpenMetrics calls the family."""
    suffix = prometheus_unit(metric)
    return prometheus_label(metric.name) + (f"_{suffix}" if suffix else "")


def prometheus_unit(metric: Metric) -> str:
    """Return the unit as Prometheus writes it; "" for what is counted."""
    return {"By": "bytes", "s": "seconds"}.get(metric.unit, "")


def prometheus_label(attribute: str) -> str:
    """Return the label that an attribute becomes."""
    return _NO_LABEL.sub("_", attribute)


_NO_LABEL = re.compile(r"[^a-zA-Z0-9_]")

GUEST_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "free_memory": Metric(
            "qemu.vm.guest.memory.free",
            "By",
            "updowncounter",
            "Memory of the guest that nothing uses, not even a cache.",
        ),
        "available_memory": Metric(
            "qemu.vm.guest.memory.available",
            "By",
            "updowncounter",
            "Memory the guest estimates it could give to programs without swapping.",
        ),
        "total_memory": Metric(
            "qemu.vm.guest.memory.total",
            "By",
            "updowncounter",
            "Memory the guest manages: the VM's, less what its kernel keeps and, on Linux, the balloon.",
        ),
        "disk_caches": Metric(
            "qemu.vm.guest.memory.caches",
            "By",
            "updowncounter",
            "Memory of the guest that caches files; on Linux also buffers, tmpfs and shared memory.",
        ),
        "swap_in": Metric("qemu.vm.guest.swap.in", "By", "counter", "Read back from the guest's own swap."),
        "swap_out": Metric("qemu.vm.guest.swap.out", "By", "counter", "Written to the guest's own swap."),
        "minor_faults": Metric(
            "qemu.vm.guest.faults",
            "{fault}",
            "counter",
            "Page faults in the guest; on Linux all of them, the major ones too.",
        ),
        "major_faults": Metric(
            "qemu.vm.guest.faults.major",
            "{fault}",
            "counter",
            "Page faults in the guest that had to wait for a disk.",
        ),
        "htlb_pgalloc": Metric(
            "qemu.vm.guest.hugetlb.allocations",
            "{page}",
            "counter",
            "Huge pages that the guest's kernel allocated from its page allocator.",
        ),
        "htlb_pgfail": Metric(
            "qemu.vm.guest.hugetlb.failures",
            "{page}",
            "counter",
            "Huge pages that the guest's kernel could not allocate.",
        ),
        "oom_kills": Metric(
            "qemu.vm.guest.oom_kills",
            "{kill}",
            "counter",
            "Processes that the guest's kernel killed because memory ran out.",
        ),
        "alloc_stalls": Metric(
            "qemu.vm.guest.allocation.stalls",
            "{stall}",
            "counter",
            "Allocations in the guest that had to wait for memory to be reclaimed.",
        ),
        "async_scans": Metric(
            "qemu.vm.guest.scans.async",
            "By",
            "counter",
            "Scanned for reclaim by the guest's background reclaim (Linux: kswapd).",
        ),
        "direct_scans": Metric(
            "qemu.vm.guest.scans.direct",
            "By",
            "counter",
            "Scanned for reclaim by the guest's programs themselves, while they waited for memory.",
        ),
        "async_reclaims": Metric(
            "qemu.vm.guest.reclaims.async",
            "By",
            "counter",
            "Reclaimed by the guest's background reclaim (Linux: kswapd).",
        ),
        "direct_reclaims": Metric(
            "qemu.vm.guest.reclaims.direct",
            "By",
            "counter",
            "Reclaimed by the guest's programs themselves, while they waited for memory.",
        ),
    }
)
"""What the guest says, by the name the statistic has in a sample. Time of a point: `last_update`."""

STATE: Final = Metric(
    "qemu.vm.state",
    "1",
    "updowncounter",
    "1 for the state the VM is in, 0 for each of the others (over OTLP at a change and once a minute).",
)
LAST_UPDATE: Final = Metric(
    "qemu.vm.last_update",
    "s",
    "gauge",
    "When the guest's statistics last arrived at QEMU, in Unix seconds of the host's clock.",
)
POLLING_INTERVAL: Final = Metric(
    "qemu.vm.polling.interval",
    "s",
    "gauge",
    "How often QEMU asks the guest for its statistics; 0: never.",
)
BALLOON_ACTUAL: Final = Metric(
    "qemu.vm.balloon.actual",
    "By",
    "updowncounter",
    "Memory the guest has, as the host counts it: the VM's less the balloon.",
)

HOST_METRICS: tuple[Metric, ...] = (STATE, LAST_UPDATE, POLLING_INTERVAL, BALLOON_ACTUAL)
"""What the host knows. Time of a point: when it was observed."""
