"""A requeued record is marked as redelivered in both modes, and is otherwise unchanged."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.contract.encode import Mode, encode_agent_state, encode_sample, encode_state
from agent.contract.headers import decode_headers, encode_headers
from agent.contract.redelivered import is_redelivered, redelivered
from agent.core.reading import Record
from tests.unit.contract.test_encode import AGENT, AGENT_EVENT, SAMPLE, STATE, problems, read

BINARY, STRUCTURED = (encode_sample(SAMPLE, AGENT, mode) for mode in Mode)
WRITTEN: dict[str, Callable[[Mode], Record]] = {
    "sample": lambda mode: encode_sample(SAMPLE, AGENT, mode),
    "state": lambda mode: encode_state(STATE, AGENT, mode),
    "agent": lambda mode: encode_agent_state(AGENT_EVENT, AGENT, mode),
}


def document(data: Any) -> dict[str, Any]:
    return json.loads(data) if isinstance(data, bytes) else data


@pytest.mark.parametrize("before", [BINARY, STRUCTURED], ids=["binary", "structured"])
def test_a_cloudevents_reader_finds_the_mark_and_everything_else_unchanged(before: Record) -> None:
    event = read(redelivered(before))

    assert event.get_attributes() == {**read(before).get_attributes(), "redelivered": "true"}
    assert document(event.get_data()) == {**document(read(before).get_data()), "redelivered": True}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_marked_document_is_valid(name: str, mode: Mode) -> None:
    marked = redelivered(WRITTEN[name](mode))

    assert problems(name, document(read(marked).get_data())) == []


def test_in_binary_mode_the_mark_is_a_header_and_a_field_of_the_value() -> None:
    marked = redelivered(BINARY)

    headers = [*decode_headers(BINARY.headers), ("ce_redelivered", b"true")]
    assert marked == replace(BINARY, headers=encode_headers(headers), value=marked.value)
    assert marked.value == BINARY.value.removesuffix(b"}") + b',"redelivered":true}'


@pytest.mark.parametrize("before", [BINARY, STRUCTURED], ids=["binary", "structured"])
def test_no_number_changes(before: Record) -> None:
    odd = b'"statistics":{"x" : 1.10, "y":123456789012345678901234567890,'
    record = replace(before, value=before.value.replace(b'"statistics":{', odd))

    assert odd in redelivered(record).value


@pytest.mark.parametrize("mode", Mode)
def test_a_record_is_marked_once(mode: Mode) -> None:
    record = encode_sample(SAMPLE, AGENT, mode)

    once = redelivered(record)

    assert not is_redelivered(record)
    assert is_redelivered(once)
    assert redelivered(once) == once


@pytest.mark.parametrize("value", [b"", b"[]", b"\xff", b'{"a":'])
@pytest.mark.parametrize("record", [BINARY, STRUCTURED], ids=["binary", "structured"])
def test_a_value_that_is_not_an_object_cannot_be_marked(record: Record, value: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        redelivered(replace(record, value=value))


@pytest.mark.parametrize("value", [b"{}", b'{"data":[]}', b'{"data":"eyJ9"}', b'{"data_base64":"e30="}'])
def test_a_structured_value_without_a_document_cannot_be_marked(value: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        redelivered(replace(STRUCTURED, value=value))
