"""The metric registry and the code declare the same metrics, with the unit and kind of their statistics."""

import re
from collections.abc import Iterable, Mapping
from typing import cast

import pytest
import yaml

from agent.contract import metrics, targets
from agent.contract.host_metrics import HUGE_PAGE_SIZE
from agent.contract.metrics import (
    GUEST_METRICS,
    HOST_METRICS,
    PRESSURE_METRICS,
    prometheus_family,
    prometheus_name,
)
from agent.contract.statistics import KNOWN_STATISTICS
from agent.core.reading import State
from agent.sinks import otlp_points
from agent.sinks.otlp_points import RefusedPoint
from agent.telemetry import COMPONENT, HEALTH, INSTRUMENTS, REASON, SINK, Count
from tests.contract.generate import (
    REGISTRY,
    as_metric,
    attributes_of,
    events_of,
    is_own,
    metrics_of,
    reasons_of,
    registry,
    statistic_of,
)


def attributes(group: int = 0) -> dict[str, Mapping[str, object]]:
    listed = cast(list[Mapping[str, object]], registry()[group]["attributes"])
    return {str(attribute["id"]): attribute for attribute in listed}


def test_the_registry_holds_the_metrics_of_the_code() -> None:
    found = metrics_of(registry())

    guest = {statistic: as_metric(group) for group in found if (statistic := statistic_of(group))}

    assert guest == dict(GUEST_METRICS)
    of_vms = [group for group in found if not statistic_of(group) and not is_own(group)]
    assert tuple(as_metric(group) for group in of_vms) == (*PRESSURE_METRICS, *HOST_METRICS)
    assert all(group["id"] == f"metric.{group['metric_name']}" for group in found)


def test_no_gauge_has_the_unit_to_which_prometheus_appends_ratio() -> None:
    """`integration/test_names_in_prometheus.py` compares the names over OTLP with those of `/metrics`."""
    all_metrics = [*GUEST_METRICS.values(), *PRESSURE_METRICS, *HOST_METRICS]
    all_metrics += [each.metric for each in INSTRUMENTS]

    assert [each.name for each in all_metrics if each.kind == "gauge" and each.unit == "1"] == []


def test_the_registry_holds_the_agents_own_metrics_with_their_attributes_and_reasons() -> None:
    own = [group for group in metrics_of(registry()) if is_own(group)]

    assert [(as_metric(group), tuple(attributes_of(group))) for group in own] == [
        (each.metric, each.attributes) for each in INSTRUMENTS
    ]
    assert [tuple(reasons_of(group)) for group in own] == [
        each.values if REASON in each.attributes else () for each in INSTRUMENTS
    ]
    assert set(attributes(1)) == {SINK, REASON, COMPONENT, HEALTH}


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
        HUGE_PAGE_SIZE,
    }
    members = cast(Mapping[str, list[Mapping[str, str]]], found[metrics.VM_STATE]["type"])["members"]
    assert [member["value"] for member in members] == [state.value for state in State]


def test_every_attribute_of_a_metric_is_declared_here_or_by_opentelemetry() -> None:
    known = {*attributes(), *attributes(1), metrics.VM_REASON, metrics.HOST_ID, metrics.HOST_NAME}
    refers = {
        attribute["ref"]
        for group in metrics_of(registry())
        for attribute in cast(list[Mapping[str, str]], group["attributes"])
    }

    assert refers == known


def test_the_registry_holds_the_events_of_the_code_with_their_attributes() -> None:
    vm, agent = events_of(registry())
    shared = {metrics.EVENT_ID, metrics.EVENT_RUN, metrics.EVENT_SEQUENCE, metrics.EVENT_SINCE}
    of_vm = {*attributes()} - {HUGE_PAGE_SIZE}
    of_vm |= {metrics.HOST_ID, metrics.HOST_NAME, metrics.VM_PREVIOUS_STATE, metrics.VM_REASON}

    assert (vm["name"], agent["name"]) == (metrics.VM_EVENT, metrics.AGENT_EVENT)
    assert set(attributes_of(vm)) == of_vm | shared
    assert set(attributes_of(agent)) == {metrics.AGENT_STATE, metrics.AGENT_PREVIOUS_STATE} | shared


def namespaces_among(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return each pair of names of which the first is the namespace of the second."""
    every = sorted(names)
    return [(name, other) for name in every for other in every if other.startswith(f"{name}.")]


def test_no_metric_is_the_namespace_of_another() -> None:
    """Source: semantic-conventions, docs/general/naming.md: names must not coincide with namespaces."""
    names = [str(group["metric_name"]) for group in metrics_of(registry())]

    assert len(set(names)) == len(names)
    assert namespaces_among([*names, metrics.OTHER_PREFIX + "name"]) == []
    assert namespaces_among(["a.b", "a.b_c", "a.b.c"]) == [("a.b", "a.b.c")]


def test_no_attribute_is_the_namespace_of_another() -> None:
    names = [*attributes(), *attributes(1), metrics.HOST_ID, metrics.HOST_NAME]

    assert namespaces_among([*names, metrics.VM_LABEL_PREFIX + "name"]) == [
        ("qemu.vm.label", "qemu.vm.label.name")  # a template: the prefix itself is not an attribute
    ]


SUFFIXES = ("_total", "_created", "_bucket", "_count", "_sum", "_info", "_gcount", "_gsum")
"""Suffixes that a series may have. Source: OpenMetrics 1.0, "Suffixes", and the types that use them."""


def test_no_two_metrics_have_one_name_in_prometheus_or_differ_by_a_suffix_of_series() -> None:
    names = [prometheus_name(as_metric(group)) for group in metrics_of(registry())]
    families = {prometheus_family(as_metric(group)) for group in metrics_of(registry())}

    assert len(set(names)) == len(families) == len(names)
    assert families & {family + suffix for family in families for suffix in SUFFIXES} == set()


def test_the_manifest_of_the_registry_gives_the_schema_url_that_is_sent() -> None:
    """Source: weaver, schemas/definition-manifest.v2.json; OpenTelemetry, schemas/README.md, "Schema URL"."""
    manifest = yaml.safe_load((REGISTRY.parent / "manifest.yaml").read_text())

    assert manifest["schema_url"] == metrics.SCHEMA_URL
    assert re.fullmatch(r"https://[a-z.]+(/[a-z]+)+/[0-9]+\.[0-9]+\.[0-9]+", metrics.SCHEMA_URL)
    assert manifest.keys() == {"schema_url", "description", "stability", "dependencies"}
    assert manifest["description"]
    assert manifest["stability"] == "development"
    (opentelemetry,) = manifest["dependencies"]
    version = opentelemetry["schema_url"].removeprefix("https://opentelemetry.io/schemas/")
    assert f"/v{version}.zip[model]" in opentelemetry["registry_path"]


def test_the_refused_points_have_the_reasons_of_the_sink() -> None:
    assert Count.POINTS_REFUSED.instrument.values == tuple(RefusedPoint)


@pytest.mark.parametrize("name", ["VM_PATH", "VM_LABEL_PREFIX"])
def test_vms_are_named_as_documented(name: str) -> None:
    assert getattr(targets, name) == getattr(metrics, name)


def test_the_otlp_sink_uses_the_documented_names() -> None:
    assert otlp_points.OTHER_PREFIX == metrics.OTHER_PREFIX
