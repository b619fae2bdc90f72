"""The values of a VM's memory record as points of metrics: the same over OTLP and for scrapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.core.psi import Psi, Stall
from agent.core.reading import CgroupMemory, ProcessMemory, VmMemory


@dataclass(frozen=True, slots=True)
class Point:
    """A value, and when it was observed."""

    value: float
    observed_at_ms: int


def _configured(memory: VmMemory) -> Point | None:
    configured = memory.configured
    if configured is None:
        return None
    return Point(configured.base_bytes + configured.plugged_bytes, configured.observed_at_ms)


def _deflate_on_oom(memory: VmMemory) -> Point | None:
    if memory.deflate_on_oom is None:
        return None
    return Point(int(memory.deflate_on_oom), memory.observed_at_ms)


def _process(value: Callable[[ProcessMemory], int | None]) -> Callable[[VmMemory], Point | None]:
    def point(memory: VmMemory) -> Point | None:
        process = memory.process
        found = None if process is None else value(process)
        return None if process is None or found is None else Point(found, process.observed_at_ms)

    return point


def _cgroup(value: Callable[[CgroupMemory], float | None]) -> Callable[[VmMemory], Point | None]:
    def point(memory: VmMemory) -> Point | None:
        cgroup = memory.cgroup
        found = None if cgroup is None else value(cgroup)
        return None if cgroup is None or found is None else Point(found, cgroup.observed_at_ms)

    return point


def _stalled(stall: Callable[[Psi], Stall | None]) -> Callable[[VmMemory], Point | None]:
    def seconds(cgroup: CgroupMemory) -> float | None:
        found = None if cgroup.pressure is None else stall(cgroup.pressure)
        return None if found is None else found.total_us / 1_000_000

    return _cgroup(seconds)


MEMORY_VALUES: Mapping[str, Callable[[VmMemory], Point | None]] = {
    "configured": _configured,
    "rss": _process(lambda process: process.resident_bytes),
    "swap": _process(lambda process: process.swap_bytes),
    "hugetlb": _process(lambda process: process.hugetlb_bytes),
    "deflate_on_oom": _deflate_on_oom,
    "cgroup_usage": _cgroup(lambda cgroup: cgroup.current_bytes),
    "cgroup_limit": _cgroup(lambda cgroup: cgroup.limit_bytes),
    "cgroup_swap": _cgroup(lambda cgroup: cgroup.swap_bytes),
    "pressure_some": _stalled(lambda psi: psi.some),
    "pressure_full": _stalled(lambda psi: psi.full),
}
"""By the names of `metrics.MEMORY_METRICS`. `None`: not known."""
