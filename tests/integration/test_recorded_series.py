"""Tests of the alerts on series of real guests: tests/data/recorded_series, from a real Prometheus."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.generate_rules import ROOT, RULES, source
from tests.integration.conftest import need
from tests.lab import setup

FOLDER = ROOT / "tests/data/recorded_series"
KINDS = ("scraped", "otlp", "agents_scraped", "agents_otlp", "jobs", "silent_scraped", "stalls_scraped")
BY_PROMTOOL = {"silent_scraped", "stalls_scraped"}
"""Recorded without a Prometheus: promtool determined the alerts, so no instant is uncertain."""
STEP_S = 15
MARGIN_S = 60
"""promtool has one sample every 15 s and evaluates at these instants; Prometheus evaluates at others."""


LATE_S = 150
"""From an event in a guest until a rule sees it: the stall deadline, the scrape and the evaluation."""

CAUSES: Mapping[str, Mapping[str, tuple[str, float, float]]] = {
    "scraped": {
        "BarographAgentDown": ("node-8", 24, 31),
        "BarographBacklogOld": ("node-8", 5, 13),
        "BarographDropping": ("node-8", 8, 22),
        "QemuVmStalled": ("driver", 3, 11),
        "QemuVmUnreachable": ("frozen", 3, 11),
        "QemuVmLockedOut": ("held", 0, 13),
        "QemuVmContended": ("contended", 3, 24),
        "QemuVmMemoryPressure": ("thrash", 2 + 3 + 5, 13 + 15),  # more than 5 % after 3 minutes: again
        "QemuVmOomKill": ("oom", 3, 3 + 15),
        "QemuVmMemoryLow": ("low", 1 + 30, 33 + 15),
    },
    "agents_scraped": {
        "BarographDeadLetters": ("node-3", 0, 12),
        "BarographSpoolFilling": ("node-2", 0, 18 + 2),
        "BarographHostMemoryLow": ("node-2", 1, 13),
        "BarographLagging": ("node-3", 14, 27 + 5),
        "QemuVmOomKill": ("oom", 3, 3 + 15),
    },
    "jobs": {
        "BarographJobDeadLetters": ("quality", 1, 1 + 15),
        "BarographJobFallsBehind": ("pressure", 2, 26),
        "BarographJobRestarting": ("quality", 4, 14 + 15),  # the last but one restart
        "BarographJobCheckpointsFail": ("quality", 4 + 5, 4 + 15),
        "BarographJobDown": ("quality", 16.7, 30),
    },
    "silent_scraped": {"QemuVmSilent": ("node-9", 0, 61)},
    "stalls_scraped": {"QemuVmAllocationStalls": ("stalls", 2, 13)},
}
"""By recording and alert: the VM, host or job, and the minutes at which its condition began and ended."""

OF_DELAYED_SCRAPES = {"BarographLagging"}
"""promtool cannot reproduce it: a stopped agent answers scrapes late, and the series have a fixed grid."""

LEVELS: Mapping[str, Mapping[str, int]] = {
    "scraped": {"low": 1, "thrash": 2, "oom": 3},
    "agents_scraped": {"low": 1, "oom": 3},
    "agents_otlp": {"low": 1, "oom": 3},
}
"""By recording and guest: the highest level of pressure. All other guests stay at 0."""

Document = Mapping[str, Any]


def recording(kind: str) -> Document:
    return yaml.load((FOLDER / f"{kind}.yaml").read_text(), yaml.CSafeLoader)


def texts_with_values() -> set[str]:
    """Return the alerts with the value in their texts; it differs from one evaluation to the next."""
    return {each["alert"] for each in source()["alerts"] if "$value" in each["summary"] + each["description"]}


def duration_s(text: str) -> int:
    found = re.fullmatch(r"(\d+)([mh])", text)
    assert found is not None
    return int(found[1]) * {"m": 60, "h": 3600}[found[2]]


def spans(document: Document, alert: str) -> list[Document]:
    return [each for each in document["alerts"] if each["labels"]["alertname"] == alert]


def expected(document: Document, alert: str, at_s: int) -> list[Document]:
    """Return what promtool must find: labels and texts as the real Prometheus had them."""
    return [
        {
            "exp_labels": {name: value for name, value in each["labels"].items() if name != "alertname"},
            "exp_annotations": each["annotations"],
        }
        for each in spans(document, alert)
        if each["from_s"] <= at_s <= each["until_s"]
    ]


def firing(document: Document, alert: str, at_s: int) -> list[Document]:
    """Return the series of the firing alerts, for alerts with texts that change with each evaluation."""
    found = [each["labels"] for each in spans(document, alert) if each["from_s"] <= at_s <= each["until_s"]]
    texts = [",".join(f"{name}={json.dumps(value)}" for name, value in each.items()) for each in found]
    return [{"labels": f'ALERTS{{alertstate="firing",{text}}}', "value": 1} for text in texts]


def instants(document: Document, alert: str, end_s: int, margin_s: int) -> Iterator[int]:
    """Yield times at which the alert's state does not depend on the instants of evaluation."""
    found = spans(document, alert)
    changes = sorted({0, end_s, *(each["from_s"] for each in found), *(each["until_s"] for each in found)})
    for begin_s, next_s in pairwise(changes):
        if next_s - begin_s > 2 * margin_s:
            for at_s in (begin_s + margin_s, next_s - margin_s):
                yield at_s // STEP_S * STEP_S


