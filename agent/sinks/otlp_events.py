"""Makes OTLP log records of the documents of state changes. Pure.

Rules, each with a test in tests/unit/sinks/test_otlp_events.py:

- a change is an event: its name tells what changed, its body is the detail, its severity follows the state;
- its resource is the one that the VM's, or the agent's, metrics have, and so are the VM's attributes;
- its time is the time of the change, its observed time that of the record;
- records come in the order of the documents, each in a resource of its own.

The messages are OTLP's own, as those of the metrics (docs/decisions/0014). Event names and attributes follow
OpenTelemetry's semantic conventions, general/events.md; schemas/metrics/registry.yaml declares them.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import (
    SEVERITY_NUMBER_INFO,
    SEVERITY_NUMBER_WARN,
    LogRecord,
    ResourceLogs,
    ScopeLogs,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from agent.contract import metrics
from agent.contract.payloads import AGENT_SCHEMA, Agent
from agent.core.agent_state import AgentPhase
from agent.core.reading import Record, State
from agent.core.states import is_expected
from agent.sinks.otlp_settings import Identity

Value: TypeAlias = str | int
_NS = 1_000_000

_decoder = msgspec.json.Decoder(dict[str, object])


def request(
    records: Sequence[Record], agent: Agent, identity: Identity
) -> tuple[ExportLogsServiceRequest, Mapping[int, str]]:
    """Return one request for all records in order, and the problem of each record that is left out.

    Args:
        records: changes of state, as contract/encode.py makes them; those from disk may be damaged.
        agent: the identity of the agent; a record may be of an earlier run.
        identity: whether the identity of a VM is on the log record too, as on its points.
    """
    of_all = ExportLogsServiceRequest()
    problems: dict[int, str] = {}
    for index, record in enumerate(records):
        try:
            logs = _resource_logs(record, agent, identity)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problems[index] = f"damaged record: {type(error).__name__}"
        else:
            of_all.resource_logs.append(logs)
    return of_all, problems


def _resource_logs(record: Record, agent: Agent, identity: Identity) -> ResourceLogs:
    document = _decoder.decode(record.value)
    host = cast("Mapping[str, str]", document["host"])
    constant = cast("Mapping[str, Mapping[str, str]]", host).get("labels", {})
    of_host = {metrics.HOST_ID: host["id"], metrics.HOST_NAME: host["name"]}
    state = cast("str", document["state"])
    attributes: dict[str, Value] = {}
    resource = {**constant, "service.name": "barograph"}
    if document["schema"] == AGENT_SCHEMA:
        version = cast("str", document["version"])
        resource |= {"service.instance.id": host["id"], "service.version": version, **of_host}
        name, state_key, previous_key = metrics.AGENT_EVENT, metrics.AGENT_STATE, metrics.AGENT_PREVIOUS_STATE
        is_warning = state == AgentPhase.DEGRADED
    else:
        vm = cast("Mapping[str, object]", document["vm"])
        key, named = _identity(vm, state)
        resource |= {"service.instance.id": f"{host['id']}/{key}", **of_host, **named}
        attributes |= {**of_host, **named} if identity == "points" else {}
        attributes[metrics.VM_PATH] = cast("str", vm["path"])
        attributes[metrics.VM_REASON] = reason = cast("str", document["reason"])
        name, state_key, previous_key = metrics.VM_EVENT, metrics.VM_STATE, metrics.VM_PREVIOUS_STATE
        is_warning = not is_expected(State(state), reason)
    attributes[state_key] = state
    if "previous_state" in document:
        attributes[previous_key] = cast("str", document["previous_state"])
    attributes |= {
        metrics.EVENT_ID: record.id,
        metrics.EVENT_RUN: cast("str", document["run"]),
        metrics.EVENT_SEQUENCE: cast("int", document["sequence"]),
        metrics.EVENT_SINCE: cast("int", document["since_ms"]),
    }
    log = LogRecord(
        time_unix_nano=cast("int", document["since_ms"]) * _NS,
        observed_time_unix_nano=cast("int", document["observed_at_ms"]) * _NS,
        severity_number=SEVERITY_NUMBER_WARN if is_warning else SEVERITY_NUMBER_INFO,
        severity_text="WARN" if is_warning else "INFO",
        event_name=name,
        body=AnyValue(string_value=cast("str", document["detail"])),
        attributes=_attributes(attributes),
    )
    scope = InstrumentationScope(name="barograph", version=agent.version)
    return ResourceLogs(
        resource=Resource(attributes=_attributes(resource)),
        scope_logs=[ScopeLogs(scope=scope, log_records=[log], schema_url=metrics.SCHEMA_URL)],
        schema_url=metrics.SCHEMA_URL,
    )


def _identity(vm: Mapping[str, object], state: str) -> tuple[str, Mapping[str, str]]:
    """Return what contract/targets.py has for the metrics: a duplicate is shown as a path."""
    path = cast("str", vm["path"])
    if "id" not in vm or state == State.DUPLICATE:
        return path, {metrics.VM_PATH: path}
    named = {metrics.VM_ID: cast("str", vm["id"])}
    if vm.get("name"):
        named[metrics.VM_NAME] = cast("str", vm["name"])
    labels = cast("Mapping[str, str]", vm.get("labels", {}))
    return named[metrics.VM_ID], named | {
        metrics.VM_LABEL_PREFIX + label: value for label, value in labels.items()
    }


def _attributes(of: Mapping[str, Value]) -> Sequence[KeyValue]:
    return [
        KeyValue(
            key=name,
            value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value),
        )
        for name, value in of.items()
    ]
