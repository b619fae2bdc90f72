"""What is known of each VM's memory from outside its guest: which VMs have a record, and what it says. Pure.

A round makes one record for each VM of this host whose identity is known: also for one whose guest reports
nothing. It handles the VMs in slices with pauses between them, because one pass over the host's files of all
VMs would delay the readings of their balloons.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.core.address import Address
from agent.core.numbers import EXACT_MAX
from agent.core.poller import Poller
from agent.core.reading import CgroupMemory, Now, Peer, ProcessMemory, State, VmId, VmMemory
from agent.core.shares import Owner, is_pod, pod_uid

_POD_UID = re.compile(r"/pods/(?P<uid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/")
"""In the path of a volume, as the kubelet makes it: /var/lib/kubelet/pods/UID/volumes/... Of a configured URI
only: another user can give a directory such a path."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One VM, as the host's files are searched for it."""

    address: Address
    peer: Peer | None  # QEMU's process; None: not known
    pod_uid: str | None  # the pod that contains the VM
    mapped_at_least_bytes: int  # QEMU maps the guest's memory: a process with less is not QEMU


@dataclass(frozen=True, slots=True)
class HostView:
    """What the host's files show of one VM."""

    process: ProcessMemory | None
    cgroup: CgroupMemory | None


NOTHING_SEEN = HostView(None, None)

SLICE_VMS = 20
"""So many VMs take some 20 ms of CPU."""

SLICE_PAUSE_S = 0.4
"""Between two slices. 100 VMs take less than the default of `kafka.linger`: their records fill one batch."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """The sizes of one VM that are added up for the host. `None`: not known."""

    configured_bytes: int | None
    actual_bytes: int | None
    resident_bytes: int | None


def slices(ids: Sequence[VmId]) -> Iterator[Sequence[VmId]]:
    """Yield the VMs of a round, slice by slice."""
    for first in range(0, len(ids), SLICE_VMS):
        yield ids[first : first + SLICE_VMS]


def pause_s(vms: int, interval_s: float) -> float:
    """Return the pause between two slices. A round of so many VMs takes at most half of the interval."""
    return min(SLICE_PAUSE_S, interval_s * SLICE_VMS / max(2 * vms, 1))


def chosen(pollers: Iterable[Poller]) -> Mapping[VmId, Poller]:
    """Return the VMs that have a record: each identity once, and none that has ended."""
    by_id: dict[VmId, Poller] = {}
    for poller in pollers:
        identity, reported = poller.process.identity, poller.reported
        if identity is None or reported is None:
            continue
        if reported.verdict.state not in (State.GONE, State.DUPLICATE):
            by_id.setdefault(identity.id, poller)
    return by_id


def subject(poller: Poller, owner: Owner) -> Subject:
    """Return what to look for in the host's files. `owner` is that of the VM's share."""
    address, configured = poller.endpoint.address, poller.process.configured
    base_bytes = 0 if configured is None else configured.base_bytes
    return Subject(address, poller.process.peer, _pod_of(owner), base_bytes)


def _pod_of(owner: Owner) -> str | None:
    if is_pod(owner) or not isinstance(owner, str):
        return pod_uid(owner)
    found = _POD_UID.search(owner)
    return None if found is None else found["uid"]


def describe(
    poller: Poller, seen: Mapping[Address, HostView], *, sequence: int, interval_s: int, now: Now
) -> VmMemory:
    """Return the record of one of the `chosen` VMs.

    Args:
        poller: the VM.
        seen: what the host's files show, by address.
        sequence: the number of this round in the run, from 1.
        interval_s: the time between two rounds.
        now: the instant of the record.
    """
    process, reported = poller.process, poller.reported
    assert process.identity is not None
    assert reported is not None
    view = seen.get(poller.endpoint.address, NOTHING_SEEN)
    memory = view.process
    if memory is None and process.resident is not None:
        memory = ProcessMemory(process.resident.resident_bytes, None, None, process.resident.observed_at_ms)
    has_balloon = process.balloon_path is not None
    balloon = process.balloon if has_balloon else None
    return VmMemory(
        vm=process.identity,
        address=poller.endpoint.address,
        sequence=sequence,
        observed_at_ms=now.unix_ms,
        interval_s=interval_s,
        state=reported.verdict.state,
        configured=process.configured,
        # The guest writes a field that QEMU computes `actual` from: it may be any number.
        balloon=None if balloon is None or not 0 <= balloon.actual_bytes <= EXACT_MAX else balloon,
        deflate_on_oom=process.deflate_on_oom if has_balloon else None,
        process=memory,
        cgroup=view.cgroup,
    )


def amounts(memory: VmMemory) -> Amounts:
    """Return the sizes of a VM, for the sums of its host."""
    configured, balloon, process = memory.configured, memory.balloon, memory.process
    return Amounts(
        None if configured is None else configured.base_bytes + configured.plugged_bytes,
        None if balloon is None else balloon.actual_bytes,
        None if process is None else process.resident_bytes + (process.hugetlb_bytes or 0),
    )
