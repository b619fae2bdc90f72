from agent.core.reading import State
from agent.core.states import Reason
from agent.errors import LinkFault
from tests.contract.states_page import PAGE, REASONS, WHEN, page


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page()


def test_every_state_and_every_reason_is_explained() -> None:
    assert list(WHEN) == list(State)
    assert set(REASONS) == {*Reason, *LinkFault}
