"""Tests of the pressure that the stream jobs compute: the shared cases of schemas/pressure."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.core.pressure import advance as agent_advance
from barograph_streams.core import pressure as of_jobs
from barograph_streams.core.pressure import Pressure, advance
from barograph_streams.core.pressure_job import COMPONENTS

VECTORS = Path(__file__).parents[3] / "schemas" / "pressure" / "vectors.json"
CASES: list[Any] = json.loads(VECTORS.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_sequence_of_samples_gives_the_pressure_of_the_vectors(case: Any) -> None:
    now: Pressure | None = None
    for place, each in enumerate(case["samples"]):
        if each["origin"] == "poll":
            found = advance(
                None if now is None else now.state,
                epoch=each["epoch"],
                last_update_s=each["last_update"],
                statistics=each["statistics"],
            )
            now = found or now
        expect = each["expect"]
        if expect is None:
            assert now is None, place
            continue
        assert now is not None, place
        assert (now.state.level, now.state.since_s) == (expect["level"], expect["since"]), place
        assert (now.score is None) is (expect["score"] is None), place
        assert now.score is None or now.score == pytest.approx(expect["score"], abs=1e-6), place
        assert expect["components"].keys() == set(COMPONENTS)
        known = {name: value for name, value in expect["components"].items() if value is not None}
        assert now.components == pytest.approx(known, abs=1e-6), place


def test_the_bounds_are_those_of_the_agent() -> None:
    bounds = {name: value for name, value in vars(of_jobs).items() if name.isupper() and name[0] != "_"}
    del bounds["COUNTERS"]
    of_agent = agent_advance.__globals__

    assert len(bounds) == 10
    assert {name: of_agent[name] for name in bounds} == bounds
