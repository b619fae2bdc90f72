"""What is known of each VM's memory from outside its guest: which VMs have a record, and what it says. Pure.

A round reads the host's files of all VMs at once, and makes one record for each VM of this host whose
identity is known: also for one whose guest reports nothing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.core.address import Address
from agent.core.numbers import EXACT_MAX
from agent.core.poller import Poller
from agent.core.reading import CgroupMemory, Now, Peer, ProcessMemory, State, VmId, VmMemory

_POD_UID = re.compile(r"/pods/(?P<uid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/")
"""In the path of a volume, as the kubelet makes it: /var/lib/kubelet/pods/UID/volumes/..."""


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


@dataclass(frozen=True, slots=True)
class Amounts:
    """The sizes of one VM that are added up for the host. `None`: not known."""

    configured_bytes: int | None
    actual_bytes: int | None
    resident_bytes: int | None


def chosen(pollers: Iterable[Poller]) -> list[Poller]:
    """Return the VMs that have a record: each identity once, and none that has ended."""
    by_id: dict[VmId, Poller] = {}
    for poller in pollers:
        identity, reported = poller.process.identity, poller.reported
        if identity is None or reported is None:
            continue
        if reported.verdict.state not in (State.GONE, State.DUPLICATE):
            by_id.setdefault(identity.id, poller)
    return list(by_id.values())


def subject(poller: Poller) -> Subject:
    """Return what to look for in the host's files."""
    address, configured = poller.endpoint.address, poller.process.configured
    found = _POD_UID.search(str(address))
    base_bytes = 0 if configured is None else configured.base_bytes
    return Subject(address, poller.process.peer, None if found is None else found["uid"], base_bytes)


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
