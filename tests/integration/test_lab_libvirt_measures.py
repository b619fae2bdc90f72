"""Tests of the measurements on libvirt: the stand-in matches the bindings, values are judged correctly."""

import inspect
import runpy
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from simulator.demo.measure import Shown
from tests.lab.bench_libvirt import STANDIN
from tests.lab.bench_peers import replaced
from tests.lab.libvirt import bindings
from tests.lab.peers import (
    TELEGRAF,
    TOOLS,
    Said,
    said_by_collectd,
    said_by_telegraf,
    said_by_the_agent,
    said_by_the_bare_loop,
    states_said,
)
from tests.lab.peers_figures import judge, shown_by_the_stand_in
from tests.lab.peers_picture import Row, Scene, draw


@pytest.mark.usefixtures("real_libvirt")
def test_the_stand_in_has_what_libvirts_bindings_have() -> None:
    real, standin = bindings(), runpy.run_path(str(STANDIN / "libvirt.py"))

    for name, value in standin.items():
        if name.startswith("VIR_"):
            assert getattr(real, name) == value, name
    for kind in ("virConnect", "virDomain"):
        for name, method in inspect.getmembers(standin[kind], inspect.isfunction):
            if name.startswith("_") or name == "stats":  # `stats` is the stand-in's own
                continue
            theirs = inspect.signature(getattr(getattr(real, kind), name)).parameters
            assert len(inspect.signature(method).parameters) == len(theirs), (kind, name)


@pytest.mark.usefixtures("real_libvirt")
def test_libvirts_own_test_driver_has_no_balloon_to_measure_with() -> None:
    library: Any = bindings()
    connection = library.open("test:///default")

    ((_, told),) = connection.getAllDomainStats(0, 0)

    assert set(told) == {"state.state", "state.reason"}
    connection.close()


