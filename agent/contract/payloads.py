"""The documents that readers get, in terms of JSON. Tests compare their shapes with schemas/.

Text from outside is bounded here and nowhere else: `TEXT_MAX`, `PATH_MAX`, `MISSING_MAX`. The names and the
number of statistics are bounded when they are decoded (decode.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.agent_state import AgentEvent
from agent.core.host_memory import HostMemoryEvent, HugePages
from agent.core.labels import VALUE_MAX_CHARACTERS
from agent.core.numbers import EXACT_MAX
from agent.core.psi import Psi, Stall
from agent.core.reading import CgroupMemory, Sample, StateEvent, VmIdentity, VmMemory

SAMPLE_SCHEMA = "barograph.vm.sample/1.0"
STATE_SCHEMA = "barograph.vm.state/1.0"
AGENT_SCHEMA = "barograph.agent.state/1.0"
HOST_SCHEMA = "barograph.host.memory/1.0"
VM_MEMORY_SCHEMA = "barograph.vm.memory/1.0"

TEXT_MAX = 1024
"""Characters of a name or a sentence. QEMU's own limits for names are far below."""

PATH_MAX = 4096
"""Characters of a path: PATH_MAX of Linux, which counts bytes."""

MISSING_MAX = 256
"""Names in `missing`, the first in alphabetical order: a peer could send other names with each answer."""

Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class Agent:
    """The identity of the agent: its host, and this run."""

    host_id: str
    host_name: str
    run: str  # UUIDv7, new at each start
    version: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])  # constant, of the host


def sample_document(sample: Sample, agent: Agent) -> Document:
    """Return the value of a sample's record: schemas/sample."""
    document: Document = {
        "schema": SAMPLE_SCHEMA,
        "vm": _vm(sample.vm),
        "host": _host(agent),
        "via": sample.address.via.value,
        "epoch": sample.epoch,
        "sequence": sample.sequence,
        "last_update": sample.last_update_s,
        "observed_at_ms": sample.observed_at_ms,
        "origin": sample.origin.value,
        "missed_at_most": sample.missed_at_most,
        "polling_interval_s": sample.interval_s,
        "statistics": dict(sample.statistics),
    }
    if sample.previous is not None:
        document["previous"] = {"epoch": sample.previous.epoch, "sequence": sample.previous.sequence}
    if sample.run_state is not None:
        document["run_state"] = _text(sample.run_state)
    # QEMU computes `actual` from a field that the guest writes: it may be a number that JSON cannot carry.
    if sample.balloon is not None and sample.balloon.actual_bytes <= EXACT_MAX:
        document["balloon"] = {
            "actual_bytes": sample.balloon.actual_bytes,
            "observed_at_ms": sample.balloon.observed_at_ms,
        }
    if sample.missing:
        document["missing"] = sorted(sample.missing)[:MISSING_MAX]
    return document


def state_document(event: StateEvent, agent: Agent) -> Document:
    """Return the value of a state's record: schemas/state. Without identity, `vm` has only the path."""
    vm: Document = {} if event.vm is None else _vm(event.vm)
    vm["path"] = _text(str(event.address), PATH_MAX)
    document: Document = {
        "schema": STATE_SCHEMA,
        "vm": vm,
        "host": _host(agent),
        "via": event.address.via.value,
        "run": agent.run,
        "sequence": event.sequence,
        "state": event.state.value,
        "reason": _text(str(event.reason)),
        "detail": _text(event.detail),
        "since_ms": event.since_ms,
        "observed_at_ms": event.observed_at_ms,
        "heartbeat": event.heartbeat,
        "next_heartbeat_by_ms": event.next_heartbeat_by_ms,
    }
    optional = {
        "previous_state": None if event.previous_state is None else event.previous_state.value,
        "epoch": event.epoch,
        "last_sequence": event.last_sequence,
        "last_update": event.last_update_s,
        "polling_interval_s": event.interval_s,
        "run_state": None if event.run_state is None else _text(event.run_state),
    }
    return document | {name: value for name, value in optional.items() if value is not None}


def vm_memory_document(memory: VmMemory, agent: Agent) -> Document:
    """Return the value of the record of a VM's memory: schemas/memory. What is not known is absent."""
    document: Document = {
        "schema": VM_MEMORY_SCHEMA,
        "vm": _vm(memory.vm),
        "host": _host(agent),
        "via": memory.address.via.value,
        "run": agent.run,
        "sequence": memory.sequence,
        "observed_at_ms": memory.observed_at_ms,
        "interval_s": memory.interval_s,
        "state": memory.state.value,
    }
    if memory.configured is not None:
        document["configured"] = {
            "base_bytes": memory.configured.base_bytes,
            "plugged_bytes": memory.configured.plugged_bytes,
            "observed_at_ms": memory.configured.observed_at_ms,
        }
    balloon: Document = {}
    if memory.balloon is not None:
        balloon["actual_bytes"] = memory.balloon.actual_bytes
        balloon["observed_at_ms"] = memory.balloon.observed_at_ms
    if memory.deflate_on_oom is not None:
        balloon["deflate_on_oom"] = memory.deflate_on_oom
    if balloon:
        document["balloon"] = balloon
    if memory.process is not None:
        document["process"] = _present(
            resident_bytes=memory.process.resident_bytes,
            swap_bytes=memory.process.swap_bytes,
            hugetlb_bytes=memory.process.hugetlb_bytes,
            observed_at_ms=memory.process.observed_at_ms,
        )
    if memory.cgroup is not None:
        document["cgroup"] = _cgroup(memory.cgroup)
    return document


