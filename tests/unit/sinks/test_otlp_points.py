from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

from agent.contract.metrics import GUEST_METRICS, OTHER_PREFIX, SCHEMA_URL
from agent.contract.payloads import Agent
from agent.contract.targets import targets
from agent.core.reading import Balloon, Configured, EpochEnd, Sample, State, VmView
from agent.sinks import otlp_message
from agent.sinks.otlp_points import (
    NOTHING_SENT,
    OTHERS_OF_A_VM_MAX,
    RefusedPoint,
    SentVm,
    VmPoints,
    build,
    build_end,
    forget_old,
)
from agent.sinks.otlp_settings import Identity
from tests.unit.sinks.views import AGENT, SECOND_NS, T0_S, memory, pressure, sample, view, vm

NOW_NS = (T0_S + 100) * SECOND_NS


def built(
    shown: VmView,
    before: SentVm = NOTHING_SENT,
    *,
    now_ns: int = NOW_NS,
    identity: Identity = "points",
    agent: Agent = AGENT,
) -> VmPoints:
    (target,) = targets([shown], agent)
    return build(target, before, agent, identity, now_ns)


@dataclass(frozen=True)
class Point:
    """One point as it is encoded."""

    value: int
    time_ns: int
    start_ns: int
    attributes: Mapping[str, str]
    monotonic: bool | None  # None: a gauge
    unit: str


def on_the_wire(points: VmPoints) -> dict[str, Point]:
    """Return the points by metric name; of `qemu.vm.state`, the point that is 1."""
    return {
        metric.name: decoded(metric, point)
        for metric in metrics_of(points)
        for point in data_points(metric)
        if metric.name != "qemu.vm.state" or point.as_int == 1
    }


def decoded(metric: Metric, point: NumberDataPoint) -> Point:
    return Point(
        value=point.as_int,
        time_ns=point.time_unix_nano,
        start_ns=point.start_time_unix_nano,
        attributes={each.key: each.value.string_value for each in point.attributes},
        monotonic=metric.sum.is_monotonic if metric.WhichOneof("data") == "sum" else None,
        unit=metric.unit,
    )


def data_points(metric: Metric) -> Iterator[NumberDataPoint]:
    yield from metric.sum.data_points if metric.WhichOneof("data") == "sum" else metric.gauge.data_points


def resource_of(points: VmPoints) -> dict[str, str]:
    return {each.key: each.value.string_value for each in points.metrics.resource.attributes}


def metrics_of(points: VmPoints) -> Iterable[Metric]:
    (scope,) = points.metrics.scope_metrics
    return scope.metrics


def test_resource_and_scope_name_the_registry_and_its_version() -> None:
    made = built(view()).metrics

    assert [made.schema_url, *(scope.schema_url for scope in made.scope_metrics)] == [SCHEMA_URL] * 2


def reasons_of(points: VmPoints) -> dict[str, int | None]:
    """Return the value of each reason, or `None` if its series ends."""
    return {
        {each.key: each.value.string_value for each in point.attributes}["qemu.vm.state_reason"]: None
        if point.flags
        else point.as_int
        for metric in metrics_of(points)
        if metric.name == "qemu.vm.state_reason"
        for point in metric.sum.data_points
    }


def test_the_reason_is_sent_at_a_change_and_the_previous_one_ends() -> None:
    def because(reason: str) -> VmView:
        shown = view(state=State.UNREACHABLE)
        return replace(shown, state=replace(shown.state, reason=reason))

    first = built(because("denied"))
    same = built(because("denied"), first.accepted, now_ns=NOW_NS + SECOND_NS)
    other = built(because("no_answer"), same.accepted, now_ns=NOW_NS + 2 * SECOND_NS)
    again = built(because("no_answer"), other.accepted, now_ns=NOW_NS + 62 * SECOND_NS)

    assert [reasons_of(each) for each in (first, same, other, again)] == [
        {"denied": 1},
        {},
        {"denied": None, "no_answer": 1},
        {"no_answer": 1},
    ]


# --- the guest's values ---


