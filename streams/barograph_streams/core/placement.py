"""Which host a VM is counted on, and what each host says of it.

During a migration two hosts have records of a VM. It is counted on one of them: where its samples come from,
or else where it runs.
"""

from msgspec import Struct, UnsetType
from msgspec.structs import replace

from barograph_streams.core.facts import STALE_INTERVALS, Guest, LeftFact, VmFact, known
from barograph_streams.core.memory_documents import VmMemoryDocument
from barograph_streams.core.states import GONE, REPORTING, VmStateDocument

HOSTS_KEPT = 8
"""Of a VM, the newest by arrival."""

INTERVAL_S = 60
"""Of memory records, until one of the host arrives: `memory.interval` by default."""

DUPLICATE = "duplicate"
_RANKS = {REPORTING: 2, "paused": 0}


class Sight(Struct, array_like=True):
    """What one host says of a VM."""

    memory: VmFact | None = None  # as if the VM were counted there
    memory_run: str = ""
    memory_sequence: int = 0
    path: str = ""  # of the newest state
    state_run: str = ""
    state_sequence: int = 0
    state: str = ""  # the newest of both kinds of records
    state_ms: int = 0

    def runs_rather_than(self, other: "Sight") -> bool:
        """Whether the VM runs here rather than there. In migration it is paused on one of the hosts."""
        return _RANKS.get(self.state, 1) > _RANKS.get(other.state, 1) and not self.is_stale(other.state_ms)

    def is_stale(self, now_ms: int) -> bool:
        """Whether the newest record is too old at a time of the same, or nearly the same, clock."""
        interval_s = INTERVAL_S if self.memory is None else self.memory.interval_s
        return now_ms - self.state_ms > STALE_INTERVALS * interval_s * 1000


class Placement(Struct, array_like=True):
    """What is kept of a VM."""

    hosts: dict[str, Sight]  # in the order of arrival
    counted_on: str = ""  # the host's id; empty: none
    guest: Guest | None = None


def note_memory(placement: Placement, document: VmMemoryDocument) -> bool:
    """Record a VM's memory. Return False if it has arrived before."""
    before = placement.hosts.get(document.host.id)
    if before and before.memory_run == document.run and document.sequence <= before.memory_sequence:
        return False
    sight = _newest(placement, document.host.id)
    sight.memory_run, sight.memory_sequence = document.run, document.sequence
    sight.memory = _fact(document)
    if document.observed_at_ms >= sight.state_ms:
        sight.state, sight.state_ms = document.state, document.observed_at_ms
    _choose(placement)
    return True


def note_state(placement: Placement, document: VmStateDocument) -> bool:
    """Record a VM's state. Return False if it has arrived before, or is of a second monitor of the VM."""
    host, path = document.host.id, document.vm.path
    before = placement.hosts.get(host)
    if document.state == DUPLICATE:
        return False
    if before and before.path == path:
        if before.state_run == document.run and document.sequence <= before.state_sequence:
            return False
    elif before and before.path and document.state == GONE:
        return False
    sight = _newest(placement, host)
    sight.path, sight.state_run, sight.state_sequence = path, document.run, document.sequence
    sight.state, sight.state_ms = document.state, document.observed_at_ms
    _choose(placement)
    return True


def note_sample(placement: Placement, guest: Guest) -> None:
    """Record the newest sample of a VM. Where it comes from, the VM is counted."""
    placement.guest = guest
    sight = _newest(placement, guest.host)
    if guest.observed_at_ms >= sight.state_ms:
        sight.state, sight.state_ms = REPORTING, guest.observed_at_ms
    placement.counted_on = guest.host


def fact_of(placement: Placement, vm: str, host: str) -> VmFact | LeftFact | None:
    """Return what is known of a VM on a host; `None`: its memory is not known yet."""
    sight, guest = placement.hosts.get(host), placement.guest
    if sight is None or sight.state == GONE:
        return LeftFact(vm)
    if sight.memory is None:
        return None
    return replace(
        sight.memory,
        vm=vm,
        counted=placement.counted_on == host,
        state=sight.state,
        guest=guest if guest is not None and guest.host == host else None,
    )


def _newest(placement: Placement, host: str) -> Sight:
    """Return what a host says, after the others. The oldest are forgotten."""
    sight = placement.hosts.pop(host, None) or Sight()
    placement.hosts[host] = sight
    while len(placement.hosts) > HOSTS_KEPT:
        del placement.hosts[next(iter(placement.hosts))]
    return sight


def _choose(placement: Placement) -> None:
    """Choose where the VM is counted after a record of a host."""
    counted = placement.hosts.get(placement.counted_on)
    if counted is None or counted.state == GONE:
        counted, placement.counted_on = None, ""
    for host, other in placement.hosts.items():
        if other.state == GONE:
            continue
        if counted is None or counted.is_stale(other.state_ms) or other.runs_rather_than(counted):
            counted, placement.counted_on = other, host


def _fact(document: VmMemoryDocument) -> VmFact:
    configured, balloon, process = document.configured, document.balloon, document.process
    base = None if isinstance(configured, UnsetType) else configured.base_bytes
    plugged = 0 if isinstance(configured, UnsetType) else configured.plugged_bytes
    return VmFact(
        vm=document.vm.id,
        counted=True,
        at_ms=document.observed_at_ms,
        interval_s=document.interval_s,
        state=document.state,
        configured=None if base is None else base + plugged,
        base=base,
        actual=None if isinstance(balloon, UnsetType) else known(balloon.actual_bytes),
        deflates=not isinstance(balloon, UnsetType) and balloon.deflate_on_oom,
        resident=None if isinstance(process, UnsetType) else process.resident_bytes,
        swapped=0 if isinstance(process, UnsetType) else process.swap_bytes,
        huge=0 if isinstance(process, UnsetType) else process.hugetlb_bytes,
        guest=None,
    )
