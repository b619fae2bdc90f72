"""Each quote of a seeded fault occurs exactly once in the code."""

import pytest

from tests.model.seeded_faults import MODELS, Model, place_of


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_each_quote_occurs_once(model: Model) -> None:
    assert {old: place_of(model, old).suffix for old, _ in model.faults} == {
        old: ".py" for old, _ in model.faults
    }