def test_a_guests_values_have_the_time_of_its_update() -> None:
    points = on_the_wire(built(view(sample(T0_S + 20, statistics={"free_memory": 7, "major_faults": 3}))))

    assert points["qemu.vm.guest.memory.free"].time_ns == (T0_S + 20) * SECOND_NS
    assert points["qemu.vm.guest.memory.free"].value == 7
    assert points["qemu.vm.guest.paging.major_faults"].time_ns == (T0_S + 20) * SECOND_NS


@pytest.mark.parametrize("name", GUEST_METRICS)
def test_every_known_statistic_has_the_name_unit_and_kind_of_the_table(name: str) -> None:
    metric = GUEST_METRICS[name]

    point = on_the_wire(built(view(sample(statistics={name: 5}))))[metric.name]

    assert point.unit == metric.unit
    assert point.monotonic == {"counter": True, "updowncounter": False, "gauge": None}[metric.kind]


def test_a_sample_is_sent_once() -> None:
    shown = view(sample())
    first = built(shown)

    again = on_the_wire(built(shown, first.accepted, now_ns=NOW_NS + SECOND_NS))

    assert not any(name.startswith("qemu.vm.guest") for name in again)


def of_pressure(points: VmPoints) -> dict[str, tuple[float, int]]:
    return {
        metric.name: (point.as_double or point.as_int, point.time_unix_nano)
        for metric in metrics_of(points)
        if metric.name.startswith("qemu.vm.pressure.")
        for point in metric.gauge.data_points
    }


def test_the_pressure_is_sent_once_with_the_time_of_its_sample() -> None:
    newest = sample(T0_S + 20)
    shown = replace(view(newest), pressure=pressure(newest))
    first = built(shown)

    again = built(shown, first.accepted, now_ns=NOW_NS + SECOND_NS)

    at_ns = (T0_S + 20) * SECOND_NS
    assert of_pressure(first) == {
        "qemu.vm.pressure.level": (2, at_ns),
        "qemu.vm.pressure.score": (0.75, at_ns),
    }
    assert of_pressure(again) == {}


def test_a_pressure_that_is_not_of_the_sample_or_not_current_is_not_sent() -> None:
    earlier, newest = sample(T0_S), sample(T0_S + 10, sequence=2)

    for shown in (
        replace(view(newest), pressure=pressure(earlier)),  # an unsolicited sample came after it
        replace(view(newest), pressure=pressure(newest, score=None)),
        replace(view(newest, state=State.STALLED), pressure=pressure(newest)),
        view(newest),
    ):
        assert of_pressure(built(shown)) == {}


def test_an_earlier_time_is_never_sent() -> None:
    before = built(view(sample(T0_S + 20))).accepted

    points = on_the_wire(built(view(sample(T0_S + 19, epoch="epoch-2")), before, now_ns=NOW_NS + 1))

    assert not any(name.startswith("qemu.vm.guest") for name in points)


def test_after_a_refusal_an_earlier_time_than_the_refused_one_is_sent() -> None:
    ahead = built(view(sample(T0_S + 9_000_000)))

    later = built(view(sample(T0_S + 20, epoch="epoch-2")), ahead.refused, now_ns=NOW_NS + 1)

    assert "qemu.vm.guest.memory.free" in on_the_wire(later)


def test_a_refused_sample_is_not_tried_again() -> None:
    shown = view(sample())

    again = built(shown, built(shown).refused, now_ns=NOW_NS + 1)

    assert "qemu.vm.guest.memory.free" not in on_the_wire(again)


def test_a_counter_starts_where_its_epoch_starts() -> None:
    first = built(view(sample(T0_S + 20, epoch_start_s=T0_S)))
    second = built(view(sample(T0_S + 30, sequence=2)), first.accepted, now_ns=NOW_NS + 1)

    assert on_the_wire(first)["qemu.vm.guest.paging.major_faults"].start_ns == T0_S * SECOND_NS
    assert on_the_wire(second)["qemu.vm.guest.paging.major_faults"].start_ns == T0_S * SECOND_NS


