from pathlib import Path

from agent.core.explanations import EXPLANATIONS, explain
from agent.core.reading import State
from agent.core.states import Reason
from agent.errors import LinkFault
from tests.contract.states_page import PAGE, WHEN, page
from tests.contract.states_shown import SHOWN


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page()


def test_every_state_and_every_reason_is_explained() -> None:
    assert sorted(WHEN) == sorted(State)
    assert {reason for _, reason in EXPLANATIONS} == {*Reason, *LinkFault}


def test_every_state_and_every_reason_is_shown_by_a_test_that_exists() -> None:
    root = Path(__file__).parents[2]

    missing = [test for *_, file, test in SHOWN if f"def {test}(" not in (root / file).read_text()]

    assert missing == []
    assert {state for state, *_ in SHOWN} == set(State)
    assert {reason for _, reason, *_ in SHOWN} >= {*Reason, *LinkFault}
    assert set(EXPLANATIONS) <= {row[:2] for row in SHOWN}


def test_a_run_state_is_explained_and_an_unknown_reason_is_not() -> None:
    postmigrate, later = explain(State.PAUSED, "postmigrate"), explain(State.PAUSED, "a-later-one")

    assert postmigrate is not None
    assert postmigrate.meaning == "the VM was migrated to another host"
    assert later is not None
    assert later.meaning == "QEMU does not run the VM"
    assert explain(State.REPORTING, "a_later_one") is None
