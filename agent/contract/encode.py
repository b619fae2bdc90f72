"""Encodes documents as records for readers.

Records are CloudEvents 1.0 in the Kafka protocol binding (kafka-protocol-binding.md, and the extensions
`partitionkey` and `sequence`). In `binary` mode the value is the document and the event's attributes are
headers; in `structured` mode the value is the whole event. An id does not depend on when or how often
a value is encoded: the same reading always has the same id, also after a crash.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b

import msgspec

from agent.contract.headers import encode_headers
from agent.contract.payloads import (
    Agent,
    Document,
    agent_state_document,
    host_memory_document,
    sample_document,
    state_document,
    vm_memory_document,
)
from agent.core.agent_state import AgentEvent
from agent.core.host_memory import HostMemoryEvent
from agent.core.reading import Record, RecordKind, Sample, StateEvent, VmMemory


class Mode(StrEnum):
    """The content mode of CloudEvents: whether attributes are headers or part of the value."""

    BINARY = "binary"
    STRUCTURED = "structured"


def encode_sample(sample: Sample, agent: Agent, mode: Mode) -> Record:
    """Return the record of a sample. Its id is the VM, the epoch and `last_update`."""
    return _record(
        RecordKind.SAMPLE,
        sample_document(sample, agent),
        mode,
        agent,
        id=f"{sample.vm.id}/{sample.epoch}/{sample.last_update_s}",
        key=sample.vm.id,
        subject=sample.vm.id,
        time_ms=sample.last_update_s * 1000,
        observed_at_ms=sample.observed_at_ms,
        sequence=sample.sequence,
    )


def encode_state(event: StateEvent, agent: Agent, mode: Mode) -> Record:
    """Return the record of a state event. Its key is the VM's id, or the host's id while that is not known.

    Its id is the run, the monitor's path and the sequence: two monitors may claim to be the same VM
    (`duplicate`), and each has a sequence of its own.
    """
    # "surrogatepass": a path need not be UTF-8, and two such paths must not get the same id.
    path_digest = blake2b(str(event.address).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return _record(
        RecordKind.VM_STATE,
        state_document(event, agent),
        mode,
        agent,
        id=f"{agent.run}/{path_digest}/{event.sequence}",
        key=agent.host_id if event.vm is None else event.vm.id,
        subject=None if event.vm is None else event.vm.id,
        time_ms=event.since_ms,
        observed_at_ms=event.observed_at_ms,
        sequence=event.sequence,
    )


def encode_agent_state(event: AgentEvent, agent: Agent, mode: Mode) -> Record:
    """Return the record of the agent's own state."""
    return _record(
        RecordKind.AGENT_STATE,
        agent_state_document(event, agent),
        mode,
        agent,
        id=f"{agent.run}/{event.sequence}",
        key=agent.host_id,
        subject=None,
        time_ms=event.since_ms,
        observed_at_ms=event.observed_at_ms,
        sequence=event.sequence,
    )


def encode_host_memory(event: HostMemoryEvent, agent: Agent, mode: Mode) -> Record:
    """Return the record of the host's memory."""
    return _record(
        RecordKind.HOST_MEMORY,
        host_memory_document(event, agent),
        mode,
        agent,
        id=f"{agent.run}/memory/{event.sequence}",
        key=agent.host_id,
        subject=None,
        time_ms=event.observed_at_ms,
        observed_at_ms=event.observed_at_ms,
        sequence=event.sequence,
    )


def as_log(record: Record) -> Record:
    """Return the record of a change of state, in binary mode, as the one that is kept for OTLP's logs.

    Its value stays the document: sinks/otlp_events.py makes the OTLP message of it.
    """
    return replace(record, kind=RecordKind.LOG)


def encode_vm_memory(memory: VmMemory, agent: Agent, mode: Mode) -> Record:
    """Return the record of a VM's memory. Its id is the run, the VM and the sequence."""
    return _record(
        RecordKind.VM_MEMORY,
        vm_memory_document(memory, agent),
        mode,
        agent,
        id=f"{agent.run}/{memory.vm.id}/{memory.sequence}",
        key=memory.vm.id,
        subject=memory.vm.id,
        time_ms=memory.observed_at_ms,
        observed_at_ms=memory.observed_at_ms,
        sequence=memory.sequence,
    )


_TYPES: Mapping[RecordKind, tuple[str, str]] = {
    RecordKind.SAMPLE: ("barograph.vm.sample.v1", "urn:barograph:schema:sample:1.0"),
    RecordKind.VM_STATE: ("barograph.vm.state.v1", "urn:barograph:schema:state:1.0"),
    RecordKind.AGENT_STATE: ("barograph.agent.state.v1", "urn:barograph:schema:agent:1.0"),
    RecordKind.VM_MEMORY: ("barograph.vm.memory.v1", "urn:barograph:schema:memory:1.0"),
    RecordKind.HOST_MEMORY: ("barograph.host.memory.v1", "urn:barograph:schema:host:1.0"),
}
"""CloudEvents `type` and `dataschema`; the latter is the schema's `$id`."""

_HEADERS = {
    name: f"ce_{name}"
    for name in (
        *("specversion", "id", "source", "type", "time", "dataschema"),
        *("partitionkey", "sequence", "subject"),
    )
}
"""The header of each attribute, in `binary` mode."""

_encoder = msgspec.json.Encoder()


def _record(
    kind: RecordKind,
    document: Document,
    mode: Mode,
    agent: Agent,
    *,
    id: str,
    key: str,
    subject: str | None,
    time_ms: int,
    observed_at_ms: int,
    sequence: int,
) -> Record:
    type_, dataschema = _TYPES[kind]
    attributes = {
        "specversion": "1.0",
        "id": id,
        "source": f"/barograph/{agent.host_id}",
        "type": type_,
        "time": _rfc3339(time_ms),
        "dataschema": dataschema,
        "partitionkey": key,
        "sequence": f"{sequence:020d}",  # sorts as text
    }
    if subject is not None:
        attributes["subject"] = subject
    if mode is Mode.BINARY:
        headers = [("content-type", b"application/json")]
        headers += [(_HEADERS[name], value.encode()) for name, value in attributes.items()]
        value = _encoder.encode(document)
    else:
        headers = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
        value = _encoder.encode({**attributes, "datacontenttype": "application/json", "data": document})
    return Record(kind, id, key, observed_at_ms, encode_headers(headers), value)


def _rfc3339(unix_ms: int) -> str:
    seconds, ms = divmod(unix_ms, 1000)
    return f"{_to_the_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=64)  # many VMs have updates in the same few seconds, and formatting is expensive
def _to_the_second(unix_s: int) -> str:
    # From an integer: a float would lose milliseconds.
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S}"