def test_a_new_epochs_counters_never_start_before_the_last_point_of_the_old_one() -> None:
    before = built(view(sample(T0_S + 20))).accepted
    reborn = sample(T0_S + 30, sequence=40, epoch="epoch-2", epoch_start_s=T0_S - 3600)

    after = built(view(reborn), before, now_ns=NOW_NS + 1)
    later = built(
        view(replace(reborn, sequence=41, last_update_s=T0_S + 40)), after.accepted, now_ns=NOW_NS + 2
    )

    assert on_the_wire(after)["qemu.vm.guest.paging.major_faults"].start_ns == (T0_S + 20) * SECOND_NS
    assert on_the_wire(later)["qemu.vm.guest.paging.major_faults"].start_ns == (T0_S + 20) * SECOND_NS


def test_an_unknown_statistic_is_a_gauge_without_a_unit() -> None:
    point = on_the_wire(built(view(sample(statistics={"zswap_pages": 9}))))["qemu.vm.guest.other.zswap_pages"]

    assert (point.value, point.monotonic, point.unit) == (9, None, "")


@pytest.mark.parametrize(
    ("statistics", "reason"),
    [
        ({"free_memory": None}, RefusedPoint.BAD_VALUE),
        ({"free_memory": True}, RefusedPoint.BAD_VALUE),
        ({"free_memory": 1 << 63}, RefusedPoint.BAD_VALUE),
        ({"free_memory": 0.5}, RefusedPoint.BAD_VALUE),
        ({"": 1}, RefusedPoint.BAD_NAME),
        ({"a b": 1}, RefusedPoint.BAD_NAME),
        ({"\udcff": 1}, RefusedPoint.BAD_NAME),
        ({"x" * 65: 1}, RefusedPoint.BAD_NAME),
    ],
    ids=str,
)
def test_values_that_the_exporter_cannot_encode_are_left_out(
    statistics: dict[str, int], reason: RefusedPoint
) -> None:
    points = built(view(sample(statistics={**statistics, "total_memory": 4})))

    assert points.left_out == {reason: 1}
    assert on_the_wire(points)["qemu.vm.guest.memory.total"].value == 4


def test_a_sample_of_the_previous_vm_on_the_path_is_not_sent() -> None:
    shown = view(sample(of=vm("vm-old")), of=vm("vm-new"))

    assert not any(name.startswith("qemu.vm.guest") for name in on_the_wire(built(shown)))


# --- samples that are passed over ---


@pytest.mark.parametrize(
    ("newest", "passed_over"),
    [
        (sample(T0_S + 30, sequence=6), 0),
        (sample(T0_S + 30, sequence=9), 3),
        (sample(T0_S + 30, epoch="epoch-2", sequence=1, previous=EpochEnd("epoch-1", 8)), 3),
        (sample(T0_S + 30, epoch="epoch-2", sequence=3), 2),
        (sample(T0_S + 30, epoch="epoch-3", sequence=1, previous=EpochEnd("epoch-2", 8)), 0),
    ],
    ids=["the next one", "a gap", "the old epoch's rest", "a new epoch's first ones", "an epoch between"],
)
def test_samples_passed_over_are_counted(newest: Sample, passed_over: int) -> None:
    before = built(view(sample(sequence=5))).accepted

    assert built(view(newest), before, now_ns=NOW_NS + 1).passed_over == passed_over


def test_samples_before_the_first_cycle_are_passed_over() -> None:
    assert built(view(sample(sequence=3))).passed_over == 2


# --- the host's values ---


def test_the_hosts_values_are_sent_each_cycle_with_its_time() -> None:
    shown = view(sample(T0_S + 20), state=State.STALLED, interval_s=10)
    before = built(shown).accepted

    points = on_the_wire(built(shown, before, now_ns=NOW_NS + 5))

    assert points["qemu.vm.last_update"].value == T0_S + 20
    assert points["qemu.vm.polling.interval"].value == 10
    assert points["qemu.vm.state"].attributes["qemu.vm.state"] == "stalled"
    assert {point.time_ns for point in points.values()} == {NOW_NS + 5}


