"""Tests of what the stream jobs accept as a sample."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.encode import Mode
from barograph_streams.core.documents import VALUE_BYTES_MAX, Outcome, Sample, parse_sample
from tests.contract.schema_files import examples
from tests.unit.streams.making import make, vm_id

MADE = make(3, previous=(1, 4))
VALID: dict[str, Any] = json.loads(MADE.value)


def parse(document: object, key: str = MADE.key) -> Sample | Outcome:
    return parse_sample(key, json.dumps(document).encode())


@pytest.mark.parametrize("path", examples("sample", "valid"), ids=lambda path: path.stem)
def test_every_valid_example_of_the_schema_is_accepted(path: Any) -> None:
    document = json.loads(path.read_text())

    assert isinstance(parse(document, document["vm"]["id"]), Sample)


@pytest.mark.parametrize("mode", Mode)
def test_both_modes_give_the_same_sample(mode: Mode) -> None:
    made = make(3, previous=(1, 4), mode=mode)

    sample = parse_sample(made.key, made.value)

    assert sample == parse_sample(MADE.key, MADE.value)
    assert isinstance(sample, Sample)
    assert (sample.vm.id, sample.sequence, sample.redelivered) == (vm_id(0), 3, False)


@pytest.mark.parametrize("mode", Mode)
def test_a_redelivered_sample_is_recognized_in_both_modes(mode: Mode) -> None:
    made = make(3, again=True, mode=mode)

    sample = parse_sample(made.key, made.value)

    assert isinstance(sample, Sample)
    assert sample.redelivered


def test_unknown_fields_and_statistics_of_a_later_minor_version_are_ignored() -> None:
    later: dict[str, Any] = {
        **VALID,
        "schema": "barograph.vm.sample/1.7",
        "color": {"a": [1]},
        "origin": "pushed",
    }
    later["statistics"] = {**later["statistics"], "psi_some_10": 3}

    sample = parse(later)

    assert isinstance(sample, Sample)
    assert not sample.is_polled


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"schema": "barograph.vm.sample/2.0"}, Outcome.VERSION),
        ({"schema": "barograph.vm.sample/2.0", "vm": 3}, Outcome.VERSION),
        ({"schema": "barograph.vm.sample/10.0"}, Outcome.VERSION),
        ({"schema": "barograph.vm.thermometer/1.0"}, Outcome.OTHER_KIND),
        ({"schema": "barograph.vm.thermometer/1.0", "sequence": None}, Outcome.OTHER_KIND),
        ({"schema": "else"}, Outcome.DOCUMENT),
        ({"schema": 3}, Outcome.DOCUMENT),
        ({"sequence": 0}, Outcome.DOCUMENT),
        ({"sequence": -1}, Outcome.DOCUMENT),
        ({"sequence": 1 << 60}, Outcome.DOCUMENT),
        ({"sequence": 10**40}, Outcome.DOCUMENT),
        ({"sequence": "3"}, Outcome.DOCUMENT),
        ({"last_update": 1e300}, Outcome.DOCUMENT),
        ({"epoch": "x"}, Outcome.DOCUMENT),
        ({"previous": None}, Outcome.DOCUMENT),
        ({"statistics": {"free_memory": -1}}, Outcome.DOCUMENT),
        ({"statistics": {"free_memory": None}}, Outcome.DOCUMENT),
        ({"statistics": {str(n): n for n in range(257)}}, Outcome.DOCUMENT),
        ({"vm": {"id": vm_id(1), "id_source": "uuid"}}, Outcome.KEY),
    ],
)
@pytest.mark.parametrize("structured", [False, True])
def test_a_document_that_is_not_a_sample_of_version_1_has_a_reason(
    change: dict[str, object], outcome: Outcome, structured: bool
) -> None:
    document = {**VALID, **change}

    assert parse({"specversion": "1.0", "data": document} if structured else document) is outcome


@pytest.mark.parametrize("field", ["schema", "vm", "host", "epoch", "sequence", "last_update", "statistics"])
def test_a_missing_field_makes_a_document_invalid(field: str) -> None:
    assert parse({name: value for name, value in VALID.items() if name != field}) is Outcome.DOCUMENT


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"\xff\xfe", MADE.value[:-1], MADE.value + b"}", b'{"a":' * 20_000],
    ids=["empty", "open", "not UTF-8", "cut", "too long", "deep"],
)
def test_a_value_that_is_not_json_is_refused(value: bytes) -> None:
    assert parse_sample(MADE.key, value) is Outcome.NOT_JSON


@pytest.mark.parametrize(
    "value", [b"null", b"3", b"[]", b"[" * 10, b'"x"', b"{}", b'{"data": 3}', b'{"data": null}']
)
def test_json_that_is_not_a_document_is_refused(value: bytes) -> None:
    assert parse_sample(MADE.key, value) is Outcome.DOCUMENT


def test_a_value_above_the_bound_is_not_parsed() -> None:
    assert parse_sample(MADE.key, MADE.value + b" " * VALUE_BYTES_MAX) is Outcome.TOO_LARGE


@given(
    value=st.one_of(
        st.binary(),
        st.text().map(str.encode),
        st.integers(0, len(MADE.value)).map(lambda n: MADE.value[:n] + MADE.value[n + 1 :]),
    )
)
def test_no_value_raises(value: bytes) -> None:
    assert isinstance(parse_sample(MADE.key, value), Sample | Outcome)
