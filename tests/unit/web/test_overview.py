import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agent.core.address import MonitorPath
from agent.core.agent_state import AgentEvent, AgentPhase
from agent.core.health import Component, Health
from agent.core.history import VmHistories
from agent.core.outlook import Outlook, QueueOutlook, SpoolOutlook
from agent.core.pressure import PressureLevel
from agent.core.reading import Balloon, State, VmView
from agent.web.overview import OverviewPage, Row, find, keys_of
from tests.golden.documents import HOST_MEMORY_EVENT
from tests.unit.sinks.views import AGENT, T0_S, memory, pressure, sample, view, vm

EVENT = AgentEvent(1, AgentPhase.RUNNING, "found", 5, 6, None, True, 7, {}, {})
COMPONENTS = {"kafka.samples": Component(Health.DEGRADED, "no broker", 1)}
OUTLOOK = Outlook({"kafka.samples": QueueOutlook(3, 5, 1.0, 2.0, 3.0)}, SpoolOutlook(1, 10, 0.5, 18.0))


def shown(page: OverviewPage, views: Sequence[VmView]) -> dict[str, Any]:
    parts = page.parts(EVENT, COMPONENTS, HOST_MEMORY_EVENT, OUTLOOK, views, T0_S * 1000)
    return json.loads("".join(parts))


def page() -> OverviewPage:
    return OverviewPage(AGENT, VmHistories().get)


def fields(row: list[Any]) -> dict[str, Any]:
    return dict(zip(("version", *Row.__struct_fields__), row, strict=True))


def test_a_row_has_what_the_table_shows() -> None:
    histories = VmHistories()
    newest = sample(statistics={"available_memory": 99, "total_memory": 8000})
    newest = replace(newest, balloon=Balloon(7, 0))
    level = pressure(newest, PressureLevel.OOM)
    one = replace(
        view(newest, of=vm(labels={"vmid": "107"})), balloon=newest.balloon, pressure=level, memory=memory(0)
    )
    histories.sample(newest, None, level)

    (row,) = shown(OverviewPage(AGENT, histories.get), [one])["rows"]

    got = fields(row)
    assert {name: got[name] for name in ("key", "name", "labels", "level", "attention", "state")} == {
        "key": "vm-1", "name": "web-3", "labels": "vmid=107", "level": "oom", "attention": 0,
        "state": "reporting",
    }  # fmt: skip
    assert (got["available_bytes"], got["total_bytes"], got["last_update_s"]) == (99, 8000, T0_S)
    assert (got["actual_bytes"], got["configured_bytes"], got["resident_bytes"]) == (7, 5 << 30, 3 << 30)
    assert got["swap_bytes_per_s"] is None
    assert (got["spark"].strip(), got["spark_minute"]) == ("1", T0_S // 60)


def test_the_host_and_the_queues_are_above_the_rows() -> None:
    got = shown(page(), [])

    assert got["components"]["kafka.samples"]["why"] == "no broker"
    assert got["outlook"]["queues"]["kafka.samples"]["delivered_per_s"] == 2.0
    assert got["outlook"]["spool"]["full_in_s"] == 18.0
    assert got["host"]["total_bytes"] == HOST_MEMORY_EVENT.memory.ram.total_bytes
    assert (got["run"], got["rows"]) == ("run-1", [])


def test_the_version_of_a_row_changes_with_what_it_shows_and_only_then() -> None:
    kept = page()
    one, other = view(sample(), path="/a"), view(sample(of=vm("b")), of=vm("b"), path="/b")
    first = [row[0] for row in shown(kept, [one, other])["rows"]]

    heartbeat = replace(one, state=replace(one.state, heartbeat=True, sequence=2))
    stalled = replace(other, state=replace(other.state, state=State.STALLED))
    second = [row[0] for row in shown(kept, [heartbeat, stalled])["rows"]]

    assert first[0] == second[0]
    assert first[1] < second[1]


def test_a_vm_is_named_by_its_id_unless_others_have_it_too() -> None:
    gone = view(of=vm("a"), path="/old", state=State.GONE)
    there = view(of=vm("a"), path="/new")
    unknown = view(unknown=True, path="/x")
    alone = view(of=vm("b"), path="/b")

    keys = keys_of([gone, there, unknown, alone])

    assert [keys[MonitorPath(path)] for path in ("/old", "/new", "/x", "/b")] == ["/old", "/new", "/x", "b"]
    assert find([gone, there], "a") is there
    assert find([gone, there], "/old") is gone
    assert find([gone, there], "nothing") is None


def test_hostile_text_is_bounded_and_sizes_are_exact_or_not_known() -> None:
    hostile = "<b>\u202e\ud800\0" + "x" * 5_000
    newest = sample(of=vm("id", hostile, {"l": hostile}))
    one = replace(view(newest, path="/" + hostile), balloon=Balloon(2**64 - 1, 0))
    one = replace(one, state=replace(one.state, reason=hostile))
    parts = page().parts(
        replace(EVENT, detail=hostile),
        {"otlp": Component(Health.DEGRADED, hostile, 1)},
        None,
        OUTLOOK,
        [one],
        0,
    )

    document = json.loads("".join(parts))

    got = fields(document["rows"][0])
    assert (len(document["components"]["otlp"]["why"]), len(got["reason"])) == (400, 64)
    assert [len(got[name]) for name in ("name", "path", "labels")] == [256, 1_024, 512]
    assert not {"\u202e", "\ud800", "\0"} & {*got["name"], *got["path"], *got["labels"]}
    assert got["actual_bytes"] is None
