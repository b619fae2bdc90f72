"""The OTLP metrics of VMs: names, units and kinds.

schemas/metrics/registry.yaml declares the same metrics, and a test compares them. A name is never used again
for another quantity or unit, and is never the namespace of another name (semantic-conventions,
docs/general/naming.md). A statistic that a later QEMU adds and that is not listed here is sent under
`OTHER_PREFIX` as a gauge without a unit, since neither is known.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

SCHEMA_URL: Final = "https://barograph.invalid/schemas/1.0.0"
"""The name of the registry, which ends in its version. Nothing can be fetched there.

schemas/metrics/manifest.yaml has the same one. Source: OpenTelemetry specification, schemas/README.md,
"Schema URL".
"""

VM_ID: Final = "qemu.vm.id"
VM_NAME: Final = "qemu.vm.name"
VM_STATE: Final = "qemu.vm.state"
VM_PATH: Final = "qemu.vm.monitor.path"
VM_LABEL_PREFIX: Final = "qemu.vm.label."
VM_PREVIOUS_STATE: Final = "qemu.vm.previous_state"
VM_REASON: Final = "qemu.vm.state_reason"
AGENT_STATE: Final = "barograph.agent.state"
AGENT_PREVIOUS_STATE: Final = "barograph.agent.previous_state"
EVENT_ID: Final = "barograph.event.id"
EVENT_RUN: Final = "barograph.event.run"
EVENT_SEQUENCE: Final = "barograph.event.sequence"
EVENT_SINCE: Final = "barograph.event.since"
VM_EVENT: Final = "qemu.vm.state_change"
AGENT_EVENT: Final = "barograph.agent.state_change"
HOST_ID: Final = "host.id"
HOST_NAME: Final = "host.name"

OTHER_PREFIX: Final = "qemu.vm.guest.other."

Kind = Literal["counter", "updowncounter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `unit` is UCUM; `kind` is the type of its points.

    counter: monotonic cumulative Sum; updowncounter: cumulative Sum; gauge: Gauge. No gauge has the unit `1`,
    since Prometheus would append `_ratio` to its name.
    """

    name: str
    unit: str
    kind: Kind
    description: str


def prometheus_name(metric: Metric) -> str:
    """Return the metric's name in Prometheus 3, by its default translation.

    Source: OpenTelemetry specification, compatibility/prometheus_and_openmetrics.md, "OTLP Metric points to
    Prometheus": dots become underscores, the unit a suffix, a monotonic sum ends in `_total`.
    """
    return prometheus_family(metric) + ("_total" if metric.kind == "counter" else "")


def prometheus_family(metric: Metric) -> str:
    """Return `prometheus_name` without the suffix of counters: OpenMetrics calls it the family."""
    suffix = prometheus_unit(metric)
    return prometheus_label(metric.name) + (f"_{suffix}" if suffix else "")


def prometheus_unit(metric: Metric) -> str:
    """Return the unit as Prometheus writes it; "" for counts."""
    return {"By": "bytes", "s": "seconds"}.get(metric.unit, "")


def prometheus_label(attribute: str) -> str:
    """Return the Prometheus label of an attribute."""
    return _NO_LABEL.sub("_", attribute)


_NO_LABEL = re.compile(r"[^a-zA-Z0-9_]")

GUEST_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "free_memory": Metric(
            "qemu.vm.guest.memory.free",
            "By",
            "updowncounter",
            "Guest memory that nothing uses, not even as a cache.",
        ),
        "available_memory": Metric(
            "qemu.vm.guest.memory.available",
            "By",
            "updowncounter",
            "Guest memory available to programs without swapping, as the guest estimates it.",
        ),
        "total_memory": Metric(
            "qemu.vm.guest.memory.total",
            "By",
            "updowncounter",
            (
                "Memory managed by the guest: the VM's memory minus what the kernel reserves and, on"
                " Linux, the balloon."
            ),
        ),
        "disk_caches": Metric(
            "qemu.vm.guest.memory.caches",
            "By",
            "updowncounter",
            "Guest memory used to cache files; on Linux also buffers, tmpfs and shared memory.",
        ),
        "swap_in": Metric(
            "qemu.vm.guest.swap.in", "By", "counter", "Memory read back from the guest's swap."
        ),
        "swap_out": Metric("qemu.vm.guest.swap.out", "By", "counter", "Memory written to the guest's swap."),
        "minor_faults": Metric(
            "qemu.vm.guest.paging.faults",
            "{fault}",
            "counter",
            "Page faults in the guest; on Linux including the major ones.",
        ),
        "major_faults": Metric(
            "qemu.vm.guest.paging.major_faults",
            "{fault}",
            "counter",
            "Page faults in the guest that waited for a disk.",
        ),
        "htlb_pgalloc": Metric(
            "qemu.vm.guest.hugetlb.allocations",
            "{page}",
            "counter",
            "Huge pages that the guest kernel allocated from its page allocator.",
        ),
        "htlb_pgfail": Metric(
            "qemu.vm.guest.hugetlb.failures",
            "{page}",
            "counter",
            "Huge pages that the guest kernel could not allocate.",
        ),
        "oom_kills": Metric(
            "qemu.vm.guest.oom_kills",
            "{kill}",
            "counter",
            "Processes killed by the guest kernel because memory ran out.",
        ),
        "alloc_stalls": Metric(
            "qemu.vm.guest.allocation.stalls",
            "{stall}",
            "counter",
            "Allocations in the guest that waited for memory to be reclaimed.",
        ),
        "async_scans": Metric(
            "qemu.vm.guest.scans.async",
            "By",
            "counter",
            "Memory scanned by the guest's background reclaim (kswapd on Linux).",
        ),
        "direct_scans": Metric(
            "qemu.vm.guest.scans.direct",
            "By",
            "counter",
            "Memory scanned by programs in the guest that waited for memory (direct reclaim).",
        ),
        "async_reclaims": Metric(
            "qemu.vm.guest.reclaims.async",
            "By",
            "counter",
            "Memory reclaimed by the guest's background reclaim (kswapd on Linux).",
        ),
        "direct_reclaims": Metric(
            "qemu.vm.guest.reclaims.direct",
            "By",
            "counter",
            "Memory reclaimed by programs in the guest that waited for memory (direct reclaim).",
        ),
    }
)
"""The metrics of the guest, by name of the statistic in a sample. The time of a point is `last_update`."""

