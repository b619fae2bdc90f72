"""`barograph status` shows the VMs worst first, whatever they are named."""

import json

import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli
from agent.cli.status_table import PROBLEMS, parse, table
from agent.core.reading import State
from tests.unit.test_cli_health import HOST, answering


def vm(name: str, state: str, available: int | None = None) -> dict[str, object]:
    statistics = {} if available is None else {"available_memory": available, "total_memory": 100}
    return {
        "age_s": 5.0,
        "state": {"vm": {"name": name}, "state": state, "reason": "why", "since_ms": 0},
        "sample": {"statistics": statistics},
        "pressure": {"level": "none"},
    }


def document(*vms: dict[str, object]) -> str:
    return json.dumps({"now_ms": 7_200_000, "vms": vms})


def status(*words: str) -> Result:
    return CliRunner().invoke(cli, ["status", *words], env=HOST, prog_name="barograph")


def test_problems_come_first_then_the_vms_with_the_least_memory() -> None:
    text = document(
        vm("a", "reporting", 50), vm("b", "reporting", 4), vm("c", "paused"), vm("d", "stalled", 9)
    )

    lines = table(parse(text.encode())).splitlines()

    assert [line.split() for line in lines] == [
        ["VM", "STATE", "REASON", "SINCE", "AGE", "AVAIL"],
        ["d", "stalled", "why", "2h", "5s", "-"],
        ["c", "paused", "why", "2h", "5s", "-"],
        ["b", "reporting", "why", "2h", "5s", "4%"],
        ["a", "reporting", "why", "2h", "5s", "50%"],
    ]


def test_every_state_has_a_rank() -> None:
    assert {*PROBLEMS, "paused", "gone", "reporting"} == {state.value for state in State}


def test_a_hostile_name_is_cut_and_printable() -> None:
    shown = table(parse(document(vm("\x1b[2J\u202e\n" + "x" * 999, "stalled")).encode()))

    assert len(shown.splitlines()) == 2
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert shown.replace("\n", "").isprintable()
    assert shown.isascii()


@pytest.mark.parametrize(
    ("state", "code"),
    [("reporting", 0), ("paused", 0), ("gone", 0), ("stalled", 1), ("new-state", 1)],
)
def test_the_exit_code_says_whether_all_report(state: str, code: int) -> None:
    with answering({"/status": (200, document(vm("a", state)))}) as place:
        assert status("--web", place).exit_code == code


def test_json_is_the_document() -> None:
    text = document(vm("a", "reporting", 50))
    with answering({"/status": (200, text)}) as place:
        assert status("--web", place, "-o", "json").stdout == text + "\n"


@pytest.mark.parametrize("answer", [(200, "[]"), (200, "{"), (503, document())])
def test_an_agent_without_a_status_is_reported(answer: tuple[int, str]) -> None:
    with answering({"/status": answer}) as place:
        done = status("--web", place)

    assert done.exit_code == 3
    assert done.stderr.startswith(f"no status from {place}: ")


def test_an_answer_above_the_bound_is_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.status._ANSWER_MAX_BYTES", 1000)
    with answering(
        {"/status": (200, document(*(vm(f"vm-{number}", "reporting") for number in range(99))))}
    ) as place:
        done = status("--web", place)

    assert done.exit_code == 3
    assert done.stderr.startswith(f"no status from {place}: ")
