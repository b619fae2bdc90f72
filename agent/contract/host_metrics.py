"""The metrics of the host's memory, over OTLP and at `/metrics`, and their values in a reading.

schemas/metrics/registry.yaml declares the same metrics, and a test compares them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from agent.contract.metrics import Kind, Metric
from agent.core.host_memory import HostMemoryEvent, HugePages, Ksm, Sum
from agent.core.psi import Stall

HUGE_PAGE_SIZE: Final = "qemu.host.hugepage.size"

Values: TypeAlias = Iterable[tuple[float, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class HostMetric:
    """A metric, the attributes of its points, and what a reading gives for it: nothing if it is not known."""

    metric: Metric
    values: Callable[[HostMemoryEvent], Values]
    attributes: tuple[str, ...] = ()


def _one(value: float | None) -> Values:
    return () if value is None else ((value, {}),)


def _row(
    name: str,
    description: str,
    value: Callable[[HostMemoryEvent], float | None],
    unit: str = "By",
    kind: Kind = "updowncounter",
) -> HostMetric:
    metric = Metric(f"qemu.host.memory.{name}", unit, kind, description)
    return HostMetric(metric, lambda event: _one(value(event)))


def _pool(name: str, description: str, pages: Callable[[HugePages], int | None]) -> HostMetric:
    def values(event: HostMemoryEvent) -> Iterator[tuple[float, Mapping[str, str]]]:
        for each in event.memory.huge_pages:
            count = pages(each)
            if count is not None:
                yield count * each.size_bytes, {HUGE_PAGE_SIZE: str(each.size_bytes)}

    metric = Metric(f"qemu.host.memory.hugepages.{name}", "By", "updowncounter", description)
    return HostMetric(metric, values, (HUGE_PAGE_SIZE,))


def _stalled_s(stall: Stall | None) -> float | None:
    return None if stall is None else stall.total_us / 1_000_000


def _ksm(value: Callable[[Ksm], int | None]) -> Callable[[HostMemoryEvent], float | None]:
    return lambda event: None if event.memory.ksm is None else value(event.memory.ksm)


def _bytes(total: Sum | None) -> int | None:
    return None if total is None else total.size_bytes


# fmt: off
HOST_MEMORY: tuple[HostMetric, ...] = (
    _row("limit", "Memory of the host (MemTotal).", lambda event: event.memory.ram.total_bytes),
    _row("free", "Memory of the host that is not used (MemFree).",
         lambda event: event.memory.ram.free_bytes),
    _row("available", "Memory of the host available without swapping, an estimate (MemAvailable).",
         lambda event: event.memory.ram.available_bytes),
    _row("swap.limit", "Swap of the host; 0: it has none.", lambda event: event.memory.ram.swap_total_bytes),
    _row("swap.free", "Swap of the host that is not used.", lambda event: event.memory.ram.swap_free_bytes),
    _pool("limit", "Huge pages in the host's pool, by size.", lambda pages: pages.total),
    _pool("free", "Huge pages in the pool that are not allocated, by size.", lambda pages: pages.free),
    _pool("reserved", "Huge pages in the pool that are promised and not allocated yet, by size.",
          lambda pages: pages.reserved),
    _pool("surplus", "Huge pages above the configured size of the pool, by size.",
          lambda pages: pages.surplus),
    _row("pressure.some", "Time in which at least one task of the host waited for memory (PSI).",
         lambda event: None if event.memory.pressure is None else _stalled_s(event.memory.pressure.some),
         "s", "counter"),
    _row("pressure.full", "Time in which all tasks of the host waited for memory at once (PSI).",
         lambda event: None if event.memory.pressure is None else _stalled_s(event.memory.pressure.full),
         "s", "counter"),
    _row("ksm.shared", "Memory that KSM keeps for merged pages.", _ksm(lambda ksm: ksm.shared_bytes)),
    _row("ksm.sharing", "Memory that KSM saves: further uses of merged pages.",
         _ksm(lambda ksm: ksm.sharing_bytes)),
    _row("ksm.unshared", "Memory that KSM checks again and again without finding a twin.",
         _ksm(lambda ksm: ksm.unshared_bytes)),
    _row("ksm.profit", "Memory that KSM saves, minus the memory that it uses itself; may be negative.",
         _ksm(lambda ksm: ksm.profit_bytes)),
    _row("vms.actual", "Sum of the balloon values (actual) of all VMs with a known value.",
         lambda event: _bytes(event.vms.actual)),
    _row("vms.configured", "Sum of the configured memory of all VMs with a known value.",
         lambda event: _bytes(event.vms.configured)),
    _row("vms.resident", "Sum of the resident memory of all VMs with a known value.",
         lambda event: _bytes(event.vms.resident)),
)
# fmt: on
"""All of them, in the order of the documentation."""
