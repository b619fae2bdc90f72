"""Generates the readers' variants of the schemas, and docs/metrics.md, from schemas/.

Run `python -m tests.contract.generate` after a change of a schema or of the metric registry. A test compares
the generated files with their sources.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import cast

import yaml

from agent.contract.metrics import OTHER_PREFIX, SCHEMA_URL, Kind, Metric, prometheus_name
from tests.contract.schema_files import (
    ALL_DOCUMENTS,
    SCHEMAS,
    as_text,
    closed_path,
    load,
    open_path,
    opened,
    versions,
)

REGISTRY = SCHEMAS / "metrics" / "registry.yaml"
METRICS_PAGE = SCHEMAS.parent / "docs" / "metrics.md"

HOST_MEMORY_PREFIX = "qemu.host."
PRESSURE_PREFIX = "qemu.vm.pressure."

Group = Mapping[str, object]


def registry() -> list[Group]:
    """Return the registry's groups."""
    return cast(list[Group], yaml.safe_load(REGISTRY.read_text())["groups"])


def metrics_of(groups: list[Group]) -> list[Group]:
    """Return the groups that are metrics, in the registry's order."""
    return [group for group in groups if group["type"] == "metric"]


def statistic_of(metric: Group) -> str | None:
    """Return the statistic that a metric carries, or `None` for a metric of the host or the agent."""
    annotations = cast(Mapping[str, str], metric.get("annotations", {}))
    return annotations.get("statistic")


def _group(groups: list[Group], id: str) -> Group:
    return next(group for group in groups if group["id"] == id)


def is_own(metric: Group) -> bool:
    """Whether it is a metric of the agent itself, or of its host's memory."""
    return str(metric["metric_name"]).startswith(("barograph.", "process.", HOST_MEMORY_PREFIX))


def is_of_the_host(metric: Group) -> bool:
    """Whether it is a metric of the host's memory."""
    return str(metric["metric_name"]).startswith(HOST_MEMORY_PREFIX)


def is_of_pressure(metric: Group) -> bool:
    """Whether the agent derives it from a guest's statistics."""
    return str(metric["metric_name"]).startswith(PRESSURE_PREFIX)


def reasons_of(metric: Group) -> list[str]:
    """Return the values that `barograph.reason` has in the metric."""
    return cast(list[str], cast(Mapping[str, object], metric.get("annotations", {})).get("reasons", []))


def attributes_of(metric: Group) -> list[str]:
    """Return the attributes of a metric's points."""
    return [attribute["ref"] for attribute in cast(list[Mapping[str, str]], metric["attributes"])]


def as_metric(group: Group) -> Metric:
    """Return a metric of the registry as the code declares it."""
    return Metric(
        str(group["metric_name"]), str(group["unit"]), cast(Kind, group["instrument"]), str(group["brief"])
    )


_INTRODUCTION = f"""\
<!-- Generated from schemas/metrics/registry.yaml: `python -m tests.contract.generate`. -->
# Metrics

The agent sends these metrics over OTLP and shows them at `/metrics`. Temporality is always cumulative. The
names in Prometheus are those of its default translation.

Over OTLP each VM is a resource of its own. Its identity is also on the points, unless `identity: resource`
is set, because Prometheus drops most attributes of a resource. The `schema_url` of resources and scopes,
`{SCHEMA_URL}`, identifies the registry and its version (`schemas/metrics/manifest.yaml`). It is
only a name: nothing can be fetched there.

`/metrics` uses the names in Prometheus and shows attributes as labels, with `_` for `.`. The format is
OpenMetrics, or the older text format for clients that accept only that one. A guest's values are shown only
while its VM is `reporting`, each with the time of its `last_update`, so leave `honor_timestamps` on in
Prometheus.

## Guest

The time of a point is the guest's `last_update`, never the time of sending: a silent guest has no new
points. A statistic that the guest does not give has no metric. Counters restart with each epoch.
"""

