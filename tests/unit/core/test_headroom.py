from dataclasses import replace

from agent.core.headroom import Headroom, headroom
from agent.core.host_memory import HostMemory, HostMemoryEvent, Ram, VmShare, sums_of
from agent.core.reading import Balloon, State
from tests.unit.sinks.views import sample, view

GIB = 1 << 30


def host(ram: Ram, configured_bytes: int | None = None) -> HostMemoryEvent:
    return HostMemoryEvent(1, 0, 60, HostMemory(ram), sums_of([VmShare(True, None, configured_bytes)]))


def test_the_unused_memory_of_a_vm_minus_a_reserve_is_headroom() -> None:
    newest = sample(statistics={"available_memory": 6 * GIB, "total_memory": 8 * GIB})
    idle = view(newest, balloon=Balloon(10 * GIB, 0))
    busy = view(
        sample(statistics={"available_memory": 0, "total_memory": 8 * GIB}), balloon=Balloon(8 * GIB, 0)
    )
    silent = view(newest, balloon=Balloon(10 * GIB, 0), state=State.STALLED)
    hostile = replace(idle, balloon=Balloon(2**64 - 1, 0))

    found = headroom(host(Ram(64 * GIB, available_bytes=GIB), 32 * GIB), [idle, busy, silent, hostile])

    assert found == Headroom(GIB, 6 * GIB, 0.5)


def test_without_values_of_the_host_its_headroom_is_unknown() -> None:
    assert headroom(host(Ram()), []) == Headroom(None, 0, None)
