import pytest

from agent.core.wording import counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 records"), (1, "1 record"), (2, "2 records")])
def test_a_noun_agrees_with_its_number(count: int, text: str) -> None:
    assert counted(count, "record") == text
