"""Tests of freezing the schemas, on a copy: each later change of a frozen file is detected."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract import freeze
from tests.contract.schema_files import ALL_DOCUMENTS, SCHEMAS

SAMPLE = "sample/v1/1.0.schema.json"


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    root = Path(shutil.copytree(SCHEMAS, tmp_path / "schemas"))
    freeze.freeze(root)
    return root


def test_a_released_file_never_changes() -> None:
    assert freeze.changed(SCHEMAS) == []


def test_all_schemas_and_valid_examples_are_frozen(frozen: Path) -> None:
    names = freeze.listed((frozen / freeze.LIST).read_text()).keys()

    assert freeze.changed(frozen) == []
    assert freeze.unreleased(frozen) == []
    for document in ALL_DOCUMENTS:
        assert {f"{document}/v1/1.0.schema.json", f"{document}/v1/1.0.open.json"} <= names
        assert [each for each in names if each.startswith(f"{document}/v1/examples/valid/")]
    assert not [each for each in names if "/invalid/" in each]


def replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a space": lambda path: replace(path, "\n}\n", "\n} \n"),
    "a field": lambda path: replace(path, '"sequence"', '"number"'),
    "a description": lambda path: replace(path, '"description": "', '"description": "The '),
    "the file": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_a_frozen_file_is_detected_and_not_frozen(
    frozen: Path, change: Callable[[Path], object]
) -> None:
    before = (frozen / freeze.LIST).read_text()

    change(frozen / SAMPLE)

    assert freeze.changed(frozen) == [SAMPLE]
    with pytest.raises(ValueError, match=SAMPLE):
        freeze.freeze(frozen)
    assert (frozen / freeze.LIST).read_text() == before


def test_a_removed_example_is_detected(frozen: Path) -> None:
    example = next((frozen / "sample/v1/examples/valid").iterdir())
    example.unlink()

    assert freeze.changed(frozen) == [str(example.relative_to(frozen))]


def test_a_new_version_is_added_to_the_list_without_changing_it(frozen: Path) -> None:
    before = (frozen / freeze.LIST).read_text()
    schema = json.loads((frozen / SAMPLE).read_text())
    (frozen / "sample/v1/1.1.schema.json").write_text(json.dumps(schema))

    assert freeze.changed(frozen) == []
    assert freeze.freeze(frozen) == ["sample/v1/1.1.schema.json"]
    assert (frozen / freeze.LIST).read_text().startswith(before)
