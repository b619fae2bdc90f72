"""Tests of changes of state as OTLP log records."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from agent.contract.encode import Mode, as_log, encode_agent_state, encode_state
from agent.contract.targets import identifying_attributes, label_attributes, targets
from agent.core.agent_state import AgentEvent, AgentPhase
from agent.core.reading import Record, RecordKind, State, StateEvent, VmView
from agent.sinks import otlp_events
from agent.sinks.otlp_events import request
from agent.sinks.otlp_settings import Identity
from tests.unit.sinks.views import AGENT, view, vm

STATE = replace(
    view(of=vm(labels={"site": "b"})).state,
    sequence=7,
    state=State.STALLED,
    reason="no_advance",
    detail="no update within 30 s",
    since_ms=1_795_404_000_123,
    observed_at_ms=1_795_404_000_125,
    previous_state=State.REPORTING,
)
AGENT_STATE = AgentEvent(
    sequence=3,
    state=AgentPhase.DEGRADED,
    detail="kafka.samples: no broker reachable",
    since_ms=1_795_404_000_000,
    observed_at_ms=1_795_404_000_001,
    previous_state=AgentPhase.RUNNING,
    heartbeat=False,
    next_heartbeat_by_ms=0,
    vms={},
    counters={},
)


def of_vm(event: StateEvent) -> Record:
    return as_log(encode_state(event, AGENT, Mode.BINARY))


def sent(record: Record, identity: Identity = "points") -> tuple[dict[str, str], Mapping[str, Any]]:
    """Return the resource's attributes, and the log record with its attributes as a mapping."""
    message, problems = request([record], AGENT, identity)
    assert not problems
    (of_resource,) = MessageToDict(message)["resourceLogs"]
    ((log,),) = (scope["logRecords"] for scope in of_resource["scopeLogs"])
    return plain(of_resource["resource"]), log | {"attributes": plain(log)}


def test_the_resource_has_the_labels_of_the_host() -> None:
    labeled = replace(AGENT, labels={"deployment.environment.name": "lab"})

    for record in (
        as_log(encode_state(STATE, labeled, Mode.BINARY)),
        as_log(encode_agent_state(AGENT_STATE, labeled, Mode.BINARY)),
    ):
        assert sent(record)[0]["deployment.environment.name"] == "lab"


def plain(holder: Mapping[str, Any]) -> dict[str, str]:
    return {each["key"]: next(iter(each["value"].values())) for each in holder.get("attributes", [])}


def test_a_change_of_a_vm_is_an_event_with_the_detail_as_its_body() -> None:
    record = of_vm(STATE)

    _, log = sent(record)

    assert log == {
        "timeUnixNano": "1795404000123000000",
        "observedTimeUnixNano": "1795404000125000000",
        "severityNumber": "SEVERITY_NUMBER_WARN",
        "severityText": "WARN",
        "eventName": "qemu.vm.state_change",
        "body": {"stringValue": "no update within 30 s"},
        "attributes": {
            "host.id": "host-1",
            "host.name": "node-7",
            "qemu.vm.id": "vm-1",
            "qemu.vm.name": "web-3",
            "qemu.vm.label.site": "b",
            "qemu.vm.monitor.path": "/run/vm/1.sock",
            "qemu.vm.state": "stalled",
            "qemu.vm.previous_state": "reporting",
            "qemu.vm.state_reason": "no_advance",
            "barograph.event.id": record.id,
            "barograph.event.run": "run-1",
            "barograph.event.sequence": "7",
            "barograph.event.since": "1795404000123",
        },
    }


@pytest.mark.parametrize("state", [State.STALLED, State.DUPLICATE])
@pytest.mark.parametrize("unknown", [False, True])
def test_the_resource_of_a_change_is_that_of_the_vms_metrics(state: State, unknown: bool) -> None:
    event = replace(STATE, state=state, vm=None if unknown else STATE.vm)
    (target,) = targets([VmView(event, None, None)], AGENT)

    resource, log = sent(of_vm(event), "resource")

    assert resource == {
        "service.name": "barograph",
        "service.instance.id": target.key,
        **identifying_attributes(target, AGENT),
        **label_attributes(target),
    }
    assert "host.id" not in log["attributes"]


def test_a_change_of_the_agent_has_the_resource_of_its_own_metrics() -> None:
    resource, log = sent(as_log(encode_agent_state(AGENT_STATE, AGENT, Mode.BINARY)))

    assert resource == {
        "service.name": "barograph",
        "service.instance.id": "host-1",
        "service.version": "1.2.3",
        "host.id": "host-1",
        "host.name": "node-7",
    }
    assert (log["eventName"], log["severityText"]) == ("barograph.agent.state_change", "WARN")
    assert log["body"] == {"stringValue": "kafka.samples: no broker reachable"}
    assert log["attributes"]["barograph.agent.state"] == "degraded"
    assert log["attributes"]["barograph.agent.previous_state"] == "running"


@pytest.mark.parametrize(
    ("state", "reason", "severity"),
    [
        (State.REPORTING, "advancing", "INFO"),
        (State.GONE, "missing", "INFO"),
        (State.PAUSED, "paused", "INFO"),
        (State.OFF, "polling_disabled", "INFO"),
        (State.OFF, "contended", "WARN"),
        (State.UNREACHABLE, "denied", "WARN"),
        (State.EMPTY, "all_unset", "WARN"),
    ],
)
def test_the_severity_is_a_warning_if_attention_is_needed(state: State, reason: str, severity: str) -> None:
    assert sent(of_vm(replace(STATE, state=state, reason=reason)))[1]["severityText"] == severity


def test_records_come_in_order_and_damaged_ones_are_left_out() -> None:
    records = [of_vm(replace(STATE, sequence=n)) for n in range(1, 7)]
    records[1] = replace(records[1], value=b"\xff")
    records[3] = replace(records[3], value=b'{"schema":"barograph.vm.state/1.0","host":7}')
    records[5] = replace(records[5], value=b'{"x":' + b"[" * 99_999)

    message, problems = request(records, AGENT, "points")

    sequences = [
        each.value.int_value
        for of_resource in message.resource_logs
        for each in of_resource.scope_logs[0].log_records[0].attributes
        if each.key == "barograph.event.sequence"
    ]
    assert sequences == [1, 3, 5]
    assert problems == {
        1: "damaged record: DecodeError",
        3: "damaged record: AttributeError",
        5: "damaged record: RecursionError",
    }


def test_a_text_of_any_bytes_can_be_sent() -> None:
    event = replace(STATE, detail="\udcff\0 \u00e9", vm=vm(name="\ud800"))

    _, log = sent(of_vm(event))

    assert log["body"] == {"stringValue": "?\0 \u00e9"}
    assert log["attributes"]["qemu.vm.name"] == "?"


def test_a_log_is_the_same_event_as_the_record_of_the_topic() -> None:
    record, log = encode_state(STATE, AGENT, Mode.BINARY), of_vm(STATE)

    assert replace(log, kind=RecordKind.VM_STATE) == record
    assert otlp_events.request([log], AGENT, "points")[1] == {}
