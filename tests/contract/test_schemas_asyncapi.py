"""The AsyncAPI documents are complete, and describe the records as the code writes them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from jsonschema import Draft202012Validator

from agent.contract.encode import (
    Mode,
    encode_agent_state,
    encode_host_memory,
    encode_sample,
    encode_state,
    encode_vm_memory,
)
from agent.contract.headers import decode_headers
from agent.contract.redelivered import redelivered
from agent.core.reading import Record
from barograph_streams.core.jobs import JOBS
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.contract.schema_files import ALL_DOCUMENTS, DOCUMENTS, SCHEMAS, load, open_path, versions
from tests.golden.documents import HOST_MEMORY_EVENT
from tests.unit.contract.test_encode import AGENT, AGENT_EVENT, MEMORY, SAMPLE, STATE

Document = dict[str, Any]
DOCUMENT: Document = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())
STREAMS: Document = yaml.safe_load((SCHEMAS / "asyncapi.streams.yaml").read_text())
BOTH = pytest.mark.parametrize("document", [DOCUMENT, STREAMS], ids=["agent", "streams"])

# The fields that AsyncAPI 3.1 requires in each object used here, and those that it allows.
# Source: asyncapi/spec, spec/asyncapi.md; asyncapi/bindings, kafka, 0.5.0.
OBJECTS: dict[str, tuple[set[str], set[str]]] = {
    "document": (
        {"asyncapi", "info"},
        {"id", "servers", "defaultContentType", "channels", "operations", "components"},
    ),
    "info": ({"title", "version"}, {"description", "license", "contact", "tags", "externalDocs"}),
    "channel": (
        set(),
        {
            "address",
            "messages",
            "title",
            "summary",
            "description",
            "servers",
            "parameters",
            "tags",
            "bindings",
        },
    ),
    "operation": (
        {"action", "channel"},
        {"title", "summary", "description", "security", "tags", "bindings", "traits", "messages", "reply"},
    ),
    "message": (
        set(),
        {"headers", "payload", "correlationId", "contentType", "name", "title", "summary", "description"}
        | {"tags", "externalDocs", "bindings", "examples", "traits"},
    ),
    "payload": ({"schemaFormat", "schema"}, set()),
    "kafka channel binding": (
        set(),
        {"topic", "partitions", "replicas", "topicConfiguration", "bindingVersion"},
    ),
    "kafka message binding": (
        set(),
        {"key", "schemaIdLocation", "schemaIdPayloadEncoding", "schemaLookupStrategy", "bindingVersion"},
    ),
}


def objects(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "document", document
    yield "info", document["info"]
    for channel in document["channels"].values():
        yield "channel", channel
        yield "kafka channel binding", channel["bindings"]["kafka"]
    for operation in document["operations"].values():
        yield "operation", operation
    for message in document["components"]["messages"].values():
        yield "message", message
        yield "payload", message["payload"]
        yield "kafka message binding", message["bindings"]["kafka"]


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in cast(dict[str, object], node).items():
            if name == "$ref":
                yield str(value)
            else:
                yield from references(value)
    elif isinstance(node, list):
        for each in cast(list[object], node):
            yield from references(each)


def resolve(reference: str, document: Document) -> Any:
    """Return what a reference refers to, within the document or in a file in the same folder."""
    if not reference.startswith("#/"):
        return load(SCHEMAS / reference)
    node: Any = document
    for part in reference[2:].split("/"):
        node = node[part]
    while "$ref" in node:
        node = resolve(node["$ref"], document)
    return node


def messages_of(channel: Document, document: Document) -> dict[str, Any]:
    return {name: resolve(message["$ref"], document) for name, message in channel["messages"].items()}


@BOTH
def test_every_object_has_the_required_fields_of_asyncapi_and_no_unknown_ones(document: Document) -> None:
    assert document["asyncapi"] == "3.1.0"
    for kind, found in objects(document):
        required, optional = OBJECTS[kind]
        assert required <= found.keys() <= required | optional, kind


@BOTH
def test_every_reference_resolves(document: Document) -> None:
    found = set(references(document))

    assert len(found) > 5
    for reference in found:
        assert resolve(reference, document)


@BOTH
def test_an_operation_sends_all_messages_of_its_channel(document: Document) -> None:
    assert document["operations"]
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        messages = [message["$ref"] for message in operation["messages"]]
        assert operation["action"] == "send"
        assert messages == [f"{channel}/messages/{name}" for name in resolve(channel, document)["messages"]]


def test_the_topics_are_those_of_the_contract() -> None:
    topics = {
        channel["address"]: set(messages_of(channel, document))
        for document in (DOCUMENT, STREAMS)
        for channel in document["channels"].values()
    }

    assert topics == {
        "barograph.samples": {"sample"},
        "barograph.states": {"state", "agent"},
        "barograph.memory": {"host", "memory"},
        "barograph.vm.pressure": {"pressure"},
        "barograph.vm.leak": {"leak"},
        "barograph.vm.right-size": {"right-size"},
        "barograph.vm.quality": {"quality"},
        "barograph.host.quality": {"host-quality"},
        "barograph.host.headroom": {"headroom"},
        "barograph.vm.noisy-guest": {"noisy-guest"},
        DEAD_LETTER_TOPIC: {"dead"},
    }


def test_the_topics_of_the_jobs_are_in_the_document() -> None:
    described = {channel["address"] for channel in STREAMS["channels"].values()}

    assert described == {DEAD_LETTER_TOPIC, *(topic for job in JOBS.values() for topic in job.writes)}


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
def test_a_payload_is_the_newest_open_schema(document: str) -> None:
    described = DOCUMENT if document in DOCUMENTS else STREAMS
    payload = described["components"]["messages"][document]["payload"]["schema"]["$ref"]

    assert (SCHEMAS / Path(payload)).resolve() == open_path(document, versions(document)[-1]).resolve()


RECORDS: dict[str, tuple[str, Record]] = {
    "sample": ("sample", encode_sample(SAMPLE, AGENT, Mode.BINARY)),
    "state": ("state", encode_state(STATE, AGENT, Mode.BINARY)),
    "state of an unknown VM": ("state", encode_state(replace(STATE, vm=None), AGENT, Mode.BINARY)),
    "memory": ("memory", encode_vm_memory(MEMORY, AGENT, Mode.BINARY)),
    "agent": ("agent", encode_agent_state(AGENT_EVENT, AGENT, Mode.BINARY)),
    "host": ("host", encode_host_memory(HOST_MEMORY_EVENT, AGENT, Mode.BINARY)),
    "redelivered": ("sample", redelivered(encode_sample(SAMPLE, AGENT, Mode.BINARY))),
}


@pytest.mark.parametrize(("name", "record"), RECORDS.values(), ids=RECORDS)
def test_the_headers_are_those_a_record_has(name: str, record: Record) -> None:
    message = DOCUMENT["components"]["messages"][name]
    headers = {header: value.decode() for header, value in decode_headers(record.headers)}
    schema = {**message["headers"], "components": DOCUMENT["components"]}
    described = {
        header
        for part in resolve(message["headers"]["$ref"], DOCUMENT)["allOf"]
        for header in (resolve(part["$ref"], DOCUMENT) if "$ref" in part else part)["properties"]
    }

    Draft202012Validator(schema).validate(headers)

    assert headers.keys() <= described
    assert headers["ce_type"] == message["name"]
