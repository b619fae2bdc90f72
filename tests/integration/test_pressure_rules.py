"""Tests that the recording rules compute the levels of schemas/pressure/vectors.json, where PromQL can."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from agent.contract.metrics import GUEST_METRICS, prometheus_name
from agent.core.pressure import PressureLevel
from tests.contract.generate_rules import ROOT
from tests.contract.pressure_rules import pressure_records
from tests.integration.conftest import need
from tests.lab import setup

CASES: list[Mapping[str, Any]] = json.loads((ROOT / "schemas/pressure/vectors.json").read_text())["cases"]


DIFFERENT = {
    "no available memory",  # no rule has a value
    "nothing to judge by",  # the same
    "a gap of hours before pressure is reached",  # the newest rate counts for 10 minutes more
    "a gap of hours under pressure",  # a range does not show where the gap was
    "a gap while memory is low",  # Prometheus sees the gap only 10 minutes after its start
    "an OOM kill in a gap",  # the rule looks back 1 hour
    "10 minutes are not a gap",  # a rate needs both samples in one range
}
"""The cases that PromQL cannot compute; docs/monitoring.md has the reasons."""


def as_test(case: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a case as a test of promtool; `None` if its time goes back."""
    samples: Sequence[Mapping[str, Any]] = case["samples"]
    start = samples[0]["last_update"]
    times = [each["last_update"] - start for each in samples]
    if times != sorted(times):
        return None
    names = {name for each in samples for name in each["statistics"]}
    return {
        "name": case["name"],
        "interval": "1s",
        "input_series": [
            {
                "series": prometheus_name(GUEST_METRICS[name]) + '{qemu_vm_id="a"}',
                "values": " ".join(values(times, [each["statistics"].get(name) for each in samples])),
            }
            for name in sorted(names)
        ],
        "promql_expr_test": [
            {
                "expr": "qemu_vm:pressure:level",
                "eval_time": f"{time}s",
                "exp_samples": [
                    {
                        "labels": 'qemu_vm:pressure:level{qemu_vm_id="a"}',
                        "value": PressureLevel(each["expect"]["level"]).rank,
                    }
                ],
            }
            for time, each in zip(times, samples, strict=True)
            if each["expect"] is not None
        ],
    }


def values(times: Sequence[int], found: Sequence[int | None]) -> Iterator[str]:
    """Yield promtool's notation: one value per second, `_` where there is none."""
    at = 0
    for time, value in zip(times, found, strict=True):
        if time < at:
            continue  # delivered again
        if time > at:
            yield f"_x{time - at}"
        yield "_" if value is None else str(value)
        at = time + 1


def comparable() -> Iterator[ParameterSet]:
    """Yield the cases that PromQL can compute. promtool evaluates each second, so those of hours are slow."""
    for case in CASES:
        if as_test(case) is None or case["name"] in DIFFERENT:
            continue
        span_s = case["samples"][-1]["last_update"] - case["samples"][0]["last_update"]
        yield pytest.param(case, id=case["name"], marks=[pytest.mark.long] if span_s > 1_000 else [])


def run_promtool(case: Mapping[str, Any], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Compare the levels of the rules with those of a case."""
    test = as_test(case)
    groups = {"groups": [{"name": "pressure", "rules": pressure_records(1)}]}
    (folder / "rules.yaml").write_text(json.dumps(groups))  # JSON is YAML
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "1s", "tests": [test]}
    (folder / "test.yaml").write_text(json.dumps(tests))
    command = [setup.promtool(), "test", "rules", folder / "test.yaml"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("case", [*comparable()])
def test_the_level_is_that_of_the_vectors(case: Mapping[str, Any], tmp_path: Path) -> None:
    need("promtool")

    done = run_promtool(case, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["no available memory", "nothing to judge by"])
def test_promql_cannot_compute_the_cases_that_are_listed_as_different(name: str, tmp_path: Path) -> None:
    need("promtool")

    done = run_promtool(next(case for case in CASES if case["name"] == name), tmp_path)

    assert done.returncode == 1
    assert "qemu_vm:pressure:level" in done.stdout + done.stderr


def test_every_case_that_differs_exists() -> None:
    assert {case["name"] for case in CASES} >= DIFFERENT
