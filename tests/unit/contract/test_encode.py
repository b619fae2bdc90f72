"""Tests of encoding: documents conform to the schemas, and independent decoders can read the events."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import structs

from agent.contract.encode import Mode, encode_agent_state, encode_sample, encode_state, encode_vm_memory
from agent.contract.headers import decode_headers
from agent.contract.payloads import (
    MISSING_MAX,
    PATH_MAX,
    TEXT_MAX,
    Agent,
    agent_state_document,
    sample_document,
    state_document,
    vm_memory_document,
)
from agent.core.address import Domain, MonitorPath
from agent.core.agent_state import AgentEvent, AgentPhase
from agent.core.psi import Psi, Stall
from agent.core.reading import (
    Balloon,
    CgroupMemory,
    Configured,
    EpochEnd,
    Origin,
    ProcessMemory,
    Record,
    RecordKind,
    Sample,
    State,
    StateEvent,
    VmId,
    VmIdentity,
    VmMemory,
)
from tests.contract.schema_files import DOCUMENTS, newest
from tests.unit.contract.strategies import AGENT_EVENTS, AGENTS, SAMPLES, STATE_EVENTS, VM_MEMORIES

HOST_ID = "9b1d4c1f0e6a4f0fa1f6f1c6c9a4b7d2"
UUID = "5f0c8a5e-3a52-4d4f-9d5a-2a1f0f3c7b11"
EPOCH = "0199f3a0-5c1e-7c3a-8f00-3f6b1c2d4e5f"
RUN = "0199f2ff-1234-7abc-8def-0123456789ab"
AGENT = Agent(HOST_ID, "node-7", RUN, "0.1.0")
VM = VmIdentity(VmId(UUID), "uuid", UUID, "web-3")
ADDRESS = MonitorPath("/run/vm/web-3.qmp")
SAMPLE = Sample(
    vm=VM,
    address=ADDRESS,
    epoch=EPOCH,
    epoch_start_s=1795404136,
    sequence=42,
    previous=None,
    last_update_s=1795404146,
    observed_at_ms=1795404146123,
    origin=Origin.POLL,
    missed_at_most=0,
    interval_s=10,
    run_state="running",
    balloon=Balloon(134217728, 1795404100001),
    statistics={"free_memory": 68141056, "major_faults": 0},
)
STATE = StateEvent(
    vm=VM,
    address=ADDRESS,
    sequence=7,
    state=State.STALLED,
    reason="no_advance",
    detail="no update within 30 s at an interval of 10 s",
    since_ms=1795404176000,
    observed_at_ms=1795404177004,
    previous_state=State.REPORTING,
    heartbeat=False,
    next_heartbeat_by_ms=1795404507000,
    epoch=EPOCH,
    last_sequence=42,
    last_update_s=1795404146,
    interval_s=10,
    run_state="running",
)
AGENT_EVENT = AgentEvent(
    sequence=3,
    state=AgentPhase.RUNNING,
    detail="up",
    since_ms=1795404000000,
    observed_at_ms=1795404300000,
    previous_state=AgentPhase.STARTING,
    heartbeat=True,
    next_heartbeat_by_ms=1795404630000,
    vms={State.REPORTING: 41},
    counters={"samples": 1230, "readings_refused/no_last_update": 1},
)
PSI = Psi(Stall(0.25, 0.1, 0.03, 123456), Stall(0.0, 0.1, 0.03, 65432))
MEMORY = VmMemory(
    vm=VM,
    address=ADDRESS,
    sequence=12,
    observed_at_ms=1795404177004,
    interval_s=60,
    state=State.REPORTING,
    configured=Configured(4 << 30, 1 << 30, 1795404170123),
    balloon=Balloon(3 << 30, 1795404001002),
    deflate_on_oom=False,
    process=ProcessMemory(3355443200, 0, None, 1795404177001),
    cgroup=CgroupMemory("/a.scope", 3462397952, 6442450944, 0, PSI, 1795404177001),
)
VALIDATORS = {document: Draft202012Validator(newest(document)) for document in DOCUMENTS}


def problems(document: str, value: Any) -> list[str]:
    errors = VALIDATORS[document].iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in errors]


def read(record: Record) -> BaseCloudEvent:
    """Decode a record with the CloudEvents SDK, which detects the mode itself."""
    return from_kafka(
        KafkaMessage(
            headers=dict(decode_headers(record.headers)), key=record.key.encode(), value=record.value
        ),
        JSONFormat(),
    )


def test_a_sample_becomes_the_document_of_the_contract() -> None:
    assert sample_document(SAMPLE, AGENT) == {
        "schema": "barograph.vm.sample/1.0",
        "vm": {"id": UUID, "id_source": "uuid", "uuid": UUID, "name": "web-3"},
        "host": {"id": HOST_ID, "name": "node-7"},
        "via": "qmp",
        "epoch": EPOCH,
        "sequence": 42,
        "last_update": 1795404146,
        "observed_at_ms": 1795404146123,
        "origin": "poll",
        "missed_at_most": 0,
        "polling_interval_s": 10,
        "run_state": "running",
        "balloon": {"actual_bytes": 134217728, "observed_at_ms": 1795404100001},
        "statistics": {"free_memory": 68141056, "major_faults": 0},
    }


def test_unknown_fields_of_a_sample_are_absent() -> None:
    bare = replace(
        SAMPLE,
        vm=VmIdentity(VmId(UUID), "path", None, None),
        address=Domain("qemu:///system", UUID),
        run_state=None,
        balloon=None,
        statistics={},
    )

    document = sample_document(bare, AGENT)

    assert document["vm"] == {"id": UUID, "id_source": "path"}
    assert document["via"] == "libvirt"
    assert document["statistics"] == {}
    assert not document.keys() & {"run_state", "balloon", "previous", "missing"}


def test_the_first_sample_of_an_epoch_names_the_end_of_the_previous_one() -> None:
    first = replace(SAMPLE, sequence=1, previous=EpochEnd(RUN, 311), missing=frozenset({"b", "a"}))

    document = sample_document(first, AGENT)

    assert document["previous"] == {"epoch": RUN, "sequence": 311}
    assert document["missing"] == ["a", "b"]


def test_a_state_becomes_the_document_of_the_contract() -> None:
    assert state_document(STATE, AGENT) == {
        "schema": "barograph.vm.state/1.0",
        "vm": {"id": UUID, "id_source": "uuid", "uuid": UUID, "name": "web-3", "path": "/run/vm/web-3.qmp"},
        "host": {"id": HOST_ID, "name": "node-7"},
        "via": "qmp",
        "run": RUN,
        "sequence": 7,
        "state": "stalled",
        "reason": "no_advance",
        "detail": "no update within 30 s at an interval of 10 s",
        "since_ms": 1795404176000,
        "observed_at_ms": 1795404177004,
        "previous_state": "reporting",
        "heartbeat": False,
        "next_heartbeat_by_ms": 1795404507000,
        "epoch": EPOCH,
        "last_sequence": 42,
        "last_update": 1795404146,
        "polling_interval_s": 10,
        "run_state": "running",
    }


def test_a_state_of_an_unknown_vm_has_only_the_path_and_the_hosts_key() -> None:
    unknown = replace(STATE, vm=None, epoch=None, last_sequence=None, last_update_s=None, interval_s=None)

    record = encode_state(unknown, AGENT, Mode.BINARY)
    document = json.loads(record.value)

    assert document["vm"] == {"path": "/run/vm/web-3.qmp"}
    assert not document.keys() & {"epoch", "last_sequence", "last_update", "polling_interval_s"}
    assert record.key == HOST_ID
    assert "ce_subject" not in dict(decode_headers(record.headers))


def test_a_value_of_zero_is_present() -> None:
    document = state_document(replace(STATE, last_update_s=0, interval_s=0), AGENT)

    assert (document["last_update"], document["polling_interval_s"]) == (0, 0)


def test_the_agents_own_record_becomes_the_document_of_the_contract() -> None:
    assert agent_state_document(AGENT_EVENT, AGENT) == {
        "schema": "barograph.agent.state/1.0",
        "host": {"id": HOST_ID, "name": "node-7"},
        "run": RUN,
        "version": "0.1.0",
        "sequence": 3,
        "state": "running",
        "detail": "up",
        "since_ms": 1795404000000,
        "observed_at_ms": 1795404300000,
        "previous_state": "starting",
        "heartbeat": True,
        "next_heartbeat_by_ms": 1795404630000,
        "vms": {"reporting": 41},
        "counters": {"samples": 1230, "readings_refused/no_last_update": 1},
    }


def test_binary_mode_is_the_plain_document_with_the_attributes_in_headers() -> None:
    record = encode_sample(SAMPLE, AGENT, Mode.BINARY)

    assert json.loads(record.value) == sample_document(SAMPLE, AGENT)
    assert dict(decode_headers(record.headers)) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": f"{UUID}/{EPOCH}/1795404146".encode(),
        "ce_source": f"/barograph/{HOST_ID}".encode(),
        "ce_type": b"barograph.vm.sample.v1",
        "ce_subject": UUID.encode(),
        "ce_time": b"2026-11-23T03:22:26.000Z",
        "ce_dataschema": b"urn:barograph:schema:sample:1.0",
        "ce_partitionkey": UUID.encode(),
        "ce_sequence": b"00000000000000000042",
    }
    assert (record.kind, record.key, record.timestamp_ms) == (RecordKind.SAMPLE, UUID, 1795404146123)
    assert record.id == f"{UUID}/{EPOCH}/1795404146"


def test_structured_mode_is_one_event() -> None:
    record = encode_sample(SAMPLE, AGENT, Mode.STRUCTURED)

    event = json.loads(record.value)

    assert decode_headers(record.headers) == [
        ("content-type", b"application/cloudevents+json; charset=UTF-8")
    ]
    assert event["data"] == sample_document(SAMPLE, AGENT)
    assert event["datacontenttype"] == "application/json"
    assert event["id"] == record.id


ENCODERS: dict[str, tuple[Callable[[Mode], Record], Any, str, str, str | None, int]] = {
    "sample": (
        lambda mode: encode_sample(SAMPLE, AGENT, mode),
        sample_document(SAMPLE, AGENT),
        "barograph.vm.sample.v1",
        UUID,
        UUID,
        1795404146000,
    ),
    "memory": (
        lambda mode: encode_vm_memory(MEMORY, AGENT, mode),
        vm_memory_document(MEMORY, AGENT),
        "barograph.vm.memory.v1",
        UUID,
        UUID,
        1795404177004,
    ),
    "state": (
        lambda mode: encode_state(STATE, AGENT, mode),
        state_document(STATE, AGENT),
        "barograph.vm.state.v1",
        UUID,
        UUID,
        1795404176000,
    ),
    "agent": (
        lambda mode: encode_agent_state(AGENT_EVENT, AGENT, mode),
        agent_state_document(AGENT_EVENT, AGENT),
        "barograph.agent.state.v1",
        HOST_ID,
        None,
        1795404000000,
    ),
}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("document", ENCODERS)
def test_the_cloudevents_sdk_reads_both_modes(document: str, mode: Mode) -> None:
    encode, data, type_, key, subject, time_ms = ENCODERS[document]

    record = encode(mode)
    event = read(record)

    assert event.get_data() == data
    assert event.get_specversion() == "1.0"
    assert event.get_id() == record.id
    assert event.get_source() == f"/barograph/{HOST_ID}"
    assert event.get_type() == type_
    assert event.get_subject() == subject
    assert event.get_time() == datetime.fromtimestamp(time_ms / 1000, UTC)
    assert event.get_dataschema() == newest(document)["$id"]
    assert event.get_datacontenttype() == "application/json"
    assert event.get_extension("partitionkey") == record.key == key
    assert int(event.get_extension("sequence")) == data["sequence"]


def test_the_same_reading_has_the_same_id_whenever_and_however_it_is_encoded() -> None:
    later = replace(SAMPLE, observed_at_ms=SAMPLE.observed_at_ms + 5000, run_state="paused")
    another_run = replace(AGENT, run=EPOCH)

    ids = {
        encode_sample(sample, agent, mode).id
        for sample in (SAMPLE, later)
        for agent in (AGENT, another_run)
        for mode in Mode
    }

    assert len(ids) == 1


def test_constant_labels_are_on_the_host_of_every_record() -> None:
    agent = replace(AGENT, labels={"k8s.cluster.name": "eu-1"})
    documents = {
        "sample": sample_document(SAMPLE, agent),
        "state": state_document(STATE, agent),
        "agent": agent_state_document(AGENT_EVENT, agent),
    }

    for kind, document in documents.items():
        assert document["host"] == {"id": HOST_ID, "name": "node-7", "labels": {"k8s.cluster.name": "eu-1"}}
        assert problems(kind, document) == []
    assert "labels" not in str(sample_document(SAMPLE, AGENT)["host"])


@pytest.mark.parametrize(
    "other",
    [
        replace(SAMPLE, last_update_s=SAMPLE.last_update_s + 1),
        replace(SAMPLE, epoch=RUN),
        replace(SAMPLE, vm=structs.replace(VM, id=VmId(RUN))),
    ],
)
def test_another_reading_has_another_id(other: Sample) -> None:
    assert encode_sample(other, AGENT, Mode.BINARY).id != encode_sample(SAMPLE, AGENT, Mode.BINARY).id


@pytest.mark.parametrize(
    ("event", "agent"),
    [
        (replace(STATE, sequence=8), AGENT),
        (replace(STATE, address=MonitorPath("/run/vm/web-4.qmp")), AGENT),
        (STATE, replace(AGENT, run=EPOCH)),
    ],
)
def test_another_state_event_has_another_id(event: StateEvent, agent: Agent) -> None:
    assert encode_state(event, agent, Mode.BINARY).id != encode_state(STATE, AGENT, Mode.BINARY).id


@pytest.mark.parametrize(
    ("event", "agent"), [(replace(AGENT_EVENT, sequence=4), AGENT), (AGENT_EVENT, replace(AGENT, run=EPOCH))]
)
def test_another_record_of_the_agent_has_another_id(event: AgentEvent, agent: Agent) -> None:
    first = encode_agent_state(AGENT_EVENT, AGENT, Mode.BINARY)

    assert encode_agent_state(event, agent, Mode.BINARY).id != first.id


def test_two_paths_that_are_not_utf_8_have_two_ids() -> None:
    ids = {
        encode_state(replace(STATE, address=MonitorPath(path)), AGENT, Mode.BINARY).id
        for path in ("/\udc80", "/\udc81")
    }

    assert len(ids) == 2


def test_a_sequence_sorts_as_text() -> None:
    records = [
        encode_sample(replace(SAMPLE, sequence=n), AGENT, Mode.BINARY) for n in (1, 9, 10, 99, 2**53 - 1)
    ]

    texts = [dict(decode_headers(record.headers))["ce_sequence"] for record in records]

    assert texts == sorted(texts)


@pytest.mark.parametrize("ms", [0, 1, 999, 1795404146123, 253402300799999])
def test_the_time_keeps_its_milliseconds(ms: int) -> None:
    header = dict(decode_headers(encode_state(replace(STATE, since_ms=ms), AGENT, Mode.BINARY).headers))[
        "ce_time"
    ]

    at = datetime.strptime(header.decode(), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)

    assert (at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000 == pytest.approx(ms, abs=0.1)


def test_hostile_text_is_bounded_and_utf_8() -> None:
    vm = VmIdentity(VmId(UUID), "uuid", UUID, "\ud800" + "n" * 5000, {"a\ud800": "\x00" + "v" * 5000})

    document = json.loads(
        encode_state(
            replace(STATE, vm=vm, address=MonitorPath("/\udc80" + "p" * 9000), detail="\udfff"),
            AGENT,
            Mode.BINARY,
        ).value.decode("utf-8")
    )

    assert document["vm"]["name"] == "?" + "n" * (TEXT_MAX - 1)
    assert document["vm"]["labels"] == {"a?": "\x00" + "v" * 255}
    assert document["vm"]["path"] == "/?" + "p" * (PATH_MAX - 2)
    assert document["detail"] == "?"


def test_a_size_that_json_cannot_carry_exactly_is_left_out() -> None:
    def balloon(actual_bytes: int) -> object:
        sized = replace(SAMPLE, balloon=Balloon(actual_bytes, 1795404100001))
        return sample_document(sized, AGENT).get("balloon")

    assert balloon(2**53 - 1) == {"actual_bytes": 2**53 - 1, "observed_at_ms": 1795404100001}
    assert balloon(2**53) is None


def test_missing_statistics_are_bounded() -> None:
    missing = frozenset(f"n{number:04}" for number in range(1000))

    named = sample_document(replace(SAMPLE, missing=missing), AGENT)["missing"]

    assert named == [f"n{number:04}" for number in range(MISSING_MAX)]


# --- properties of any record ---

MODES = st.sampled_from(Mode)


@given(SAMPLES, AGENTS, MODES)
def test_any_sample_conforms_to_its_schema_and_keeps_its_values(
    sample: Sample, agent: Agent, mode: Mode
) -> None:
    data: Any = read(encode_sample(sample, agent, mode)).get_data()

    assert problems("sample", data) == []
    assert data["statistics"] == sample.statistics
    assert (data["last_update"], data["sequence"], data["epoch"]) == (
        sample.last_update_s,
        sample.sequence,
        sample.epoch,
    )


@given(STATE_EVENTS, AGENTS, MODES)
def test_any_state_conforms_to_its_schema(event: StateEvent, agent: Agent, mode: Mode) -> None:
    data: Any = read(encode_state(event, agent, mode)).get_data()

    assert problems("state", data) == []
    assert (data["state"], data["since_ms"], data["sequence"]) == (
        event.state.value,
        event.since_ms,
        event.sequence,
    )


def test_a_vms_memory_becomes_the_document_of_the_contract() -> None:
    assert vm_memory_document(MEMORY, AGENT) == {
        "schema": "barograph.vm.memory/1.0",
        "vm": sample_document(SAMPLE, AGENT)["vm"],
        "host": sample_document(SAMPLE, AGENT)["host"],
        "via": "qmp",
        "run": AGENT.run,
        "sequence": 12,
        "observed_at_ms": 1795404177004,
        "interval_s": 60,
        "state": "reporting",
        "configured": {
            "base_bytes": 4 << 30,
            "plugged_bytes": 1 << 30,
            "observed_at_ms": 1795404170123,
        },
        "balloon": {
            "actual_bytes": 3 << 30,
            "observed_at_ms": 1795404001002,
            "deflate_on_oom": False,
        },
        "process": {"resident_bytes": 3355443200, "swap_bytes": 0, "observed_at_ms": 1795404177001},
        "cgroup": {
            "path": "/a.scope",
            "current_bytes": 3462397952,
            "limit_bytes": 6442450944,
            "swap_bytes": 0,
            "pressure": {
                "some": {"avg10": 0.25, "avg60": 0.1, "avg300": 0.03, "total_us": 123456},
                "full": {"avg10": 0.0, "avg60": 0.1, "avg300": 0.03, "total_us": 65432},
            },
            "observed_at_ms": 1795404177001,
        },
    }


def test_unknown_values_of_a_vms_memory_are_absent() -> None:
    unknown = replace(MEMORY, configured=None, balloon=None, deflate_on_oom=None, process=None, cgroup=None)
    assert vm_memory_document(unknown, AGENT).keys() == {
        *("schema", "vm", "host", "via", "run", "sequence", "observed_at_ms", "interval_s", "state")
    }
    only_the_flag = vm_memory_document(replace(unknown, deflate_on_oom=True), AGENT)
    assert only_the_flag["balloon"] == {"deflate_on_oom": True}


@given(VM_MEMORIES, AGENTS, MODES)
def test_any_memory_of_a_vm_conforms_to_its_schema(memory: VmMemory, agent: Agent, mode: Mode) -> None:
    data: Any = read(encode_vm_memory(memory, agent, mode)).get_data()

    assert problems("memory", data) == []
    assert ("process" in data) == (memory.process is not None)


@given(AGENT_EVENTS, AGENTS, MODES)
def test_any_agent_state_conforms_to_its_schema(event: AgentEvent, agent: Agent, mode: Mode) -> None:
    data: Any = read(encode_agent_state(event, agent, mode)).get_data()

    assert problems("agent", data) == []
    assert data["counters"] == event.counters
