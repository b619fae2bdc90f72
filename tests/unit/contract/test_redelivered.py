"""A requeued record has the mark in both modes, and is otherwise unchanged."""

import json
from dataclasses import replace

import pytest

from agent.contract.encode import Mode, encode_sample
from agent.contract.headers import decode_headers, encode_headers
from agent.contract.redelivered import is_redelivered, redelivered
from tests.unit.contract.test_encode import AGENT, SAMPLE, read

BINARY, STRUCTURED = (encode_sample(SAMPLE, AGENT, mode) for mode in Mode)


@pytest.mark.parametrize("record", [BINARY, STRUCTURED], ids=["binary", "structured"])
def test_a_cloudevents_reader_finds_the_mark_and_everything_else_unchanged(record: object) -> None:
    assert record in (BINARY, STRUCTURED)
    before = BINARY if record is BINARY else STRUCTURED

    event = read(redelivered(before))

    assert event.get_attributes() == {**read(before).get_attributes(), "redelivered": "true"}
    assert event.get_data() == read(before).get_data()


def test_in_binary_mode_it_is_a_header_and_the_value_is_unchanged() -> None:
    marked = redelivered(BINARY)

    headers = [*decode_headers(BINARY.headers), ("ce_redelivered", b"true")]
    assert marked == replace(BINARY, headers=encode_headers(headers))


def test_in_structured_mode_it_is_in_the_value_and_no_number_changes() -> None:
    odd = b'"statistics":{"x" : 1.10, "y":123456789012345678901234567890,'
    written = STRUCTURED.value.replace(b'"statistics":{', odd)
    record = replace(STRUCTURED, value=written)

    marked = redelivered(record)

    assert marked == replace(record, value=marked.value)
    assert odd in marked.value
    assert json.loads(marked.value) == {**json.loads(written), "redelivered": "true"}


@pytest.mark.parametrize("mode", Mode)
def test_a_record_is_marked_once(mode: Mode) -> None:
    record = encode_sample(SAMPLE, AGENT, mode)

    once = redelivered(record)

    assert not is_redelivered(record)
    assert is_redelivered(once)
    assert redelivered(once) == once


@pytest.mark.parametrize("value", [b"", b"[]", b"\xff", b'{"a":'])
def test_a_structured_value_that_is_not_an_event_cannot_be_marked(value: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        redelivered(replace(STRUCTURED, value=value))
