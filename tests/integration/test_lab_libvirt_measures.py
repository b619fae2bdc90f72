"""What measures the agent on libvirt: the stand-in is like the bindings, and values are judged rightly."""

import inspect
import runpy
from typing import Any

import pytest

from simulator.demo.measure import Shown
from tests.lab.bench_libvirt import STANDIN
from tests.lab.compare_libvirt import Said, judge, said_by_collectd, said_by_the_agent, told_silent_after_s
from tests.lab.libvirt import bindings


@pytest.mark.usefixtures("real_libvirt")
def test_the_stand_in_has_what_libvirts_bindings_have() -> None:
    real, standin = bindings(), runpy.run_path(str(STANDIN / "libvirt.py"))

    for name, value in standin.items():
        if name.startswith("VIR_"):
            assert getattr(real, name) == value, name
    for kind in ("virConnect", "virDomain"):
        for name, method in inspect.getmembers(standin[kind], inspect.isfunction):
            if name.startswith("_") or name == "stats":  # the last is the stand-in's own
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
    """Updates a second or more apart, each with another value."""
    return [Shown(int(at // 1000), at, {"free_memory": (1000 + int(at // 1000)) * 1024}) for at in at_ms]


def test_a_value_given_out_again_as_of_now_is_a_repeat_and_as_old_as_its_update() -> None:
    said = [Said(1300, 1001), Said(2300, 1002), Said(3300, 1002), Said(4300, 1002)]

    got = judge(shown(1000, 2100), said, from_ms=0, until_ms=10000)

    assert (got.said, got.fresh, got.repeated, got.wrong, got.unseen) == (4, 2, 2, 0, 0)
    assert got.ages_ms == (300, 200, 1200, 2200)


def test_a_value_that_was_not_shown_is_wrong_and_an_update_not_given_out_is_unseen() -> None:
    got = judge(shown(1000, 2000, 3000), [Said(1010, 1001), Said(3010, 7)], from_ms=0, until_ms=10000)

    assert (got.said, got.fresh, got.wrong, got.unseen) == (2, 1, 1, 2)


def test_an_update_that_a_tool_saw_before_the_observer_did_is_that_update() -> None:
    got = judge(shown(1000, 2000), [Said(1996, 1002), Said(1010, 1001, 1)], from_ms=0, until_ms=10000)

    assert (got.fresh, got.wrong, got.ages_ms) == (2, 0, (0.0, 10.0))


def test_what_collectd_and_the_agent_write_is_read() -> None:
    put = "PUTVAL node/virt-shop_web-3/memory-unused interval=10.000 1795709711.250:68304896.000000"
    other = put.replace("memory-unused", "memory-usable")
    sample = (
        '{"schema": "barograph.vm.sample/1.0", "vm": {"name": "g"}, "observed_at_ms": 5, "last_update": 4,'
        ' "statistics": {"free_memory": 2048}}'
    )
    state = sample.replace("sample/", "state/").replace('_ms": 5', '_ms": 7500, "state": "stalled"')

    assert said_by_collectd([put, other, "plugin loaded"]) == {"shop_web-3": [Said(1795709711250.0, 66704)]}
    assert said_by_the_agent([sample]) == {"g": [Said(5, 2, 4)]}
    assert told_silent_after_s([sample, state], "g", 1500) == 6.0
    assert told_silent_after_s([sample, state], "h", 1500) is None
