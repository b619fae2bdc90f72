"""The seeded faults of tests/model fit the tree: one that does not seeds nothing, and nobody would know."""

import pytest

from tests.model.seeded_faults import MODELS, ROOT, package


@pytest.mark.parametrize("model", MODELS)
def test_each_fault_has_its_one_place(model: str) -> None:
    places = {
        (file, old): (ROOT / package(model) / file).read_text().count(old) for file, old, _ in MODELS[model]
    }

    assert [place for place, found in places.items() if found != 1] == []