_PRESSURE = f"""
A statistic that a later QEMU adds is sent over OTLP as `{OTHER_PREFIX}<name>`, a gauge without a unit, until
this table has it. Do not build on these names. They are not shown at `/metrics`.

## Pressure

The agent derives these metrics from a guest's samples: [pressure.md](pressure.md). The time of a point is
`last_update`. There is no point for a sample with origin `unsolicited`, or for a guest whose statistics give
no component of the score.
"""

_HOST = """
## Host

The time of a point is the time of the cycle; for the balloon it is the time of the observation. These
metrics continue while a guest is silent: `time() - qemu_vm_last_update_seconds` is the age of its last
update.
"""


_OWN = """
## Agent

The agent sends its own metrics every `otlp.interval` from a resource of its own: `service.name` is
`barograph`, `service.instance.id` the host's id, and `service.version`, `host.id` and `host.name` are set. At
`/metrics` these attributes are on `target_info`. Counters start at 0 with the agent. The number of series
does not depend on the VMs.

`barograph.lag` is an upper bound. QEMU gives the time of an update in whole seconds, so its exact arrival is
unknown. The lag is measured from the earliest time at which the update can have arrived, to the reading that
showed it. That earliest time is the latest of these: the previous reading, one interval after the previous
update, and the start of the update's own second. Only updates with origin `poll` are measured, since the age
of others is not known. The true lag is mostly a few milliseconds.

These equations hold at any time, so every loss is counted. At `/metrics` all of the agent's own metrics are
taken at the same time.

- `readings` = `samples` + `repeats` + `coalesced`; together with `readings_refused` these are all answers;
- `queued` + `carried` = `delivered` + `queue.size` + `dropped` + `dead_lettered`, for each sink;
- `queued` to `kafka.samples` = `samples`, to `kafka.states` = `state_events` + `agent_events`, and to
  `kafka.memory` = `memory_records`; `otlp.logs` gets the state records except heartbeats.
"""


_HOST_MEMORY = """
## Memory of the host

These metrics come from the agent's own resource, and are those of the newest reading (`memory.interval`). A
metric that the host's kernel does not give has no point. A sum over VMs covers those where the value is
known; the record in `barograph.memory` has their number.
"""


_EVENTS = """
## Log records

Over OTLP the agent also sends each change of a VM's or its own state as a log record, unless
`otlp.logs: false` is set or the backend accepts no logs. Each record has an event name. Its body is the
detail, a sentence for people. Its severity is `WARN` for states that need attention, else `INFO`. Its time is
that of the change. Its resource is that of the VM's metrics, or of the agent's own. The identity of a
VM is on the record too, unless `identity: resource` is set. Heartbeats are not sent.

If metrics and logs have different backends, set `otlp.logs_endpoint` to the whole URL for the logs. Here
Prometheus stores the metrics and VictoriaLogs the logs:

```yaml
monitors: [/run/vm/*.qmp]
otlp:
  endpoint: http://prometheus:9090/api/v1/otlp
  logs_endpoint: http://victorialogs:9428/insert/opentelemetry/v1/logs
```

Delivery is at least once, and in order for each VM: a repeated record has the same `barograph.event.id`.
The records are queued in the spool until the backend accepts them, so a restart loses none.
"""


def events_of(groups: list[Group]) -> list[Group]:
    """Return the groups that are events, in the registry's order."""
    return [group for group in groups if group["type"] == "event"]


def metrics_page(groups: list[Group]) -> str:
    """Return docs/metrics.md."""
    return "\n".join(_page(groups)) + "\n"


