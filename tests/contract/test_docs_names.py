"""The settings, variables, metrics, labels, states and reasons in the docs and the alerts exist."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from agent.config.tree import all_settings
from agent.contract.metrics import (
    GUEST_METRICS,
    HOST_METRICS,
    PRESSURE_METRICS,
    STATE_REASON,
    prometheus_name,
)
from agent.core.explanations import EXPLANATIONS, RUN_STATES
from agent.core.reading import State
from agent.spool.queues import Queue
from agent.telemetry import INSTRUMENTS
from tests.contract.generate_rules import source
from tests.contract.test_docs import DOCS, ROOT

METRICS = [
    *GUEST_METRICS.values(),
    *HOST_METRICS,
    *PRESSURE_METRICS,
    *(instrument.metric for instrument in INSTRUMENTS),
]
SETTINGS = {setting.dotted for setting in all_settings()}
SECTIONS = {name.rpartition(".")[0] for name in SETTINGS} - {""}
PATTERNS = {"BAROGRAPH_SECTION__SETTING", "BAROGRAPH_SERVICE_HOST", "BAROGRAPH_PORT"}
"""A placeholder for any variable, and variables that Kubernetes sets."""

SINKS = {queue.sink for queue in Queue}
FILES = re.compile(r".*\.(?:json|sqlite)(?:\.vouched)?")
FIELDS = {"contract.md", "README.md"}
"""Pages about records. The names of their fields have dots too."""


def registered() -> set[str]:
    """Return the names of all attributes, events and metrics of the registry."""
    texts = [path.read_text() for path in sorted((ROOT / "schemas/metrics").glob("*.yaml"))]
    return {name for text in texts for name in re.findall(r"(?:qemu|barograph)\.[a-z0-9_.]+", text)}


def in_prometheus() -> set[str]:
    """Return the names of metrics, labels and recording rules, without suffixes of histograms."""
    names = {prometheus_name(metric) for metric in METRICS} | {each["record"] for each in source()["records"]}
    labels = {name.replace(".", "_") for name in registered()}
    return names | labels | {"qemu_vm_info", "barograph_streams", "barograph_job", "barograph_host_headroom"}


def of(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text))


def test_every_metric_is_in_the_docs_with_both_names() -> None:
    page = (ROOT / "docs/metrics.md").read_text()

    assert [each.name for each in METRICS if f"`{each.name}` | `{prometheus_name(each)}`" not in page] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_in_the_docs_exists(page: Path) -> None:
    text = page.read_text()
    prometheus = of(r"(?<![\w./-])(?:qemu_(?:vm|host)|barograph)_[a-z0-9_]*[a-z0-9](?![\w*(])", text)
    series = {re.sub(r"(?<=_seconds)_(?:bucket|sum|count)$", "", name) for name in prometheus}
    dotted = of(r"`(qemu\.(?:vm|host)\.[a-z0-9_.]+)`", text)

    assert {name for name in series - in_prometheus() if not name.startswith("qemu_vm_label_")} == set()
    assert dotted <= registered() | {each.name for each in METRICS}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_and_variable_in_the_docs_exists(page: Path) -> None:
    text = page.read_text()
    sections = "|".join(sorted(map(re.escape, SECTIONS), key=len, reverse=True))
    settings = of(rf"`((?:{sections})\.[a-z_.]+)`", text)
    variables = of(r"`(BAROGRAPH_[A-Z_]+)(?:=[^`]*)?`", text)

    settings -= {"host.labels"}  # a field of records
    if page.name in FIELDS:
        settings.clear()

    assert (
        settings - SETTINGS - SECTIONS - SINKS - chart_values() - set(filter(FILES.match, settings)) == set()
    )
    assert variables - PATTERNS - {setting.variable for setting in all_settings()} - read_elsewhere() == set()


@cache
def chart_values() -> set[str]:
    """Return the values of the chart, with dots."""

    def below(values: Mapping[str, Any], path: str) -> Iterator[str]:
        for name, value in values.items():
            yield f"{path}{name}"
            if isinstance(value, dict):
                yield from below(cast("Mapping[str, Any]", value), f"{path}{name}.")

    return set(below(yaml.safe_load((ROOT / "helm/barograph/values.yaml").read_text()), ""))


@cache
def read_elsewhere() -> set[str]:
    """Return the variables that are not settings: those of commands, of the stream jobs, of the build."""
    files = [ROOT / "Makefile", ROOT / "Containerfile"]
    files += [path for folder in ("agent", "streams", "tests") for path in (ROOT / folder).rglob("*.py")]
    return {name for path in files for name in of(r"BAROGRAPH_[A-Z_]+", path.read_text())}


def test_every_state_and_reason_that_an_alert_selects_exists() -> None:
    known = {(state.value, str(reason)) for state, reason in EXPLANATIONS}
    known |= {(State.PAUSED.value, run_state) for run_state in RUN_STATES}
    label = prometheus_name(STATE_REASON)

    for alert in source()["alerts"]:
        for matchers in re.findall(rf"{label}\{{([^}}]*)\}}", alert["expr"]):
            found = re.findall(r'(qemu_vm_state|qemu_vm_state_reason)(=~|!=|=)"([^"]*)"', matchers)
            values = {name: set(value.split("|")) for name, _, value in found}
            states, reasons = values.get("qemu_vm_state"), values.get("qemu_vm_state_reason")
            for state in states or ():
                assert state in {name for name, _ in known}, alert["alert"]
            for reason in reasons or ():
                pairs = {(name, reason) for name in states or {name for name, _ in known}}
                assert pairs & known, (alert["alert"], reason)


def test_the_labels_of_the_alerts_are_those_of_the_metrics() -> None:
    text = yaml.safe_dump(source())
    used = of(r"(?<![\w:])((?:qemu|barograph)_[a-z_]+)(?=!?=)", text) | of(r"\$labels\.(\w+)", text)
    flink = {"barograph_job", "outcome", "job_name"}

    assert used - flink <= in_prometheus() | {"instance"}
