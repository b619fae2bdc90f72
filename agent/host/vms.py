"""One look at the memory of all VMs on this host: their processes and their cgroups."""

from collections.abc import Iterable, Mapping

from agent.core.address import Address
from agent.core.reading import ProcessMemory
from agent.core.vm_memory import HostView, Subject
from agent.host.cgroups import ROOT, Cgroups
from agent.host.processes import read_process


def look(
    subjects: Iterable[Subject], now_ms: int, *, proc: str = "/proc", cgroups: str = ROOT
) -> Mapping[Address, HostView]:
    """Return what the host's files show of these VMs. Call it in a thread; no file is read twice."""
    below = Cgroups(cgroups)
    return {subject.address: _look(subject, now_ms, proc, below) for subject in subjects}


def _look(subject: Subject, now_ms: int, proc: str, cgroups: Cgroups) -> HostView:
    files = None if subject.peer is None else read_process(subject.peer, proc)
    if files is not None and files.mapped_bytes < subject.mapped_at_least_bytes:
        files = None  # not QEMU, but what opened the socket for it
    process = path = None
    if files is not None:
        process = ProcessMemory(files.resident_bytes, files.swap_bytes, files.hugetlb_bytes, now_ms)
        path = files.cgroup
    if path is None and subject.pod_uid is not None:
        path = cgroups.pod(subject.pod_uid)
    return HostView(process, None if path is None else cgroups.memory(path, now_ms))
