"""`/healthz` and `/status` as JSON. Pure."""

from collections.abc import Iterator, Mapping

import msgspec

from agent.contract.encode import agent_state_document, sample_document, state_document
from agent.core import health
from agent.core.health import Component
from agent.core.reading import VmView
from agent.web.source import Source

_SLICE_VMS = 25
_encoder = msgspec.json.Encoder()


def health_document(components: Mapping[str, Component]) -> dict[str, object]:
    """Return `/healthz`: each component's state, since when, and why; `state` is that of the worst."""
    return {
        "state": health.overall(components).value,
        "components": {
            name: {"state": each.health.value, "since_ms": each.since_ms, "why": each.why}
            for name, each in components.items()
        },
    }


def age_s(view: VmView, now_ms: int) -> float | None:
    """Return how old the newest update is; `None`: there is none."""
    return None if view.last_update_s is None else max(0.0, now_ms / 1000 - view.last_update_s)


def status_parts(source: Source, now_ms: int) -> Iterator[str]:
    """Yield `/status`: the agent, its parts, and every VM with its state and its newest sample.

    `state` and `sample` are the values that readers of the topics get: schemas/state, schemas/sample.
    """
    views = source.views()
    head = {
        "agent": agent_state_document(source.agent(), source.identity),
        "health": health_document(source.components()),
        "now_ms": now_ms,
    }
    yield _encoder.encode(head).decode()[:-1] + ',"vms":['
    for start in range(0, len(views), _SLICE_VMS):
        documents = [_vm(view, source, now_ms) for view in views[start : start + _SLICE_VMS]]
        yield ("," if start else "") + _encoder.encode(documents).decode()[1:-1]
    yield "]}\n"


def _vm(view: VmView, source: Source, now_ms: int) -> dict[str, object]:
    return {
        "last_update": view.last_update_s,
        "age_s": age_s(view, now_ms),
        "state": state_document(view.state, source.identity),
        "sample": None if view.sample is None else sample_document(view.sample, source.identity),
    }
