"""`/api/vm`: one VM with its last half hour. The form belongs to the page. Pure."""

from collections.abc import Iterator, Sequence

import msgspec

from agent.contract.payloads import Agent
from agent.core.explanations import PRESSURE
from agent.core.history import SPAN_S, VmHistory
from agent.core.reading import VmView
from agent.core.urgency import level_now
from agent.web.documents import vm_document
from agent.web.overview import HistoryOf, find

_encoder = msgspec.json.Encoder()


def vm_parts(
    key: str, views: Sequence[VmView], history: HistoryOf, identity: Agent, now_ms: int
) -> Iterator[str]:
    """Yield the document: the VM as in `/status`, its level now with advice, its changes and its values.

    `vm` is null if there is no such VM. Values that are not known are null.
    """
    view = find(views, key)
    document: dict[str, object] = {"now_ms": now_ms, "run": identity.run, "vm": None}
    if view is not None:
        kept = history(view.address)
        level = level_now(view)
        advice = None if level is None else PRESSURE.get(level)
        document |= {
            "vm": vm_document(view, identity, now_ms),
            "level": None if level is None else level.value,
            "advice": advice,
            "changes": [] if kept is None else [*reversed(kept.changes)],
            "history": None if kept is None else _history(kept, now_ms),
        }
    yield _encoder.encode(document).decode() + "\n"


def _history(kept: VmHistory, now_ms: int) -> dict[str, object]:
    times, columns = kept.columns(now_ms // 1000 - SPAN_S)
    return {"at_s": times, **columns}
