from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_plain
from prometheus_client.samples import Sample

from agent.core.reading import Balloon, State, VmView
from agent.telemetry import Count, Counters, Levels
from agent.web.exposition import OPENMETRICS, PLAIN, SLICE_SAMPLES, Format, format_for, metrics_parts
from agent.web.server import open_web
from agent.web.web_settings import Settings
from tests.integration.audit import read
from tests.unit.sinks.views import AGENT, T0_S, memory, pressure, sample, view, vm
from tests.unit.web.client import Present, ask

HOSTILE = '"} 1\n# EOF\nx{y="\\'


def parts_of(present: Present, form: Format = OPENMETRICS) -> Iterator[str]:
    return metrics_parts(present.telemetry(), present.views, present.identity, form)


def text(present: Present) -> str:
    return "".join(parts_of(present))


def samples(present: Present) -> list[Sample]:
    return [each for family in read(text(present)) for each in family.samples]


def of(name: str, seen: Sequence[VmView]) -> list[Sample]:
    return [each for each in samples(Present(views=seen)) if each.name == name]


def test_a_guest_value_has_the_time_of_its_last_update() -> None:
    (shown,) = of("qemu_vm_guest_memory_free_bytes", [view(sample(statistics={"free_memory": 4096}))])

    assert (shown.value, float(shown.timestamp or 0)) == (4096, T0_S)
    assert shown.labels == {
        "host_id": "host-1", "host_name": "node-7", "qemu_vm_id": "vm-1", "qemu_vm_name": "web-3"
    }  # fmt: skip


@pytest.mark.parametrize("state", [state for state in State if state is not State.REPORTING])
def test_guest_values_are_shown_only_while_the_vm_is_reporting(state: State) -> None:
    seen = [view(sample(), state=state)]

    assert not [each for each in samples(Present(views=seen)) if each.name.startswith("qemu_vm_guest_")]
    assert [each.value for each in of("qemu_vm_last_update_seconds", seen)] == [T0_S]
    states = {each.labels["qemu_vm_state"]: each.value for each in of("qemu_vm_state", seen)}
    assert states == {each.value: int(each is state) for each in State}


@pytest.mark.parametrize(
    ("state", "reason", "shown"),
    [
        (State.STALLED, "no_advance", "no_advance"),
        (State.PAUSED, "inmigrate", "inmigrate"),
        (State.PAUSED, "postcopy", "postcopy"),
        (State.PAUSED, "made-up-1", "other"),
    ],
)
def test_the_reason_of_a_state_is_one_of_a_bounded_list(state: State, reason: str, shown: str) -> None:
    seen = view(sample(), state=state)

    (found,) = of("qemu_vm_state_reason", [replace(seen, state=replace(seen.state, reason=reason))])

    assert found.value == 1
    assert (found.labels["qemu_vm_state"], found.labels["qemu_vm_state_reason"]) == (state.value, shown)


def test_the_pressure_has_the_time_of_its_last_update() -> None:
    newest = sample()
    seen = [replace(view(newest), pressure=pressure(newest))]

    shown = [*of("qemu_vm_pressure_level", seen), *of("qemu_vm_pressure_score", seen)]

    assert [each.value for each in shown] == [2, 0.75]
    assert {float(each.timestamp or 0) for each in shown} == {T0_S}


@pytest.mark.parametrize(
    "seen",
    [
        replace(view(sample(), state=State.STALLED), pressure=pressure(sample())),
        replace(view(sample()), pressure=pressure(sample(), score=None)),
        view(sample()),
    ],
)
def test_the_pressure_is_shown_only_while_the_vm_is_reporting_and_it_is_known(seen: VmView) -> None:
    assert [*of("qemu_vm_pressure_level", [seen]), *of("qemu_vm_pressure_score", [seen])] == []


def test_a_guest_counter_ends_in_total() -> None:
    (shown,) = of("qemu_vm_guest_paging_major_faults_total", [view(sample(statistics={"major_faults": 7}))])

    assert shown.value == 7


def test_labels_of_a_vm_are_on_one_series_and_constant_ones_on_the_target() -> None:
    seen = [view(sample(of=vm(labels={"vmid": "104"})), of=vm(labels={"vmid": "104"}))]
    agent = replace(AGENT, labels={"k8s.cluster.name": "eu-1"})
    shown = samples(Present(views=seen, identity=agent))

    with_label = [each.name for each in shown if "qemu_vm_label_vmid" in each.labels]
    with_cluster = [each.name for each in shown if "k8s_cluster_name" in each.labels]
    (info,) = (each for each in shown if each.name == "qemu_vm_info")
    assert (with_label, with_cluster) == (["qemu_vm_info"], ["target_info"])
    assert info.value == 1
    assert info.labels == {
        "host_id": "host-1", "host_name": "node-7", "qemu_vm_id": "vm-1", "qemu_vm_name": "web-3",
        "qemu_vm_label_vmid": "104",
    }  # fmt: skip


