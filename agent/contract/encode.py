"""Values -> the documents and records that readers get. The shapes stand in schemas/; tests compare them.

Records are CloudEvents 1.0 in the Kafka protocol binding (kafka-protocol-binding.md, and the extensions
`partitionkey` and `sequence`). In `binary` mode the value is the document and the event's attributes are
headers; in `structured` mode the value is the whole event. An id never depends on when or how often
something is encoded: the same reading has always the same one, also after a crash.

Text from outside is bounded here, and only here: `TEXT_MAX`, `PATH_MAX`, `MISSING_MAX`. Statistic names
and their number are bounded where they come in (decode.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b

import msgspec

from agent.contract.decode import EXACT_MAX
from agent.contract.headers import encode_headers
from agent.core.agent_state import AgentEvent
from agent.core.reading import Record, RecordKind, Sample, StateEvent, VmIdentity

SAMPLE_SCHEMA = "barograph.vm.sample/1.0"
STATE_SCHEMA = "barograph.vm.state/1.0"
AGENT_SCHEMA = "barograph.agent.state/1.0"

TEXT_MAX = 1024
"""Characters of a name or a sentence; QEMU's own limits for names are far below."""

PATH_MAX = 4096
"""Characters of a path: Linux' PATH_MAX, which counts bytes."""

MISSING_MAX = 256
"""Names in `missing`, the first in the alphabet: a peer that changes its names at each answer has no end."""

Document = dict[str, object]


class Mode(StrEnum):
    """Where the CloudEvents attributes go."""

    BINARY = "binary"
    STRUCTURED = "structured"


@dataclass(frozen=True, slots=True)
class Agent:
    """Who speaks: the host, and this run of the agent on it."""

    host_id: str
    host_name: str
    run: str  # UUIDv7, new at each start
    version: str


# --- documents ---


def sample_document(sample: Sample, agent: Agent) -> Document:
    """Return the value of a sample's record: schemas/sample."""
    document: Document = {
        "schema": SAMPLE_SCHEMA,
        "vm": _vm(sample.vm),
        "host": _host(agent),
        "via": sample.address.via.value,
        "epoch": sample.epoch,
        "sequence": sample.sequence,
        "last_update": sample.last_update_s,
        "observed_at_ms": sample.observed_at_ms,
        "origin": sample.origin.value,
        "missed_at_most": sample.missed_at_most,
        "polling_interval_s": sample.interval_s,
        "statistics": dict(sample.statistics),
    }
    if sample.previous is not None:
        document["previous"] = {"epoch": sample.previous.epoch, "sequence": sample.previous.sequence}
    if sample.run_state is not None:
        document["run_state"] = _text(sample.run_state)
    # `actual` is arithmetic on a field the guest writes; what JSON cannot carry exactly is no size.
    if sample.balloon is not None and sample.balloon.actual_bytes <= EXACT_MAX:
        document["balloon"] = {
            "actual_bytes": sample.balloon.actual_bytes,
            "observed_at_ms": sample.balloon.observed_at_ms,
        }
    if sample.missing:
        document["missing"] = sorted(sample.missing)[:MISSING_MAX]
    return document


def state_document(event: StateEvent, agent: Agent) -> Document:
    """Return the value of a state's record: schemas/state. Of a VM not known yet, `vm` has only the path."""
    vm: Document = {} if event.vm is None else _vm(event.vm)
    vm["path"] = _text(str(event.address), PATH_MAX)
    document: Document = {
        "schema": STATE_SCHEMA,
        "vm": vm,
        "host": _host(agent),
        "via": event.address.via.value,
        "run": agent.run,
        "sequence": event.sequence,
        "state": event.state.value,
        "reason": _text(str(event.reason)),
        "detail": _text(event.detail),
        "since_ms": event.since_ms,
        "observed_at_ms": event.observed_at_ms,
        "heartbeat": event.heartbeat,
        "next_heartbeat_by_ms": event.next_heartbeat_by_ms,
    }
    known_yet = {
        "previous_state": None if event.previous_state is None else event.previous_state.value,
        "epoch": event.epoch,
        "last_sequence": event.last_sequence,
        "last_update": event.last_update_s,
        "polling_interval_s": event.interval_s,
        "run_state": None if event.run_state is None else _text(event.run_state),
    }
    return document | {name: value for name, value in known_yet.items() if value is not None}


def agent_state_document(event: AgentEvent, agent: Agent) -> Document:
    """Return the value of the agent's own record: schemas/agent."""
    document: Document = {
        "schema": AGENT_SCHEMA,
        "host": _host(agent),
        "run": agent.run,
        "version": agent.version,
        "sequence": event.sequence,
        "state": event.state.value,
        "detail": _text(event.detail),
        "since_ms": event.since_ms,
        "observed_at_ms": event.observed_at_ms,
        "heartbeat": event.heartbeat,
        "next_heartbeat_by_ms": event.next_heartbeat_by_ms,
        "vms": {state.value: count for state, count in event.vms.items()},
        "counters": dict(event.counters),
    }
    if event.previous_state is not None:
        document["previous_state"] = event.previous_state.value
    return document


def _vm(vm: VmIdentity) -> Document:
    document: Document = {"id": vm.id, "id_source": vm.id_source}
    if vm.uuid is not None:
        document["uuid"] = vm.uuid
    if vm.name is not None:
        document["name"] = _text(vm.name)
    if vm.labels:
        document["labels"] = {_text(name): _text(value) for name, value in vm.labels.items()}
    return document


def _host(agent: Agent) -> Document:
    return {"id": agent.host_id, "name": _text(agent.host_name)}


def _text(text: str, characters_max: int = TEXT_MAX) -> str:
    """Return `text` bounded, with "?" for half characters (lone surrogates): UTF-8 does not have them."""
    return text[:characters_max].encode("utf-8", "replace").decode("utf-8")


# --- records ---


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
    """Return the record of a state event. While the VM is not known its key is the host's id.

    Its id is the run, the monitor's path and the sequence: two monitors may claim to be one VM
    (`duplicate`), and each counts its own.
    """
    # "surrogatepass": a path need not be UTF-8, and two paths must not get one id for that.
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


_TYPES: Mapping[RecordKind, tuple[str, str]] = {
    RecordKind.SAMPLE: ("barograph.vm.sample.v1", "urn:barograph:schema:sample:1.0"),
    RecordKind.VM_STATE: ("barograph.vm.state.v1", "urn:barograph:schema:state:1.0"),
    RecordKind.AGENT_STATE: ("barograph.agent.state.v1", "urn:barograph:schema:agent:1.0"),
}
"""CloudEvents `type` and `dataschema`; the latter is the schema's `$id`."""

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
        "sequence": f"{sequence:020d}",  # compared as text
    }
    if subject is not None:
        attributes["subject"] = subject
    if mode is Mode.BINARY:
        headers = [("content-type", b"application/json")]
        headers += [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
        value = _encoder.encode(document)
    else:
        headers = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
        value = _encoder.encode({**attributes, "datacontenttype": "application/json", "data": document})
    return Record(kind, id, key, observed_at_ms, encode_headers(headers), value)


def _rfc3339(unix_ms: int) -> str:
    seconds, ms = divmod(unix_ms, 1000)
    return f"{_to_the_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=64)  # a thousand VMs' updates are of a few seconds, and this took a tenth of encoding one
def _to_the_second(unix_s: int) -> str:
    # Of an integer: a float would lose milliseconds.
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S}"
