"""docs/terminal.md lists exactly the problem codes that `barograph status` can print."""

import re
from collections.abc import Iterator
from pathlib import Path

from agent.cli.status_problems import problems, unreachable
from agent.core.explanations import EXPLANATIONS, RUN_STATES
from agent.core.health import Health
from agent.core.pressure import PressureLevel
from agent.core.reading import State
from agent.spool.queues import Queue
from tests.unit.test_cli_status import parsed, vm

ROOT = Path(__file__).parents[2]
COMPONENTS = {"discovery", "collection", "spool", "otlp", "lines", *(queue.sink for queue in Queue)}


def _codes() -> Iterator[str]:
    """Yield the code of every problem that an agent can have."""
    states = [vm("a", state.value, reason=str(reason)) for state, reason in EXPLANATIONS]
    states += [vm("a", State.PAUSED.value, reason=run_state) for run_state in RUN_STATES]
    levels = [vm("a", State.REPORTING.value, 50, level=level.value) for level in PressureLevel]
    degraded = {name: {"state": Health.DEGRADED.value, "why": "why"} for name in COMPONENTS - {"collection"}}
    yield from (each.code for each in problems(parsed(*states, *levels, components=degraded)))
    yield from (each.code for each in problems(parsed()))
    yield unreachable("h:1", "why").code


def test_the_codes_of_the_docs_are_those_of_the_code() -> None:
    section = (ROOT / "docs/terminal.md").read_text().partition("## Problems")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`(?:vm|agent)/.*?) \|", section, re.MULTILINE)
    documented = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]

    assert len(documented) == len(set(documented))
    assert set(documented) == set(_codes())


def test_the_components_are_those_of_the_docs() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    sentence = page.partition("The components in `/healthz` are ")[2].partition(" once it is stopping")[0]

    assert set(re.findall(r"`([^`]+)`", sentence)) == COMPONENTS | {"agent"}