def test_host_values_are_shown() -> None:
    seen = [view(sample(), balloon=Balloon(1 << 30, 5), interval_s=10)]

    assert [each.value for each in of("qemu_vm_balloon_actual_bytes", seen)] == [1 << 30]
    assert [each.value for each in of("qemu_vm_polling_interval_seconds", seen)] == [10]


def test_a_vms_memory_has_the_time_of_its_observation() -> None:
    seen = [replace(view(state=State.STALLED), memory=memory(T0_S * 1000, total_us=1_500_000))]

    (rss,) = of("qemu_vm_memory_rss_bytes", seen)
    assert (rss.value, float(rss.timestamp or 0)) == (3 << 30, T0_S)
    (configured,) = of("qemu_vm_memory_configured_bytes", seen)
    assert float(configured.timestamp or 0) == T0_S - 7
    assert [each.value for each in of("qemu_vm_balloon_deflate_on_oom", seen)] == [1]
    assert [each.value for each in of("qemu_vm_cgroup_memory_pressure_some_seconds_total", seen)] == [1.5]
    assert of("qemu_vm_cgroup_memory_limit_bytes", seen) == []


def test_a_vm_with_several_monitors_is_shown_once() -> None:
    seen = [
        view(sample(), path="/a"),
        view(path="/b", of=vm(), state=State.DUPLICATE),
        view(path="/c", unknown=True, state=State.CONNECTING),
    ]

    shown = [each.labels for each in of("qemu_vm_state", seen) if each.value]

    assert [each.get("qemu_vm_monitor_path") for each in shown] == [None, "/b", "/c"]


def test_hostile_names_stay_label_values_and_unknown_statistics_are_left_out() -> None:
    named = vm(name=HOSTILE)
    seen = [view(sample(of=named, statistics={"free_memory": 1, "x.y": 2, "x_y": 3}), of=named)]

    found = samples(Present(views=seen))

    names = {each.labels["qemu_vm_name"] for each in found if "qemu_vm_name" in each.labels}
    assert names == {HOSTILE}
    assert not [each for each in found if "other" in each.name]


def test_many_vms_are_one_family_in_slices() -> None:
    count = 2 * SLICE_SAMPLES + 3
    seen = [view(sample(of=vm(str(n))), path=f"/{n}") for n in range(count)]

    parts = list(parts_of(Present(views=seen)))

    assert len(of("qemu_vm_guest_memory_free_bytes", seen)) == count
    assert max(part.count("\n") for part in parts[1:]) <= SLICE_SAMPLES + 3
    assert "".join(parts).count("# TYPE qemu_vm_guest_memory_free_bytes gauge") == 1


def test_the_agents_own_metrics_are_shown_with_lag_as_a_histogram() -> None:
    counters = Counters()
    counters.add(Count.SAMPLES, 3)
    for lag_s in (0.0005, 0.004, 60.0):
        counters.lag.record(lag_s)
    present = Present(counters=counters, levels=Levels(waiting={"lines": 2}, oldest_age_s={"lines": 1.5}))

    found = {(each.name, *each.labels.values()): each.value for each in samples(present)}

    assert found["barograph_samples_total",] == 3
    assert found["barograph_queue_size", "lines"] == 2
    assert found["barograph_queue_age_seconds", "lines"] == 1.5
    assert found["barograph_lag_seconds_bucket", "0.001"] == 1
    assert found["barograph_lag_seconds_bucket", "0.005"] == 2
    assert found["barograph_lag_seconds_bucket", "+Inf"] == 3
    assert found["barograph_lag_seconds_sum",] == pytest.approx(60.0045)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", OPENMETRICS),
        ("*/*", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", OPENMETRICS),
        ("text/plain", PLAIN),
    ],
)
def test_the_format_is_openmetrics_unless_only_the_older_one_is_accepted(accept: str, form: object) -> None:
    assert format_for(accept) is form


def test_the_older_format_has_the_same_values() -> None:
    named = vm(name=HOSTILE)
    present = Present(views=[view(sample(of=named), of=named)])

    plain = "".join(parts_of(present, PLAIN))

    read = {each.name: each for family in read_plain(plain) for each in family.samples}
    assert read["qemu_vm_guest_memory_free_bytes"].timestamp == T0_S
    assert read["qemu_vm_guest_memory_free_bytes"].labels["qemu_vm_name"] == HOSTILE
    assert not plain.endswith("# EOF\n")


async def test_metrics_have_the_content_type_of_their_format() -> None:
    async with open_web(Settings(host="127.0.0.1", port=0), Present().application()) as url:
        answer = await ask(url, "/metrics")

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
