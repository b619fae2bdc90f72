"""The metric registry and the code name the same metrics; and each is what its statistic is."""

from collections.abc import Mapping
from typing import cast

import pytest

from agent.contract import metrics
from agent.contract.metrics import GUEST_METRICS, HOST_METRICS, Metric
from agent.contract.statistics import KNOWN_STATISTICS
from agent.core.reading import State
from agent.sinks import otlp_points
from tests.contract.generate import Group, metrics_of, prometheus_name, registry, statistic_of


def as_metric(group: Group) -> Metric:
    assert group["id"] == f"metric.{group['metric_name']}"
    return Metric(
        str(group["metric_name"]),
        str(group["unit"]),
        cast(metrics.Kind, group["instrument"]),
        str(group["brief"]),
    )


def attributes() -> dict[str, Mapping[str, object]]:
    listed = cast(list[Mapping[str, object]], registry()[0]["attributes"])
    return {str(attribute["id"]): attribute for attribute in listed}


def test_the_registry_holds_the_metrics_of_the_code() -> None:
    found = metrics_of(registry())

    guest = {statistic: as_metric(group) for group in found if (statistic := statistic_of(group))}

    assert guest == dict(GUEST_METRICS)
    assert tuple(as_metric(group) for group in found if not statistic_of(group)) == HOST_METRICS


def test_every_known_statistic_is_a_metric_of_its_own_unit_and_kind() -> None:
    kinds = {"counter": "counter", "gauge": "updowncounter"}

    assert {name: (metric.unit, metric.kind) for name, metric in GUEST_METRICS.items()} == {
        name: (known.unit, kinds[known.kind]) for name, known in KNOWN_STATISTICS.items()
    }


def test_the_registry_names_the_attributes_and_states_of_the_code() -> None:
    found = attributes()
    label_prefix = metrics.VM_LABEL_PREFIX.removesuffix(".")

    assert set(found) == {
        metrics.VM_ID,
        metrics.VM_NAME,
        metrics.VM_PATH,
        metrics.VM_STATE,
        label_prefix,
    }
    members = cast(Mapping[str, list[Mapping[str, str]]], found[metrics.VM_STATE]["type"])["members"]
    assert [member["value"] for member in members] == [state.value for state in State]


def test_every_attribute_a_metric_refers_to_is_ours_or_opentelemetrys() -> None:
    known = {*attributes(), metrics.HOST_ID, metrics.HOST_NAME}
    refers = {
        attribute["ref"]
        for group in metrics_of(registry())
        for attribute in cast(list[Mapping[str, str]], group["attributes"])
    }

    assert refers == known


def test_no_two_metrics_have_one_name_in_prometheus() -> None:
    names = [prometheus_name(group) for group in metrics_of(registry())]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["VM_PATH", "VM_LABEL_PREFIX", "OTHER_PREFIX"])
def test_the_otlp_sink_uses_the_documented_names(name: str) -> None:
    assert getattr(otlp_points, name) == getattr(metrics, name)
