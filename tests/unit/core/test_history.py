import math
from dataclasses import replace

import pytest

from agent.core.address import MonitorPath
from agent.core.history import (
    CHANGES_MAX,
    DETAIL_CHARACTERS_MAX,
    SLOT_S,
    SLOTS,
    SPARK_MINUTES,
    Values,
    VmHistories,
    VmHistory,
)
from agent.core.pressure import VmPressure, advance
from agent.core.reading import Balloon, State
from tests.unit.sinks.views import ADDRESS, T0_S, memory, sample, view, vm

START_S = T0_S - T0_S % 60


def share(value: float) -> Values:
    return Values(available_share=value)


def spark_of(history: VmHistory) -> str:
    return history.spark.lstrip()


def test_values_are_returned_in_order_and_unknown_ones_are_nan() -> None:
    history = VmHistory(None)
    history.add(START_S, share(0.5))
    history.add(START_S + 10, Values(score=1.0))

    times, columns = history.columns(0)

    assert times == [START_S, START_S + 10]
    assert columns["available_share"][0] == 0.5
    assert math.isnan(columns["available_share"][1])
    assert columns["score"][1] == 1.0


def test_newer_values_of_a_slot_replace_older_ones_and_others_are_kept() -> None:
    history = VmHistory(None)
    history.add(START_S, Values(available_share=0.5, score=0.25))
    history.add(START_S + SLOT_S - 1, share(0.75))

    times, columns = history.columns(0)

    assert (times, columns["available_share"], columns["score"]) == ([START_S], [0.75], [0.25])


def test_a_history_keeps_the_slots_of_half_an_hour() -> None:
    history = VmHistory(None)
    for slot in range(3 * SLOTS + 7):
        history.add(START_S + slot * SLOT_S, share(slot / 1000))

    times, columns = history.columns(0)

    assert times == [START_S + slot * SLOT_S for slot in range(2 * SLOTS + 7, 3 * SLOTS + 7)]
    assert columns["available_share"][-1] == pytest.approx((3 * SLOTS + 6) / 1000)
    assert history.columns(times[-2])[0] == times[-2:]


def test_a_clock_set_back_restarts_the_history_and_slight_disorder_does_not() -> None:
    history = VmHistory(None)
    history.add(START_S + 600, share(0.5))
    history.add(START_S + 590, Values(resident_bytes=1.0))
    assert history.columns(0)[0] == [START_S + 600]
    history.add(START_S, share(0.25))

    assert history.columns(0)[0] == [START_S]


def test_the_sparkline_has_the_lowest_share_of_each_minute() -> None:
    history = VmHistory(None)
    for at_s, value in ((0, 1.0), (10, 0.0), (20, 0.5), (180, 1.0)):
        history.add(START_S + at_s, share(value))

    assert spark_of(history) == "0  o"
    assert history.spark_minute == START_S // 60 + 3
    for minute in range(4, 100):
        history.add(START_S + minute * 60, share(0.5))
    assert len(spark_of(history)) == SPARK_MINUTES


def test_rates_are_relative_to_the_previous_sample_and_need_a_known_age() -> None:
    histories = VmHistories()
    before: VmPressure | None = None
    for number, polled in enumerate((True, True, False)):
        counters = {"available_memory": 50, "total_memory": 100, "major_faults": 30 * number}
        counters |= {"swap_in": 4096 * number, "swap_out": 4096 * number}
        newest = sample(START_S + 10 * number, statistics=counters)
        after = advance(
            before,
            epoch=newest.epoch,
            last_update_s=newest.last_update_s,
            polled=polled,
            statistics=counters,
        )
        histories.sample(replace(newest, balloon=Balloon(7, 0)), before, after)
        before = after

    history = histories.get(ADDRESS)
    assert history is not None
    times, columns = history.columns(0)
    assert times == [START_S, START_S + 10]
    assert columns["available_share"] == [0.5, 0.5]
    assert columns["major_faults_per_s"][1] == 3.0
    assert columns["swap_bytes_per_s"][1] == pytest.approx(819.2)
    assert math.isnan(columns["major_faults_per_s"][0])
    assert history.newest.actual_bytes == 7


def test_the_hosts_view_is_kept_beside_the_guests() -> None:
    histories = VmHistories()
    of = memory(START_S * 1000)
    histories.memory(of)

    history = histories.get(of.address)
    assert history is not None
    history.add(START_S, share(0.5))
    assert history.columns(0)[1]["resident_bytes"] == [3 << 30]
    assert (history.newest.available_share, history.newest.resident_bytes) == (0.5, 3 << 30)


def test_another_vm_at_the_address_has_a_history_of_its_own() -> None:
    histories = VmHistories()
    histories.state(view(unknown=True, state=State.CONNECTING).state)
    histories.state(view(of=vm("one")).state)
    first = histories.get(ADDRESS)
    assert first is not None
    assert len(first.changes) == 2

    histories.state(view(of=vm("other")).state)

    second = histories.get(ADDRESS)
    assert second is not None
    assert len(second.changes) == 1


def test_changes_and_vms_are_bounded() -> None:
    histories = VmHistories(vms_max=3)
    for number in range(10):
        of = view(path=f"/{number}").state
        for _ in range(2 * CHANGES_MAX):
            histories.state(replace(of, detail="\x1b" * 1_024))

    assert len(histories) == 3
    kept = histories.get(MonitorPath("/0"))
    assert kept is not None
    assert len(kept.changes) == CHANGES_MAX
    assert len(kept.changes[0].detail) == DETAIL_CHARACTERS_MAX
    assert "\x1b" not in kept.changes[0].detail
    histories.forget(MonitorPath("/0"))
    histories.state(view(path="/9").state)
    assert histories.get(MonitorPath("/9")) is not None
