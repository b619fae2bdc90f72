"""The rules of Prometheus, their runbooks and their unit tests agree with the source and with the metrics."""

import re
from pathlib import Path

import pytest
import yaml

from agent.contract.metrics import GUEST_METRICS, HOST_METRICS, PRESSURE_METRICS, prometheus_name
from agent.telemetry import INSTRUMENTS, LAG_BOUNDS_S
from tests.contract.generate_rules import ROOT, RUNBOOKS, made, source

_ALERTS = [alert["alert"] for alert in source()["alerts"]]


@pytest.mark.parametrize("path", made(), ids=str)
def test_the_committed_files_are_up_to_date(path: Path) -> None:
    assert path.read_text() == made()[path], "run `python -m tests.contract.generate_rules`"


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOKS.read_text(), re.MULTILINE) == _ALERTS


def test_each_meaning_in_a_runbook_is_complete() -> None:
    """A description with a value has no meaning in a runbook, which has no value."""
    for alert in source()["alerts"]:
        assert ("meaning" in alert) == ("$value" in alert["description"]), alert["alert"]
    assert "{{" not in RUNBOOKS.read_text()


def test_the_limit_of_the_lag_is_a_bound_of_the_histogram() -> None:
    """Prometheus interpolates between two bounds: it could report a lag of 2.6 s as one of 8 s."""
    (expr,) = (alert["expr"] for alert in source()["alerts"] if alert["alert"] == "BarographLagging")

    assert float(expr.rpartition("> ")[2]) in LAG_BOUNDS_S


def test_the_chart_replaces_the_address_of_the_runbooks() -> None:
    values = yaml.safe_load((ROOT / "helm/barograph/values.yaml").read_text())
    template = (ROOT / "helm/barograph/templates/prometheusrule.yaml").read_text()

    assert values["monitoring"]["runbooks"] == source()["runbooks"]
    assert f'replace "{source()["runbooks"]}" $.Values.monitoring.runbooks' in template


def test_every_alert_is_tested_before_during_and_after_it_fires() -> None:
    tests = yaml.safe_load((ROOT / "monitoring/tests/alerts.yaml").read_text())["tests"]

    assert {test["name"] for test in tests} == set(_ALERTS)
    for test in tests:
        expected = [bool(each["exp_alerts"]) for each in test["alert_rule_test"]]
        assert expected == [False, True, False], test["name"]


def test_every_metric_in_a_rule_exists() -> None:
    """The names are the same over OTLP and at `/metrics`."""
    table = source()
    known = {
        *(prometheus_name(each) for each in (*GUEST_METRICS.values(), *HOST_METRICS, *PRESSURE_METRICS)),
        *(prometheus_name(each.metric) for each in INSTRUMENTS),
        *(each["record"] for each in table["records"]),
        "barograph_lag_seconds_bucket",
    }

    used = {
        name
        for rule in (*table["records"], *table["alerts"])
        for name in re.findall(
            r"\b(?:qemu_vm:[\w:]+|(?:qemu|barograph)_\w+)(?=[{\[) ]|$)", _no_labels(rule["expr"])
        )
    }

    assert used
    assert used <= known


def _no_labels(expr: str) -> str:
    """Return the expression without the lists of labels after `by`, and without matchers."""
    return re.sub(r"\bby \([^)]*\)|\{[^}]*\}", "", expr)