def end_s(document: Document) -> int:
    return max(seconds_in(each["values"]) for each in document["input_series"])


def seconds_in(values: str) -> int:
    return sum(int(word.partition("x")[2] or 0) + ("_x" not in word) for word in values.split())


def run_promtool(tmp_path: Path, document: Document, **tests: Sequence[Document]) -> None:
    test = {"interval": document["interval"], "input_series": document["input_series"], **tests}
    whole = {"rule_files": [str(RULES)], "evaluation_interval": f"{STEP_S}s", "tests": [test]}
    (tmp_path / "test.yaml").write_text(json.dumps(whole))  # JSON is YAML
    words = [setup.promtool(), "test", "rules", tmp_path / "test.yaml"]

    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, (done.stdout + done.stderr)[:20_000]


@pytest.mark.parametrize("kind", KINDS)
def test_each_alert_fires_and_clears_as_in_the_real_prometheus_word_for_word(
    kind: str, tmp_path: Path
) -> None:
    need("promtool")
    document = recording(kind)
    last_s, margin_s = end_s(document), 0 if kind in BY_PROMTOOL else MARGIN_S
    with_values = texts_with_values() - OF_DELAYED_SCRAPES
    skipped = with_values | OF_DELAYED_SCRAPES
    alerts = [each["alert"] for each in source()["alerts"]]

    run_promtool(
        tmp_path,
        document,
        alert_rule_test=[
            {"alertname": alert, "eval_time": f"{at_s}s", "exp_alerts": expected(document, alert, at_s)}
            for alert in alerts
            if alert not in skipped
            for at_s in instants(document, alert, last_s, margin_s)
        ],
        promql_expr_test=[
            {
                "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                "eval_time": f"{at_s}s",
                "exp_samples": firing(document, alert, at_s),
            }
            for alert in with_values
            for at_s in instants(document, alert, last_s, margin_s)
        ],
    )


@pytest.mark.parametrize("kind", LEVELS)
def test_the_rules_and_the_agent_give_each_guest_the_same_highest_level(kind: str, tmp_path: Path) -> None:
    """The time at which it is reached may differ, since the recording does not have every sample."""
    need("promtool")
    document = recording(kind)
    highest = [f"max_over_time({name}[1h])" for name in ("qemu_vm:pressure:level", "qemu_vm_pressure_level")]

    run_promtool(
        tmp_path,
        document,
        promql_expr_test=[
            {
                "expr": f"{highest[0]} == on (qemu_vm_name) group_right () ({highest[1]} > 0)",
                "eval_time": f"{end_s(document)}s",
                "exp_samples": [
                    {"labels": labels_of(document, name), "value": level}
                    for name, level in LEVELS[kind].items()
                ],
            },
            {
                "expr": f"{highest[0]} != on (qemu_vm_name) {highest[1]}",
                "eval_time": f"{end_s(document)}s",
                "exp_samples": [],
            },
        ],
    )


def labels_of(document: Document, name: str) -> str:
    names = [each["series"] for each in document["input_series"]]
    return next(
        each.removeprefix("qemu_vm_pressure_level")
        for each in names
        if each.startswith("qemu_vm_pressure_level{") and f'qemu_vm_name="{name}"' in each
    )


@pytest.mark.parametrize("kind", CAUSES)
def test_each_alert_fires_within_its_for_and_clears_after_its_cause(kind: str) -> None:
    document = recording(kind)
    delays = {each["alert"]: duration_s(each["for"]) for each in source()["alerts"]}

    for alert, (subject, from_minute, until_minute) in CAUSES[kind].items():
        found = [each for each in spans(document, alert) if subject in json.dumps(each["labels"])]
        assert found, alert
        due_s = from_minute * 60 + delays[alert]
        for each in found:
            assert due_s <= each["from_s"] <= due_s + LATE_S, (alert, due_s, each)
            assert until_minute * 60 - 60 <= each["until_s"] <= until_minute * 60 + LATE_S, (alert, each)


def test_a_healthy_vm_has_no_alert() -> None:
    for kind in KINDS:
        named = {each["labels"].get("qemu_vm_name") for each in recording(kind)["alerts"]}
        assert named.isdisjoint({"steady", "paused", "killed"}), kind


def test_the_docs_list_the_alerts_seen_on_real_guests() -> None:
    seen = {each["labels"]["alertname"] for kind in KINDS for each in recording(kind)["alerts"]}
    section = (ROOT / "docs/monitoring.md").read_text().partition("\n## How the alerts were tested\n")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section.partition("\n## ")[0], re.MULTILINE))

    assert rows.keys() == {each["alert"] for each in source()["alerts"]}
    assert {alert for alert, how in rows.items() if how.startswith("real")} == seen