def _cgroup(cgroup: CgroupMemory) -> Document:
    return _present(
        path=_text(cgroup.path),
        current_bytes=cgroup.current_bytes,
        limit_bytes=cgroup.limit_bytes,
        swap_bytes=cgroup.swap_bytes,
        pressure=None if cgroup.pressure is None else _psi(cgroup.pressure),
        observed_at_ms=cgroup.observed_at_ms,
    )


def _present(**fields: object) -> Document:
    return {name: value for name, value in fields.items() if value is not None}


def agent_state_document(event: AgentEvent, agent: Agent) -> Document:
    """Return the value of the agent's own record: schemas/agent."""
    document: Document = {
        "schema": AGENT_SCHEMA,
        "host": _host(agent),
        "run": agent.run,
        "version": agent.version,
        "sequence": event.sequence,
        "state": event.state.value,
        "detail": _text(event.detail),
        "since_ms": event.since_ms,
        "observed_at_ms": event.observed_at_ms,
        "heartbeat": event.heartbeat,
        "next_heartbeat_by_ms": event.next_heartbeat_by_ms,
        "vms": {state.value: count for state, count in event.vms.items()},
        "counters": dict(event.counters),
    }
    if event.previous_state is not None:
        document["previous_state"] = event.previous_state.value
    return document


def host_memory_document(event: HostMemoryEvent, agent: Agent) -> Document:
    """Return the value of the host's memory record: schemas/host. What is not known is left out."""
    ram, pressure, ksm, vms = event.memory.ram, event.memory.pressure, event.memory.ksm, event.vms
    document: Document = {
        "schema": HOST_SCHEMA,
        "host": _host(agent),
        "run": agent.run,
        "sequence": event.sequence,
        "observed_at_ms": event.observed_at_ms,
        "interval_s": event.interval_s,
    }
    sums: Document = {"count": vms.count, "reporting": vms.reporting}
    for name, total in (("actual", vms.actual), ("configured", vms.configured), ("resident", vms.resident)):
        if total is not None:
            sums |= {f"{name}_bytes": total.size_bytes, f"{name}_vms": total.vms}
    parts = {
        "memory": _known(total=ram.total_bytes, free=ram.free_bytes, available=ram.available_bytes),
        "swap": _known(total=ram.swap_total_bytes, free=ram.swap_free_bytes),
        "huge_pages": [_huge_pages(each) for each in event.memory.huge_pages],
        "pressure": None if pressure is None else _psi(pressure),
        "ksm": {},
        "vms": sums,
    }
    if ksm is not None:
        parts["ksm"] = ({} if ksm.run is None else {"run": ksm.run}) | _known(
            shared=ksm.shared_bytes,
            sharing=ksm.sharing_bytes,
            unshared=ksm.unshared_bytes,
            profit=ksm.profit_bytes,
        )
    return document | {name: part for name, part in parts.items() if part}


def _known(**sizes_bytes: int | None) -> Document:
    return {f"{name}_bytes": size for name, size in sizes_bytes.items() if size is not None}


def _huge_pages(pages: HugePages) -> Document:
    rest = {"free": pages.free, "reserved": pages.reserved, "surplus": pages.surplus}
    known = {name: count for name, count in rest.items() if count is not None}
    return {"size_bytes": pages.size_bytes, "total": pages.total, **known}


def _psi(psi: Psi) -> Document:
    return _present(some=_stall(psi.some), full=None if psi.full is None else _stall(psi.full))


def _stall(stall: Stall) -> Document:
    return {
        "avg10": stall.avg10,
        "avg60": stall.avg60,
        "avg300": stall.avg300,
        "total_us": stall.total_us,
    }


def _vm(vm: VmIdentity) -> Document:
    document: Document = {"id": vm.id, "id_source": vm.id_source}
    if vm.uuid is not None:
        document["uuid"] = vm.uuid
    if vm.name is not None:
        document["name"] = _text(vm.name)
    if vm.labels:
        document["labels"] = {
            _text(name): _text(value, VALUE_MAX_CHARACTERS) for name, value in vm.labels.items()
        }
    return document


def _host(agent: Agent) -> Document:
    host: Document = {"id": agent.host_id, "name": _text(agent.host_name)}
    if agent.labels:
        host["labels"] = dict(agent.labels)
    return host


def _text(text: str, characters_max: int = TEXT_MAX) -> str:
    """Return `text` bounded, with "?" for lone surrogates, which UTF-8 cannot encode."""
    text = text[:characters_max]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
