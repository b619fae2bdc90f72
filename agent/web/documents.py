"""`/healthz` and `/status` as JSON. Pure."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from agent.contract.payloads import (
    Agent,
    agent_state_document,
    host_memory_document,
    sample_document,
    state_document,
    vm_memory_document,
)
from agent.core import health
from agent.core.agent_state import AgentEvent
from agent.core.explanations import explain
from agent.core.health import Component
from agent.core.host_memory import HostMemoryEvent
from agent.core.pressure import PressureComponent, VmPressure
from agent.core.reading import VmView
from agent.core.urgency import since_ms_of

_SLICE_VMS = 25
_encoder = msgspec.json.Encoder()


def health_document(components: Mapping[str, Component]) -> dict[str, object]:
    """Return `/healthz`: the state of each component, since when, and why; `state` is the worst of them."""
    return {
        "state": health.overall(components).value,
        "components": {
            name: {"state": each.health.value, "since_ms": each.since_ms, "why": each.text}
            for name, each in components.items()
        },
    }


def age_s(view: VmView, now_ms: int) -> float | None:
    """Return the age of the newest update; `None`: there is none."""
    return None if view.last_update_s is None else max(0.0, now_ms / 1000 - view.last_update_s)


def status_parts(
    event: AgentEvent,
    identity: Agent,
    components: Mapping[str, Component],
    host_memory: HostMemoryEvent | None,
    views: Sequence[VmView],
    now_ms: int,
) -> Iterator[str]:
    """Yield `/status` in parts: the agent, its components, the host's memory, and every VM.

    `host`, `state`, `sample` and `memory` are the documents that readers of the topics get: schemas/host,
    schemas/state, schemas/sample and schemas/memory. `host` is null before the first reading. `pressure` is
    null before the first sample with origin `poll`; in it, a score that is null is not available.
    """
    head = {
        "agent": agent_state_document(event, identity),
        "health": health_document(components),
        "now_ms": now_ms,
        "host": None if host_memory is None else host_memory_document(host_memory, identity),
    }
    yield _encoder.encode(head).decode()[:-1] + ',"vms":['
    for start in range(0, len(views), _SLICE_VMS):
        documents = [vm_document(view, identity, now_ms) for view in views[start : start + _SLICE_VMS]]
        yield ("," if start else "") + _encoder.encode(documents).decode()[1:-1]
    yield "]}\n"


def vm_document(view: VmView, identity: Agent, now_ms: int) -> dict[str, object]:
    """Return one VM of `/status`."""
    return {
        "last_update": view.last_update_s,
        "age_s": age_s(view, now_ms),
        "since_ms": since_ms_of(view),
        "state": state_document(view.state, identity),
        "explanation": _explanation(view),
        "sample": None if view.sample is None else sample_document(view.sample, identity),
        "memory": None if view.memory is None else vm_memory_document(view.memory, identity),
        "pressure": None if view.pressure is None else _pressure(view.pressure),
    }


def _explanation(view: VmView) -> dict[str, str] | None:
    known = explain(view.state.state, view.state.reason)
    return None if known is None else {"meaning": known.meaning, "next_step": known.next_step}


def _pressure(pressure: VmPressure) -> dict[str, object]:
    return {
        "level": pressure.level.value,
        "since": pressure.since_s,
        "score": pressure.score,
        "last_update": pressure.last_update_s,
        "components": {each.value: pressure.components.get(each) for each in PressureComponent},
    }
