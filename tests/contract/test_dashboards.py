"""The dashboards agree with their source and with the metrics."""

import json
import re
from pathlib import Path

import pytest

from agent.contract.metrics import GUEST_METRICS, HOST_METRICS, PRESSURE_METRICS, prometheus_name
from agent.telemetry import INSTRUMENTS
from tests.contract.generate_dashboards import FOLDER, made, queries, source

FLINK = "flink_"
"""Metrics of the stream jobs: integration/test_streams.py compares them with those of a real Flink."""

BOARDS = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", made(), ids=str)
def test_the_committed_files_are_up_to_date(path: Path) -> None:
    assert path.read_text() == made()[path], "run `python -m tests.contract.generate_dashboards`"


def test_the_five_dashboards_have_distinct_uids_and_link_to_each_other() -> None:
    boards = [json.loads(path.read_text()) for path in BOARDS]

    assert {each["uid"] for each in boards} == {f"barograph-{name}" for name in source()}
    assert len(boards) == 5
    for each in boards:
        assert each["tags"] == each["links"][0]["tags"] == ["barograph"]
        assert {"datasource", "cluster", "host"} <= {one["name"] for one in each["templating"]["list"]}


def test_every_panel_has_a_unique_title_a_unit_and_a_description() -> None:
    for name, board in source().items():
        titles = [panel[0] for panel in board["panels"]]
        assert len(set(titles)) == len(titles), name
        assert all(unit and description.strip() for _, unit, description, _ in board["panels"]), name


@pytest.mark.parametrize(("panel", "query"), [*queries()])
def test_every_query_uses_only_metrics_that_exist(panel: str, query: str) -> None:
    known = {
        *(prometheus_name(each) for each in (*GUEST_METRICS.values(), *HOST_METRICS, *PRESSURE_METRICS)),
        *(prometheus_name(each.metric) for each in INSTRUMENTS),
        "barograph_lag_seconds_bucket",
        "barograph:agent:info",
    }

    used = set(re.findall(r"[\w:]+(?=\{)", query))

    assert used, panel
    assert {name for name in used if not name.startswith(FLINK)} <= known
