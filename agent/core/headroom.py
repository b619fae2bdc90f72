"""How much memory the host could still give: what is available, and what its VMs do not use. Pure.

A VM does not need what its balloon leaves it beyond what its guest uses and a reserve of `RESERVE_SHARE`.
Source of the reserve: MOM's rules for the balloon (ovirt/mom, doc/balloon.rules): 20 %.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from agent.core.host_memory import HostMemoryEvent
from agent.core.numbers import EXACT_MAX
from agent.core.reading import State, VmView

RESERVE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Headroom:
    """The host's headroom. `None`: not known."""

    available_bytes: int | None  # of the host
    unused_by_vms_bytes: int  # over the VMs that report
    overcommit: float | None  # configured memory of the VMs, as a share of the host's


def headroom(host: HostMemoryEvent, views: Iterable[VmView]) -> Headroom:
    """Return the headroom of the host and its VMs."""
    ram, configured = host.memory.ram, host.vms.configured
    overcommit = None
    if configured is not None and ram.total_bytes:
        overcommit = configured.size_bytes / ram.total_bytes
    return Headroom(ram.available_bytes, sum(map(_unused_bytes, views)), overcommit)


def _unused_bytes(view: VmView) -> int:
    sample, balloon = view.sample, view.balloon
    if view.state.state is not State.REPORTING or sample is None or balloon is None:
        return 0
    available, total = (sample.statistics.get(name) for name in ("available_memory", "total_memory"))
    actual = balloon.actual_bytes
    if available is None or total is None or not 0 <= actual <= EXACT_MAX:
        return 0
    used = max(0, total - available)
    return max(0, round(actual * (1 - RESERVE_SHARE)) - used)
