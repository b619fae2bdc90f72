"""docs/contract.md shows one valid example of each kind of record, and explains every field."""

import json
import re
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from tests.contract.schema_files import DOCUMENTS, SCHEMAS, newest

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
TEXT = PAGE.read_text()
RECORDS = re.findall(
    r"\(\.\./schemas/([^)]+/examples/valid/[^)]+)\)\):\n\n```jsonc\n(.*?)^```", TEXT, re.M | re.S
)
"""The path of each example below schemas/, and its annotated text on the page."""

_COMMENT = re.compile(r" // .+$", re.M)


def annotated(text: str) -> set[str]:
    """Return the fields of a record's document that have a comment, on themselves or on a field of theirs."""
    fields = re.findall(r'^  "(\w+)":(.*?)(?=^  "|^})', text, re.M | re.S)
    return {name for name, rest in fields if _COMMENT.search(rest)}


def test_there_is_one_record_of_each_kind() -> None:
    assert sorted(path.partition("/")[0] for path, _ in RECORDS) == sorted(DOCUMENTS)
    assert len(RECORDS) == TEXT.count("```jsonc")


@pytest.mark.parametrize(("path", "text"), RECORDS, ids=[path for path, _ in RECORDS])
def test_a_record_is_equal_to_the_example_that_it_links(path: str, text: str) -> None:
    shown = json.loads(_COMMENT.sub("", text))

    assert json.dumps(shown) == json.dumps(json.loads((SCHEMAS / path).read_text()))


def test_every_field_shown_has_a_comment_in_one_of_the_records() -> None:
    shown = {name for _, text in RECORDS for name in json.loads(_COMMENT.sub("", text))}

    assert shown - {name for _, text in RECORDS for name in annotated(text)} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_field_of_a_document_is_on_the_page(document: str) -> None:
    fields = cast(dict[str, Any], newest(document)["properties"])

    assert [name for name in fields if f'"{name}"' not in TEXT and f"`{name}`" not in TEXT] == []


def test_the_record_in_the_page_of_the_stream_jobs_is_valid() -> None:
    page = (PAGE.parent / "streams.md").read_text()
    records = [
        json.loads(_COMMENT.sub("", text)) for text in re.findall(r"^```jsonc\n(.*?)^```", page, re.M | re.S)
    ]
    schema = json.loads((SCHEMAS / "pressure/v1/1.0.schema.json").read_text())

    assert len(records) == 1
    validator: Any = jsonschema.Draft202012Validator(schema)
    validator.validate(records[0])