def states_of(points: VmPoints) -> dict[str, int]:
    (states,) = (each for each in metrics_of(points) if each.name == "qemu.vm.state")
    return {decoded(states, each).attributes["qemu.vm.state"]: each.as_int for each in data_points(states)}


def test_every_state_has_a_point_and_one_of_them_is_1() -> None:
    assert states_of(built(view())) == {state.value: int(state is State.REPORTING) for state in State}


def test_the_states_that_are_0_are_sent_at_a_change_and_once_a_minute() -> None:
    first = built(view())
    soon = built(view(), first.accepted, now_ns=NOW_NS + 10 * SECOND_NS)
    changed = built(view(state=State.STALLED), soon.accepted, now_ns=NOW_NS + 20 * SECOND_NS)
    after = built(view(state=State.STALLED), changed.accepted, now_ns=NOW_NS + 70 * SECOND_NS)
    later = built(view(state=State.STALLED), after.accepted, now_ns=NOW_NS + 80 * SECOND_NS)

    assert states_of(soon) == {"reporting": 1}
    assert states_of(changed) == {state.value: int(state is State.STALLED) for state in State}
    assert states_of(after) == {"stalled": 1}
    assert states_of(later) == states_of(changed)


def test_before_the_first_update_there_is_no_last_update() -> None:
    for unknown in (None, 0):
        assert "qemu.vm.last_update" not in on_the_wire(built(view(last_update_s=unknown)))


def test_last_update_comes_from_the_state_if_there_is_no_sample() -> None:
    assert on_the_wire(built(view(last_update_s=T0_S)))["qemu.vm.last_update"].value == T0_S


def test_with_the_hosts_clock_set_back_nothing_is_sent_and_it_is_counted() -> None:
    shown = view(sample())

    points = built(shown, built(shown).accepted, now_ns=NOW_NS)

    assert points.points == 0
    assert points.left_out == {RefusedPoint.TIME_WENT_BACK: 1}


def test_the_balloon_is_sent_when_it_was_observed_again() -> None:
    first = built(view(balloon=Balloon(1 << 30, T0_S * 1000)))
    same = built(view(balloon=Balloon(1 << 30, T0_S * 1000)), first.accepted, now_ns=NOW_NS + 1)
    anew = built(view(balloon=Balloon(1 << 29, T0_S * 1000 + 5)), same.accepted, now_ns=NOW_NS + 2)

    assert on_the_wire(first)["qemu.vm.balloon.actual"].time_ns == T0_S * SECOND_NS
    assert "qemu.vm.balloon.actual" not in on_the_wire(same)
    assert on_the_wire(anew)["qemu.vm.balloon.actual"].value == 1 << 29
    assert on_the_wire(anew)["qemu.vm.balloon.actual"].start_ns == T0_S * SECOND_NS


def test_a_vms_memory_is_sent_once_each_value_with_the_time_of_its_observation() -> None:
    shown = replace(view(), memory=memory(T0_S * 1000, cgroup="/a.scope", total_us=1_500_000))
    first = built(shown)
    same = built(shown, first.accepted, now_ns=NOW_NS + 1)
    later = replace(view(), memory=memory(T0_S * 1000 + 60_000, cgroup="/b.scope", total_us=500_000))
    anew = built(later, same.accepted, now_ns=NOW_NS + 2)

    sent = on_the_wire(first)
    assert sent["qemu.vm.memory.configured"].value == 5 << 30
    assert sent["qemu.vm.memory.configured"].time_ns == (T0_S - 7) * SECOND_NS
    assert sent["qemu.vm.memory.rss"].time_ns == T0_S * SECOND_NS
    assert "qemu.vm.memory.hugetlb" not in sent
    assert sent["qemu.vm.cgroup.memory.pressure.some"].monotonic
    assert not [name for name in on_the_wire(same) if "memory" in name]
    again = on_the_wire(anew)
    assert again["qemu.vm.memory.rss"].start_ns == T0_S * SECOND_NS
    # The counters of another cgroup start again.
    assert again["qemu.vm.cgroup.memory.pressure.some"].start_ns == (T0_S + 60) * SECOND_NS
    pressure = next(each for each in metrics_of(anew) if each.name.endswith("pressure.some"))
    assert [each.as_double for each in data_points(pressure)] == [0.5]