def shown(*at_ms: float) -> list[Shown]:
    """Return updates a second or more apart, each with another value."""
    return [Shown(int(at // 1000), at, {"free_memory": (1000 + int(at // 1000)) * 1024}) for at in at_ms]


def test_a_value_reported_again_is_a_repeat_and_as_old_as_its_update() -> None:
    said = [Said(1300, 1001), Said(2300, 1002), Said(3300, 1002), Said(4300, 1002)]

    got = judge(shown(1000, 2100), said, from_ms=0, until_ms=10000)

    assert (got.said, got.fresh, got.repeated, got.wrong, got.unseen) == (4, 2, 2, 0, 0)
    assert got.ages_ms == (300, 200, 1200, 2200)


def test_a_value_that_was_not_shown_is_wrong_and_an_unreported_update_is_unseen() -> None:
    got = judge(shown(1000, 2000, 3000), [Said(1010, 1001), Said(3010, 7)], from_ms=0, until_ms=10000)

    assert (got.said, got.fresh, got.wrong, got.unseen) == (2, 1, 1, 2)


def test_an_update_that_a_tool_reports_before_the_observer_sees_it_is_fresh() -> None:
    got = judge(shown(1000, 2000), [Said(1996, 1002), Said(1010, 1001, 1)], from_ms=0, until_ms=10000)

    assert (got.fresh, got.wrong, got.ages_ms) == (2, 0, (0.0, 10.0))


def test_a_value_reported_before_the_window_is_a_repeat_in_it() -> None:
    got = judge(shown(1000), [Said(1300, 1001), Said(2300, 1001)], from_ms=2000, until_ms=10000)

    assert (got.said, got.fresh, got.repeated, got.ages_ms) == (1, 0, 1, (1300.0,))


def test_an_update_reported_after_the_window_is_not_missing() -> None:
    got = judge(shown(1000, 2000), [Said(1300, 1001), Said(3300, 1002)], from_ms=0, until_ms=3000)

    assert (got.said, got.unseen) == (1, 0)


def test_a_domain_of_the_stand_in_shows_when_it_was_updated() -> None:
    said = [Said(1300, 7, 1, 1100), Said(2300, 7, 1, 1100), Said(3300, 8, 3, 3100)]

    got = judge(shown_by_the_stand_in(said), said, from_ms=0, until_ms=10000)

    assert (got.fresh, got.repeated, got.wrong, got.ages_ms) == (2, 1, 0, (200.0, 1200.0, 200.0))


def test_the_output_of_each_tool_is_parsed() -> None:
    put = "PUTVAL node/virt-shop_web-3/memory-unused interval=10.000 1795709711.250:68304896.000000"
    other = put.replace("memory-unused", "memory-usable")
    sample = (
        '{"schema": "barograph.vm.sample/1.0", "vm": {"name": "g"}, "observed_at_ms": 5, "last_update": 4,'
        ' "statistics": {"free_memory": 2048}}'
    )
    state = sample.replace("sample/", "state/").replace('_ms": 5', '_ms": 7500, "state": "stalled"')
    point = (
        "libvirt_balloon,domain_name=g current=131072i,unused=2i,last_update=4i 1795709711250000000",
        "libvirt_balloon,domain_name=without-driver current=131072i 1795709711250000000",
        "libvirt_cpu,domain_name=g unused=3i 1795709711250000000",
    )
    answer = (
        '{"name": "g", "at_ms": 5, "balloon.unused": 2, "balloon.last-update": 4, "balloon.minor_fault": 3}'
    )

    assert said_by_collectd([put, other, "plugin loaded"]) == {"shop_web-3": [Said(1795709711250.0, 66704)]}
    assert said_by_telegraf(point) == {"g": [Said(1795709711250.0, 2, 4)]}
    assert said_by_the_bare_loop([answer, '{"name": "h", "at_ms": 5}']) == {"g": [Said(5, 2, 4, 3)]}
    assert said_by_the_agent([sample, state.replace("statistics", "s")]) == {"g": [Said(5, 2, 4)]}
    assert states_said([sample, state], "g") == [(7500, "stalled")]
    assert states_said([sample, state], "h") == []


def test_the_picture_shows_old_values_and_states() -> None:
    updates = [*shown(1000, 2000), *shown(8000, 9000)]
    old = [Said(1100, 1001, 1), Said(2100, 1002, 2), *(Said(at, 1002, 2) for at in (3100, 4100, 5100))]
    new = [Said(8010, 1008, 8), Said(9010, 1009, 9)]
    states = [(900, "reporting"), (5000, "stalled"), (8000, "reporting")]
    rows = {tool: Row([*old, *new]) for tool in TOOLS[:-1]}
    scene = Scene(updates, 1000, 11000, 2500, 7500, rows | {TELEGRAF: None, TOOLS[-1]: Row(new, states)})

    drawn = ElementTree.fromstring(draw(scene))

    texts = ["".join(each.itertext()) for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    kinds = [each.get("class") for each in drawn.iter("{http://www.w3.org/2000/svg}circle")]
    assert {"second monitor", *TOOLS, "not built", "stalled for 3 s"} <= set(texts)
    assert (kinds.count("old") - 1, kinds.count("fresh") - 1) == (
        3 * 3,
        3 * 4 + 2,
    )  # one of each in the legend
    description = drawn.findtext("{http://www.w3.org/2000/svg}desc")
    assert description is not None
    assert "collectd: 3 old values while the driver is gone." in description
    assert "Barograph, QMP: 0 old values while the driver is gone; stalled from 4 s to 7 s." in description


def test_a_part_of_a_page_is_replaced_between_its_markers() -> None:
    page = "a\n<!-- begin of x -->\n\nold\n\n<!-- end of x -->\nb\n"

    assert replaced(page, "x", "new") == page.replace("old", "new")
    assert replaced(replaced(page, "x", "new"), "x", "old") == page
    with pytest.raises(ValueError, match="'y'"):
        replaced(page, "y", "new")
