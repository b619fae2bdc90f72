"""`/api/overview`: all that the page shows at once, in a compact form. The form belongs to the page.

A VM is a row: its version, then an array in the order of `Row`. The version changes with the content, so the
page touches only rows that changed. Unchanged rows are not encoded again, since views are never changed, only
replaced.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from agent.contract.payloads import Agent
from agent.core.address import Address
from agent.core.agent_state import AgentEvent
from agent.core.explanations import component_step
from agent.core.headroom import headroom
from agent.core.health import WHY_CHARACTERS_MAX, Component, Health
from agent.core.history import REASON_CHARACTERS_MAX, Values, VmHistory
from agent.core.host_memory import HostMemoryEvent
from agent.core.numbers import EXACT_MAX
from agent.core.outlook import Outlook
from agent.core.reading import State, VmView
from agent.core.states import is_expected
from agent.core.urgency import level_now, since_ms_of, urgency_of
from agent.core.vm_memory import amounts
from agent.core.wording import printable

_SLICE_VMS = 100

NAME_CHARACTERS_MAX = 256
PATH_CHARACTERS_MAX = 1_024
LABELS_CHARACTERS_MAX = 512
"""Of the labels of a VM together, which the page searches."""

_encoder = msgspec.json.Encoder()
_NO_VALUES = Values()

HistoryOf = Callable[[Address], VmHistory | None]


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One VM. `None`: not known."""

    key: str  # its id, or its path if several VMs or none have this id
    name: str
    path: str
    labels: str  # "name=value", separated by spaces
    attention: int  # its place, most urgent first: core/urgency.py
    level: str | None
    state: str
    reason: str
    is_expected: bool
    since_ms: int  # of the level of pressure that makes it urgent, else of the state
    last_update_s: int | None
    available_bytes: int | None
    total_bytes: int | None
    swap_bytes_per_s: float | None
    major_faults_per_s: float | None
    actual_bytes: int | None
    configured_bytes: int | None
    resident_bytes: int | None
    spark: str  # core/history.py: the available share of each minute
    spark_minute: int  # of its last character


@dataclass(slots=True)
class _Encoded:
    view: VmView
    revision: int
    key: str
    text: str
    version: int


class OverviewPage:
    """Keeps the encoded rows. Owned by the event loop's thread."""

    def __init__(self, identity: Agent, history: HistoryOf) -> None:
        self._identity = identity
        self._history = history
        self._rows: dict[Address, _Encoded] = {}
        self._version = 0

    def parts(
        self,
        event: AgentEvent,
        components: Mapping[str, Component],
        host_memory: HostMemoryEvent | None,
        outlook: Outlook,
        views: Sequence[VmView],
        now_ms: int,
    ) -> Iterator[str]:
        """Yield the document in parts."""
        identity = self._identity
        head = {
            "now_ms": now_ms,
            "run": identity.run,
            "version": identity.version,
            "host_id": identity.host_id,
            "host_name": printable(identity.host_name, NAME_CHARACTERS_MAX),
            "agent": {"state": event.state.value, "since_ms": event.since_ms},
            "components": {name: _component(name, each) for name, each in components.items()},
            "outlook": outlook,
            "host": None if host_memory is None else _host(host_memory, views),
        }
        yield _encoder.encode(head).decode()[:-1] + ',"rows":['
        self._version += 1
        keys = keys_of(views)
        rows: dict[Address, _Encoded] = {}
        for start in range(0, len(views), _SLICE_VMS):
            texts: list[str] = []
            for view in views[start : start + _SLICE_VMS]:
                row = rows[view.address] = self._row(view, keys[view.address])
                texts.append(f"[{row.version},{row.text}")
            yield ("," if start else "") + ",".join(texts)
        self._rows = rows
        yield "]}\n"

    def _row(self, view: VmView, key: str) -> _Encoded:
        history = self._history(view.address)
        revision = 0 if history is None else history.revision
        known = self._rows.get(view.address)
        if known is not None and known.view is view and known.revision == revision and known.key == key:
            return known
        text = _encoder.encode(_row(view, key, history)).decode()[1:]
        is_same = known is not None and known.text == text
        return _Encoded(view, revision, key, text, known.version if is_same and known else self._version)