PRESSURE_LEVEL: Final = Metric(
    "qemu.vm.pressure.level",
    "{level}",
    "gauge",
    "Memory pressure in the guest: 0 none, 1 low, 2 pressure, 3 oom.",
)
PRESSURE_SCORE: Final = Metric(
    "qemu.vm.pressure.score",
    "{score}",
    "gauge",
    "Memory pressure in the guest at its last update, from 0 to 1.",
)
PRESSURE_METRICS: tuple[Metric, ...] = (PRESSURE_LEVEL, PRESSURE_SCORE)
"""What the agent derives from a guest's samples (core/pressure.py). The time of a point is `last_update`.

The level is one number, unlike `qemu.vm.state`: levels have an order, and states have none.
"""

STATE: Final = Metric(
    "qemu.vm.state",
    "1",
    "updowncounter",
    "1 for the current state of the VM, 0 for each other state (over OTLP, a 0 is sent at a change and once a"
    " minute).",
)
STATE_REASON: Final = Metric(
    "qemu.vm.state_reason",
    "1",
    "updowncounter",
    "1 for the current state and reason of the VM (over OTLP, the series of the previous reason ends).",
)
LAST_UPDATE: Final = Metric(
    "qemu.vm.last_update",
    "s",
    "gauge",
    "Time of the guest's last update, in Unix seconds of the host's clock.",
)
POLLING_INTERVAL: Final = Metric(
    "qemu.vm.polling.interval",
    "s",
    "gauge",
    "Interval at which QEMU polls the guest for statistics; 0: never.",
)
BALLOON_ACTUAL: Final = Metric(
    "qemu.vm.balloon.actual",
    "By",
    "updowncounter",
    "Memory of the guest as the host counts it: the VM's memory minus the balloon.",
)

MEMORY_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "configured": Metric(
            "qemu.vm.memory.configured",
            "By",
            "updowncounter",
            "Memory that the VM was given: its base memory, DIMMs, and what virtio-mem has plugged.",
        ),
        "rss": Metric(
            "qemu.vm.memory.rss",
            "By",
            "updowncounter",
            "Resident memory of the QEMU process, without huge pages.",
        ),
        "swap": Metric(
            "qemu.vm.memory.swap", "By", "updowncounter", "Memory of the QEMU process in the host's swap."
        ),
        "hugetlb": Metric("qemu.vm.memory.hugetlb", "By", "updowncounter", "Huge pages of the QEMU process."),
        "deflate_on_oom": Metric(
            "qemu.vm.balloon.deflate_on_oom",
            "1",
            "updowncounter",
            "1: the guest may take memory back from the balloon when it runs out; 0: it may not.",
        ),
        "cgroup_usage": Metric(
            "qemu.vm.cgroup.memory.usage",
            "By",
            "updowncounter",
            "Memory charged to the cgroup of the QEMU process, or of its pod.",
        ),
        "cgroup_limit": Metric(
            "qemu.vm.cgroup.memory.limit",
            "By",
            "updowncounter",
            "The lowest memory limit of that cgroup and those above it; absent: there is none.",
        ),
        "cgroup_swap": Metric(
            "qemu.vm.cgroup.memory.swap", "By", "updowncounter", "Swap charged to that cgroup."
        ),
        "pressure_some": Metric(
            "qemu.vm.cgroup.memory.pressure.some",
            "s",
            "counter",
            "Time in which at least one task of that cgroup waited for memory (PSI).",
        ),
        "pressure_full": Metric(
            "qemu.vm.cgroup.memory.pressure.full",
            "s",
            "counter",
            "Time in which all tasks of that cgroup waited for memory at the same time (PSI).",
        ),
    }
)
"""The metrics of the VM's memory as its host sees it, by name in contract/memory_values.py."""

HOST_METRICS: tuple[Metric, ...] = (
    STATE,
    STATE_REASON,
    LAST_UPDATE,
    POLLING_INTERVAL,
    BALLOON_ACTUAL,
    *MEMORY_METRICS.values(),
)
"""The metrics of the host. The time of a point is when it was observed."""