def test_a_value_of_the_memory_that_was_not_observed_again_is_not_sent_again() -> None:
    first = built(replace(view(), memory=memory(T0_S * 1000)))
    later = replace(
        memory(T0_S * 1000 + 60_000), configured=Configured(4 << 30, 1 << 30, T0_S * 1000 - 7_000)
    )
    anew = built(replace(view(), memory=later), first.accepted, now_ns=NOW_NS + 1)

    assert "qemu.vm.memory.rss" in on_the_wire(anew)
    assert "qemu.vm.memory.configured" not in on_the_wire(anew)


# --- identity ---

WHO = {"host.id": "host-1", "host.name": "node-7", "qemu.vm.id": "vm-1", "qemu.vm.name": "web-3"}


def test_the_resource_is_the_vm() -> None:
    expected = {"service.name": "barograph", "service.instance.id": "host-1/vm-1", **WHO}

    assert resource_of(built(view())) == expected


def test_id_name_and_host_are_on_the_points_too() -> None:
    points = on_the_wire(built(view(sample())))

    assert points
    assert all(WHO.items() <= point.attributes.items() for point in points.values())


def test_id_name_and_host_are_only_on_the_resource_if_configured() -> None:
    points = built(view(sample()), identity="resource")

    assert on_the_wire(points)["qemu.vm.guest.memory.free"].attributes == {}
    assert on_the_wire(points)["qemu.vm.state"].attributes == {"qemu.vm.state": "reporting"}
    assert WHO.items() <= resource_of(points).items()


def test_labels_from_the_path_are_attributes() -> None:
    shown = view(of=vm(labels={"vmid": "104"}))

    assert resource_of(built(shown))["qemu.vm.label.vmid"] == "104"
    assert on_the_wire(built(shown))["qemu.vm.state"].attributes["qemu.vm.label.vmid"] == "104"


def test_constant_labels_are_on_the_resource_only_and_change_no_identity() -> None:
    points = built(view(), agent=replace(AGENT, labels={"k8s.cluster.name": "eu-1"}))

    assert resource_of(points)["k8s.cluster.name"] == "eu-1"
    assert resource_of(points)["service.name"] == "barograph"
    assert "k8s.cluster.name" not in on_the_wire(points)["qemu.vm.state"].attributes


def test_an_unknown_vm_is_a_path() -> None:
    resource = resource_of(built(view(unknown=True, path="/run/vm/7.sock", state=State.NO_GREETING)))

    assert resource["service.instance.id"] == "host-1//run/vm/7.sock"
    assert resource["qemu.vm.monitor.path"] == "/run/vm/7.sock"
    assert "qemu.vm.id" not in resource


def test_invalid_names_become_utf_8() -> None:
    shown = view(of=vm(name="web-\udcff\ud800"), path="/run/\udce4.sock")
    nobody = view(unknown=True, path="/run/\udce4.sock")

    assert resource_of(built(shown))["qemu.vm.name"].startswith("web-\N{REPLACEMENT CHARACTER}")
    assert resource_of(built(nobody))["service.instance.id"].startswith(
        "host-1//run/\N{REPLACEMENT CHARACTER}"
    )


def test_a_vm_with_two_paths_is_shown_by_the_one_with_a_living_link() -> None:
    gone = view(path="/a", state=State.GONE, since_ms=9)
    alive = view(path="/b", state=State.REPORTING, since_ms=1)

    for views in ([gone, alive], [alive, gone]):
        assert [str(target.view.address) for target in targets(views, AGENT)] == ["/b"]


def test_a_duplicate_is_shown_as_a_path_and_leaves_the_vm_alone() -> None:
    shown = targets([view(path="/a", state=State.DUPLICATE), view(path="/b")], AGENT)

    assert [(target.key, target.vm is None) for target in shown] == [
        ("host-1/vm-1", False),
        ("host-1//a", True),
    ]