def _page(groups: list[Group]) -> Iterator[str]:
    metrics = metrics_of(groups)
    yield _INTRODUCTION
    yield from _table([metric for metric in metrics if statistic_of(metric)], "statistic")
    yield _PRESSURE
    yield from _table([metric for metric in metrics if is_of_pressure(metric)], None)
    yield _HOST
    of_vms = [metric for metric in metrics if not statistic_of(metric) and not is_own(metric)]
    yield from _table([metric for metric in of_vms if not is_of_pressure(metric)], None)
    yield _OWN
    yield from _own_table([metric for metric in metrics if is_own(metric) and not is_of_the_host(metric)])
    yield _HOST_MEMORY
    yield from _own_table([metric for metric in metrics if is_of_the_host(metric)])
    yield _EVENTS
    yield "| event | meaning | attributes |"
    yield "| --- | --- | --- |"
    for event in events_of(groups):
        attributes_listed = ", ".join(f"`{each}`" for each in attributes_of(event))
        yield f"| `{event['name']}` | {event['brief']} | {attributes_listed} |"
    yield ""
    yield "## Attributes"
    yield ""
    yield "| attribute | meaning |"
    yield "| --- | --- |"
    attributes = cast(list[Mapping[str, object]], groups[0]["attributes"])
    for attribute in attributes:
        suffix = ".<name>" if attribute["type"] == "template[string]" else ""
        yield f"| `{attribute['id']}{suffix}` | {attribute['brief']} |"
    for attribute in cast(list[Mapping[str, object]], groups[1]["attributes"]):
        yield f"| `{attribute['id']}` | {attribute['brief']} |"
    for attribute in cast(
        list[Mapping[str, object]], _group(groups, "registry.barograph.event")["attributes"]
    ):
        yield f"| `{attribute['id']}` | {attribute['brief']} |"
    yield "| `host.id`, `host.name` | The hypervisor, as OpenTelemetry defines them. |"
    yield "| the names in `labels` | On every resource: constant labels. At `/metrics` on `target_info`. |"
    yield "| `service.name` | On the resource: `barograph`. |"
    yield "| `service.instance.id` | On the resource: `<host.id>/<qemu.vm.id>`; of the agent `<host.id>`. |"
    yield ""
    yield "Values of `qemu.vm.state`:"
    yield ""
    yield "| value | meaning |"
    yield "| --- | --- |"
    for member in _members(attributes):
        yield f"| `{member['value']}` | {member['brief']} |"


def _table(metrics: list[Group], first: str | None) -> Iterator[str]:
    extra = [first] if first else []
    heads = [*extra, "metric", "in Prometheus", "unit", "kind", "description"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for metric in metrics:
        cells = [f"`{statistic_of(metric)}`"] if first else []
        cells += [
            f"`{metric['metric_name']}`",
            f"`{prometheus_name(as_metric(metric))}`",
            f"`{metric['unit']}`",
        ]
        yield f"| {' | '.join([*cells, str(metric['instrument']), str(metric['brief'])])} |"


def _own_table(metrics: list[Group]) -> Iterator[str]:
    yield "| metric | in Prometheus | unit | kind | attributes | description |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for metric in metrics:
        by = ", ".join(f"`{each}`" for each in attributes_of(metric))
        if reasons := reasons_of(metric):
            by += ": " + ", ".join(f"`{each}`" for each in reasons)
        name, unit = f"`{metric['metric_name']}`", f"`{metric['unit']}`"
        in_prometheus = f"`{prometheus_name(as_metric(metric))}`"
        yield f"| {name} | {in_prometheus} | {unit} | {metric['instrument']} | {by} | {metric['brief']} |"


def _members(attributes: list[Mapping[str, object]]) -> list[Mapping[str, str]]:
    state = next(attribute for attribute in attributes if attribute["id"] == "qemu.vm.state")
    return cast(Mapping[str, list[Mapping[str, str]]], state["type"])["members"]


@cache
def generated() -> dict[Path, str]:
    """Return every generated file and its content."""
    variants = {
        open_path(document, version): as_text(opened(load(closed_path(document, version))))
        for document in ALL_DOCUMENTS
        for version in versions(document)
    }
    return variants | {METRICS_PAGE: metrics_page(registry())}


def main() -> None:
    """Write all generated files."""
    for path, text in generated().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
