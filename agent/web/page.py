"""`/`: the status page for people. Pure.

Names come from the owners of VMs, who may be hostile: all text is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from agent.contract.payloads import Agent
from agent.core.agent_state import AgentEvent
from agent.core.health import Component
from agent.core.pressure import PressureLevel
from agent.core.reading import State, VmView
from agent.core.wording import printable
from agent.web.documents import age_s

_TEXT_CHARACTERS_MAX = 1024

REFRESH_S = 10
_SLICE_VMS = 25

_HEAD = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{REFRESH_S}">
<title>Barograph</title><style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff }}
table {{ border-collapse: collapse; margin: 0 0 1.5em }}
th, td {{ text-align: left; padding: .2em .9em .2em 0; border-bottom: 1px solid #ddd; vertical-align: top }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
.ok, .reporting {{ color: #176d2d }}
.degraded, .stalled, .unreachable, .no-greeting, .empty, .duplicate, .no-balloon,
.pressure, .oom {{ color: #b3261e }}
</style></head><body>
"""


def page_parts(
    event: AgentEvent,
    identity: Agent,
    components: Mapping[str, Component],
    views: Sequence[VmView],
    now_ms: int,
) -> Iterator[str]:
    """Yield the page in parts: the agent's components, then the VMs.

    VMs under pressure come first, then those that are not reporting, then the rest.
    """
    rows = sorted(views, key=lambda view: (_place(view), _name(view), str(view.address)))
    counts = ", ".join(f"{count} {state}" for state, count in event.vms.items()) or "none yet"
    yield _HEAD
    yield (
        f"<h1>Barograph on {_text(identity.host_name)}</h1>\n"
        f"<p>{_text(event.state)}: {_text(event.detail)}. VMs: {_text(counts)}. "
        f"Host {_text(identity.host_id)}, version {_text(identity.version)}, {_utc(now_ms)}.</p>\n"
        "<table><tr><th>component<th>state<th>since<th>why</tr>\n"
    )
    for name, each in components.items():
        state = each.health.value
        yield (
            f'<tr><td>{_text(name)}<td class="{state}">{state}<td>{_utc(each.since_ms)}<td>{_text(each.text)}'
            "</tr>\n"
        )
    yield (
        "</table>\n<table><tr><th>VM<th>pressure<th>state<th>reason<th>since<th>last update<th>free"
        "<th>available<th>total<th>detail</tr>\n"
    )
    for start in range(0, len(rows), _SLICE_VMS):
        yield "".join(_row(view, now_ms) for view in rows[start : start + _SLICE_VMS])
    yield "</table></body></html>\n"


def _row(view: VmView, now_ms: int) -> str:
    state, old_s = view.state, age_s(view, now_ms)
    sizes = [
        None if view.sample is None else view.sample.statistics.get(name)
        for name in ("free_memory", "available_memory", "total_memory")
    ]
    cells = "".join(f'<td class="n">{"" if size is None else f"{size / 2**20:,.0f} MiB"}' for size in sizes)
    level = _level(view)
    shown = "" if level is None else level.value
    age = "" if old_s is None else f"{old_s:,.0f} s ago"
    return (
        f'<tr><td title="{_text(str(view.address))}">{_text(_name(view))}<td class="{shown}">{shown}'
        f'<td class="{state.state.value}">'
        f"{state.state.value}<td>{_text(state.reason)}<td>{_utc(state.since_ms)}"
        f'<td class="n">{age}{cells}<td>{_text(state.detail)}</tr>\n'
    )


def _level(view: VmView) -> PressureLevel | None:
    """Return the level to show; `None`: it is not known, or not known to be true now."""
    pressure = view.pressure
    if pressure is None or pressure.score is None or view.state.state is not State.REPORTING:
        return None
    return pressure.level


def _place(view: VmView) -> int:
    """Return where the VM belongs on the page, from 0."""
    match _level(view):
        case PressureLevel.OOM:
            return 0
        case PressureLevel.PRESSURE:
            return 1
        case PressureLevel.LOW:
            return 3
        case _:
            return 2 if view.state.state is not State.REPORTING else 4


def _name(view: VmView) -> str:
    vm = view.state.vm
    return str(view.address) if vm is None else vm.name or vm.id


def _utc(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _text(text: str) -> str:
    """Return text from outside for the page: escaped, printable characters only, bounded in length."""
    return escape(printable(text, _TEXT_CHARACTERS_MAX))