def test_there_is_no_description_on_the_wire() -> None:
    assert {metric.description for metric in metrics_of(built(view(sample())))} == {""}


# --- the end of a VM ---


def series_of(points: VmPoints) -> dict[tuple[str, tuple[tuple[str, str], ...]], int]:
    """Return the flags of each series."""
    return {
        (metric.name, tuple(sorted(decoded(metric, point).attributes.items()))): point.flags
        for metric in metrics_of(points)
        for point in data_points(metric)
    }


@pytest.mark.parametrize("identity", ["points", "resource"])
def test_each_series_of_a_vm_that_has_left_ends_once(identity: Identity) -> None:
    newest = sample(T0_S, statistics={"free_memory": 7, "unheard_of": 1})
    shown = replace(
        view(newest, balloon=Balloon(1, T0_S * 1000)), memory=memory(T0_S * 1000), pressure=pressure(newest)
    )
    first = built(shown, identity=identity)
    quiet = built(shown, first.accepted, now_ns=NOW_NS + SECOND_NS, identity=identity)
    end = build_end(first.key, quiet.accepted, AGENT, identity, NOW_NS + 2 * SECOND_NS)
    later = build_end(first.key, end.accepted, AGENT, identity, NOW_NS + 3 * SECOND_NS)

    assert resource_of(end) == resource_of(first)
    assert set(series_of(first).values()) == {0}
    assert series_of(end) == dict.fromkeys(series_of(first), 1)
    assert end.points == len(series_of(first))
    points = [point for metric in metrics_of(end) for point in data_points(metric)]
    assert {point.WhichOneof("value") for point in points} == {None}
    assert {point.time_unix_nano for point in points} == {NOW_NS + 2 * SECOND_NS}
    kinds = {metric.name: metric.WhichOneof("data") for metric in metrics_of(first)}
    assert {metric.name: metric.WhichOneof("data") for metric in metrics_of(end)} == kinds
    assert later.points == 0


def test_vms_with_the_same_series_share_one_set() -> None:
    one, other = built(view(sample(T0_S))), built(view(sample(T0_S), path="/other"))

    assert one.accepted.series
    assert one.accepted.series is other.accepted.series


def test_a_vm_that_returns_begins_its_series_again() -> None:
    first = built(view(sample(T0_S)))
    end = build_end(first.key, first.accepted, AGENT, "points", NOW_NS + SECOND_NS)
    back = built(view(sample(T0_S + 10, sequence=2)), end.accepted, now_ns=NOW_NS + 2 * SECOND_NS)
    same = built(view(sample(T0_S)), end.accepted, now_ns=NOW_NS + 2 * SECOND_NS)

    assert series_of(back) == series_of(first)
    assert "qemu.vm.guest.memory.free" not in on_the_wire(same)


def test_all_series_of_a_vm_that_is_gone_end_except_its_state() -> None:
    first = built(view(sample(T0_S), balloon=Balloon(1, T0_S * 1000)))
    gone = view(of=vm(), state=State.GONE)
    end = built(gone, first.accepted, now_ns=NOW_NS + SECOND_NS)
    after = built(gone, end.accepted, now_ns=NOW_NS + 2 * SECOND_NS)

    ended = {name for (name, _), flags in series_of(end).items() if flags}
    assert {"qemu.vm.guest.memory.free", "qemu.vm.balloon.actual"} <= ended
    assert "qemu.vm.state" not in ended
    reasons = {
        dict(of)["qemu.vm.state"]: flags for (name, of), flags in series_of(end).items() if "reason" in name
    }
    assert reasons == {"gone": 0, "reporting": 1}
    assert on_the_wire(end)["qemu.vm.state"].attributes["qemu.vm.state"] == "gone"
    assert set(series_of(after).values()) == {0}


def test_nothing_ends_while_time_has_gone_back() -> None:
    first = built(view(sample(T0_S)))

    assert build_end(first.key, first.accepted, AGENT, "points", NOW_NS).points == 0