def keys_of(views: Sequence[VmView]) -> Mapping[Address, str]:
    """Return the name of each VM in links: its id, or its path if several VMs or none have this id."""
    ids = Counter(_id(view) for view in views)
    keys: dict[Address, str] = {}
    for view in views:
        id = _id(view)
        keys[view.address] = id if id is not None and ids[id] == 1 else path_of(view)
    return keys


def find(views: Sequence[VmView], key: str) -> VmView | None:
    """Return the VM with this id or path, preferably one that is not gone; `None`: there is none."""
    found = [view for view in views if key in (_id(view), path_of(view))]
    return max(found, key=lambda view: (_id(view) != key, *_liveness(view)), default=None)


def name_of(view: VmView) -> str:
    """Return what the page calls a VM."""
    vm = view.state.vm
    return printable((None if vm is None else vm.name) or str(view.address), NAME_CHARACTERS_MAX)


def path_of(view: VmView) -> str:
    """Return the text of a VM's address."""
    return printable(str(view.address), PATH_CHARACTERS_MAX)


def _id(view: VmView) -> str | None:
    return None if view.state.vm is None else printable(view.state.vm.id, NAME_CHARACTERS_MAX)


def _liveness(view: VmView) -> tuple[bool, int]:
    return view.state.state not in (State.GONE, State.DUPLICATE), view.state.since_ms


def _row(view: VmView, key: str, history: VmHistory | None) -> Row:
    state, sample = view.state, view.sample
    vm = state.vm
    level = level_now(view)
    statistics: Mapping[str, int] = {} if sample is None else sample.statistics
    sizes = None if view.memory is None else amounts(view.memory)
    newest = _NO_VALUES if history is None or state.state is not State.REPORTING else history.newest
    actual = None if view.balloon is None else view.balloon.actual_bytes
    if actual is None and sizes is not None:
        actual = sizes.actual_bytes
    labels = "" if vm is None else " ".join(f"{name}={value}" for name, value in vm.labels.items())
    return Row(
        key=key,
        name=name_of(view),
        path=path_of(view),
        labels=printable(labels, LABELS_CHARACTERS_MAX),
        attention=urgency_of(view),
        level=None if level is None else level.value,
        state=state.state.value,
        reason=printable(str(state.reason), REASON_CHARACTERS_MAX),
        is_expected=is_expected(state.state, state.reason),
        since_ms=since_ms_of(view),
        last_update_s=view.last_update_s,
        available_bytes=statistics.get("available_memory"),
        total_bytes=statistics.get("total_memory"),
        swap_bytes_per_s=_short(newest.swap_bytes_per_s),
        major_faults_per_s=_short(newest.major_faults_per_s),
        actual_bytes=actual if actual is not None and 0 <= actual <= EXACT_MAX else None,
        configured_bytes=None if sizes is None else sizes.configured_bytes,
        resident_bytes=None if sizes is None else sizes.resident_bytes,
        spark="" if history is None else history.spark,
        spark_minute=0 if history is None else history.spark_minute,
    )


def _component(name: str, component: Component) -> dict[str, object]:
    why = printable(component.text, WHY_CHARACTERS_MAX)
    step = component_step(name) if component.health is Health.DEGRADED else None
    return {
        "state": component.health.value,
        "since_ms": component.since_ms,
        "why": why,
        "next_step": step,
    }


def _short(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _host(event: HostMemoryEvent, views: Sequence[VmView]) -> dict[str, object]:
    psi, ram, room = event.memory.pressure, event.memory.ram, headroom(event, views)
    return {
        "observed_at_ms": event.observed_at_ms,
        "total_bytes": ram.total_bytes,
        "available_bytes": ram.available_bytes,
        "swap_total_bytes": ram.swap_total_bytes,
        "swap_free_bytes": ram.swap_free_bytes,
        "psi_some_avg10": None if psi is None else psi.some.avg10,
        "psi_full_avg10": None if psi is None or psi.full is None else psi.full.avg10,
        "unused_by_vms_bytes": room.unused_by_vms_bytes,
        "overcommit": None if room.overcommit is None else round(room.overcommit, 3),
    }
