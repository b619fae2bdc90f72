"""`/plain`: the status page without a script. Pure.

Names come from the owners of VMs, who may be hostile: all text is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from agent.contract.payloads import Agent
from agent.core.agent_state import AgentEvent
from agent.core.explanations import component_step
from agent.core.health import Component, Health
from agent.core.reading import VmView
from agent.core.urgency import level_now, since_ms_of, urgency_of
from agent.core.wording import printable, without_backticks
from agent.web.documents import age_s
from agent.web.overview import name_of

_TEXT_CHARACTERS_MAX = 1024

REFRESH_S = 10
_SLICE_VMS = 25

_HEAD = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<noscript><meta http-equiv="refresh" content="{REFRESH_S}"></noscript>
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Barograph</title>
<link rel="icon" href="assets/icon.svg"><link rel="stylesheet" href="assets/plain.css"></head><body><main>
"""


def page_parts(
    event: AgentEvent,
    identity: Agent,
    components: Mapping[str, Component],
    views: Sequence[VmView],
    now_ms: int,
) -> Iterator[str]:
    """Yield the page in parts: the agent's components, then the VMs.

    VMs under pressure come first, then those that do not report but should, then the rest.
    """
    rows = sorted(views, key=lambda view: (urgency_of(view), name_of(view), str(view.address)))
    counts = ", ".join(f"{count} {state}" for state, count in event.vms.items()) or "none yet"
    yield _HEAD
    yield (
        f"<h1>Barograph on {_text(identity.host_name)}</h1>\n"
        f"<p>{_text(event.state)}: {_text(event.detail)}. VMs: {_text(counts)}. "
        f"Host {_text(identity.host_id)}, version {_text(identity.version)}, {_utc(now_ms)}.</p>\n"
        "<table><tr><th>component<th>state<th>since<th>why</tr>\n"
    )
    for name, each in components.items():
        state, why = each.health.value, each.text
        if each.health is Health.DEGRADED:
            why = f"{why}; next: {without_backticks(component_step(name))}"
        since = _utc(each.since_ms)
        yield f'<tr><td>{_text(name)}<td class="{state}">{state}<td>{since}<td>{_text(why)}</tr>\n'
    yield (
        "</table>\n<table><tr><th>VM<th>pressure<th>state<th>reason<th>since<th>last update<th>free"
        "<th>available<th>total<th>detail</tr>\n"
    )
    for start in range(0, len(rows), _SLICE_VMS):
        yield "".join(_row(view, now_ms) for view in rows[start : start + _SLICE_VMS])
    yield "</table></main></body></html>\n"


def _row(view: VmView, now_ms: int) -> str:
    state, old_s = view.state, age_s(view, now_ms)
    sizes = [
        None if view.sample is None else view.sample.statistics.get(name)
        for name in ("free_memory", "available_memory", "total_memory")
    ]
    cells = "".join(f'<td class="n">{"" if size is None else f"{size / 2**20:,.0f} MiB"}' for size in sizes)
    level = level_now(view)
    shown = "" if level is None else level.value
    age = "" if old_s is None else f"{old_s:,.0f} s ago"
    return (
        f'<tr><td title="{_text(str(view.address))}">{escape(name_of(view))}<td class="{shown}">{shown}'
        f'<td class="{state.state.value}">'
        f"{state.state.value}<td>{_text(state.reason)}<td>{_utc(since_ms_of(view))}"
        f'<td class="n">{age}{cells}<td>{_text(state.detail)}</tr>\n'
    )


def _utc(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _text(text: str) -> str:
    """Return text from outside for the page: escaped, printable characters only, bounded in length."""
    return escape(printable(text, _TEXT_CHARACTERS_MAX))