def test_a_vm_that_is_gone_is_remembered_for_a_while() -> None:
    sent = {
        "here": SentVm(host_time_ns=1),
        "lately": SentVm(host_time_ns=90),
        "long ago": SentVm(host_time_ns=80),
    }

    assert forget_old(sent, frozenset({"here"}), now_ns=100, after_ns=15).keys() == {"here", "lately"}


# --- any sequence of samples ---

STEPS = st.tuples(
    st.integers(0, 6),  # last_update
    st.sampled_from(("epoch-1", "epoch-2", "epoch-3")),
    st.integers(1, 4),  # sequence
    st.integers(0, 6),  # the host's clock
    st.sampled_from(("accepted", "refused", "failed")),
)


@given(st.lists(STEPS, max_size=30))
def test_no_stream_ever_repeats_a_time_or_goes_back(steps: list[tuple[int, str, int, int, str]]) -> None:
    before = NOTHING_SENT
    newest: dict[str, Point] = {}
    for at_s, epoch, sequence, now, fate in steps:
        shown = view(sample(T0_S + at_s, epoch=epoch, sequence=sequence), balloon=Balloon(1, 1 + now))

        points = built(shown, before, now_ns=NOW_NS + now)

        for name, point in on_the_wire(points).items():
            assert point.start_ns <= point.time_ns
            if name in newest:
                assert point.time_ns > newest[name].time_ns
                assert point.start_ns >= newest[name].start_ns
            if fate == "accepted":
                newest[name] = point
        if fate != "failed":
            before = points.accepted if fate == "accepted" else points.refused


def test_the_vms_gone_longest_are_forgotten_first_above_the_bound() -> None:
    sent = {f"vm-{n}": SentVm(host_time_ns=n) for n in range(10)}

    kept = forget_old(sent, frozenset({"vm-0"}), now_ns=10, after_ns=100, vms_max=3)

    assert kept.keys() == {"vm-0", "vm-8", "vm-9"}


def test_unknown_statistics_make_a_bounded_number_of_series_for_each_vm() -> None:
    before, names, left_out = NOTHING_SENT, set[str](), 0
    for n in range(1, 50):
        invented = {f"n{n}_{number}": 1 for number in range(7)}
        shown = view(sample(T0_S + n, sequence=n, statistics={"free_memory": n, **invented}))
        points = built(shown, before, now_ns=NOW_NS + n)
        names |= on_the_wire(points).keys()
        left_out += points.left_out.get(RefusedPoint.TOO_MANY_NAMES, 0)
        assert on_the_wire(points)["qemu.vm.guest.memory.free"].value == n
        before = points.accepted

    others = {name for name in names if name.startswith(OTHER_PREFIX)}
    assert len(others) == OTHERS_OF_A_VM_MAX
    assert left_out == 49 * 7 - OTHERS_OF_A_VM_MAX

    known = {name.removeprefix(OTHER_PREFIX): 1 for name in others}
    shown = view(sample(T0_S + 60, sequence=50, statistics=known))
    again = built(shown, before, now_ns=NOW_NS + 60)
    assert others < on_the_wire(again).keys()


@pytest.mark.parametrize("identity", ["points", "resource"])
def test_a_label_that_changes_is_on_the_next_points(identity: Identity) -> None:
    def labeled(value: str) -> VmView:
        shown = view()
        of_vm = shown.state.vm
        assert of_vm is not None
        return replace(shown, state=replace(shown.state, vm=structs.replace(of_vm, labels={"team": value})))

    seen: list[str] = []
    for value in ("a", "b", "a"):
        points = built(labeled(value), identity=identity)
        seen.append(resource_of(points)["qemu.vm.label.team"])
        if identity == "points":
            assert {each.attributes["qemu.vm.label.team"] for each in on_the_wire(points).values()} == {value}

    assert seen == ["a", "b", "a"]


def test_the_parts_that_are_kept_encoded_are_bounded() -> None:
    for kept in (otlp_message._envelope, otlp_message._identity, otlp_message._without_points):
        assert kept.cache_parameters()["maxsize"] in (otlp_message.VMS_MAX, otlp_message.METRICS_KEPT_MAX)
