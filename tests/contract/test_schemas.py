"""The schemas describe what readers need, and the examples and the generated files match them."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator

from agent.contract.decode import EXACT_MAX, LAST_UPDATE_MAX_S, STATISTICS_MAX
from agent.contract.payloads import MISSING_MAX, PATH_MAX, TEXT_MAX
from agent.contract.statistics import KNOWN_STATISTICS
from agent.core.agent_state import AgentPhase
from agent.core.reading import Origin, State
from agent.core.states import Reason
from agent.errors import LinkFault
from tests.contract.generate import generated
from tests.contract.schema_files import (
    ALL_DOCUMENTS,
    SCHEMAS,
    Schema,
    closed_path,
    examples,
    load,
    newest,
    open_path,
    versions,
)

VALID = [path for document in ALL_DOCUMENTS for path in examples(document, "valid")]
INVALID = [path for document in ALL_DOCUMENTS for path in examples(document, "invalid")]
ALL = [closed_path(document, version) for document in ALL_DOCUMENTS for version in versions(document)]


def properties(schema: Schema, name: str) -> Schema:
    field = cast(dict[str, Schema], schema["properties"])[name]
    return cast(Schema, field.get("properties", field))


def fields(schema: Schema, place: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield each described field with its place."""
    for name, field in cast(dict[str, Schema], schema.get("properties", {})).items():
        yield f"{place}/{name}", field
        yield from fields(field, f"{place}/{name}")


def document_of(path: Path) -> str:
    return path.relative_to(SCHEMAS).parts[0]


def label(path: Path) -> str:
    return f"{document_of(path)}-{path.stem}"


def failing_places(schema: Schema, document: Any) -> set[str]:
    errors = Draft202012Validator(schema).iter_errors(document)
    return {".".join(str(part) for part in error.absolute_path) or "root" for error in errors}


@pytest.mark.parametrize("path", ALL, ids=label)
def test_a_schema_is_valid_2020_12_and_has_a_permanent_name(path: Path) -> None:
    schema = load(path)
    version = path.name.removesuffix(".schema.json")

    Draft202012Validator.check_schema(schema)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:barograph:schema:{document_of(path)}:{version}"
    assert str(schema["title"]).endswith(f"/{version}")


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_every_field_has_a_description_and_every_integer_a_unit(document: str) -> None:
    found = dict(fields(newest(document)))

    assert [place for place, field in found.items() if not field.get("description")] == []
    assert [
        place for place, field in found.items() if field["type"] == "integer" and "x-unit" not in field
    ] == []


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_every_field_without_fields_of_its_own_has_a_source(document: str) -> None:
    leaves = {place: field for place, field in fields(newest(document)) if "properties" not in field}

    assert leaves
    assert [place for place, field in leaves.items() if not field.get("x-source")] == []


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_closed_schemas_are_closed_except_for_their_open_maps(document: str) -> None:
    schema = newest(document)
    objects = [
        ("", schema),
        *((place, field) for place, field in fields(schema) if field["type"] == "object"),
    ]

    open_ones = {place for place, field in objects if field["additionalProperties"] is not False}

    assert open_ones <= {"/statistics", "/vm/labels", "/host/labels", "/vms", "/counters", "/left_out"}


def test_the_statistics_of_the_schema_are_those_the_agent_knows() -> None:
    described = cast(dict[str, Schema], properties(newest("sample"), "statistics"))

    assert list(described) == list(KNOWN_STATISTICS)
    for name, known in KNOWN_STATISTICS.items():
        field = described[name]
        assert (field["description"], field["x-unit"], field["x-kind"]) == (
            known.description,
            known.unit,
            known.kind,
        )
        assert known.wire_name in str(field["x-source"])
        assert known.source in str(field["x-source"])


@pytest.mark.parametrize(
    ("document", "field", "values"),
    [
        ("sample", "origin", Origin),
        ("state", "state", State),
        ("state", "previous_state", State),
        ("memory", "state", State),
        ("state", "reason", [*Reason, *LinkFault]),
        ("agent", "state", AgentPhase),
    ],
)
def test_every_value_the_agent_can_emit_is_documented_and_open(
    document: str, field: str, values: list[str]
) -> None:
    schema = cast(dict[str, Schema], newest(document)["properties"])[field]

    assert set(cast(Schema, schema["x-values"])) == {str(value) for value in values}
    assert "enum" not in schema


def test_the_bounds_of_the_schemas_are_those_of_the_code() -> None:
    sample, state = newest("sample"), newest("state")
    top = cast(dict[str, Schema], sample["properties"])

    assert top["last_update"]["maximum"] == LAST_UPDATE_MAX_S
    assert top["observed_at_ms"]["maximum"] == LAST_UPDATE_MAX_S * 1000 + 999
    assert top["statistics"]["maxProperties"] == STATISTICS_MAX
    assert top["missing"]["maxItems"] == MISSING_MAX
    assert cast(Schema, properties(sample, "statistics")["swap_in"])["maximum"] == EXACT_MAX
    assert cast(Schema, properties(sample, "vm")["name"])["maxLength"] == TEXT_MAX
    assert cast(Schema, properties(state, "vm")["path"])["maxLength"] == PATH_MAX


@pytest.mark.parametrize("path", VALID, ids=label)
def test_every_valid_example_is_valid_to_the_newest_schema_in_both_variants(path: Path) -> None:
    document = document_of(path)
    variants = [newest(document), load(open_path(document, versions(document)[-1]))]

    example = json.loads(path.read_text())

    assert [failing_places(schema, example) for schema in variants] == [set(), set()]


@pytest.mark.parametrize("path", INVALID, ids=label)
def test_every_invalid_example_fails_at_the_place_its_name_gives(path: Path) -> None:
    place = path.stem.split("--")[0]

    example = json.loads(path.read_text())

    assert failing_places(newest(document_of(path)), example) == {place}


def test_the_open_variant_allows_what_a_later_version_adds() -> None:
    example = json.loads((SCHEMAS / "sample/v1/examples/valid/poll.json").read_text())
    example["color"] = "red"
    example["vm"]["rack"] = 7

    assert failing_places(newest("sample"), example) == {"root", "vm"}
    assert failing_places(load(open_path("sample", versions("sample")[-1])), example) == set()


def test_there_are_examples_of_each_kind() -> None:
    assert {(document_of(path), path.parent.name) for path in chain(VALID, INVALID)} == {
        (document, kind) for document in ALL_DOCUMENTS for kind in ("valid", "invalid")
    }


@pytest.mark.parametrize("path", generated(), ids=lambda path: cast(Path, path).name)
def test_a_generated_file_is_current(path: Path) -> None:
    assert path.read_text() == generated()[path], "run: python -m tests.contract.generate"
