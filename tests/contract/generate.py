"""Writes what is made from schemas/: the readers' variants and docs/metrics.md.

Run `python -m tests.contract.generate` after a change of a schema or of the metric registry; a test compares.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import yaml

from agent.contract.metrics import OTHER_PREFIX, Kind, Metric, prometheus_name
from tests.contract.schema_files import (
    DOCUMENTS,
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

Group = Mapping[str, object]


def registry() -> list[Group]:
    """Return the registry's groups."""
    return cast(list[Group], yaml.safe_load(REGISTRY.read_text())["groups"])


def metrics_of(groups: list[Group]) -> list[Group]:
    """Return the groups that are metrics, in the registry's order."""
    return [group for group in groups if group["type"] == "metric"]


def statistic_of(metric: Group) -> str | None:
    """Return the statistic that a metric carries; `None`: it is what the host knows."""
    annotations = cast(Mapping[str, str], metric.get("annotations", {}))
    return annotations.get("statistic")


def is_own(metric: Group) -> bool:
    """Whether it is what the agent says of itself."""
    return str(metric["metric_name"]).startswith(("barograph.", "process."))


def reasons_of(metric: Group) -> list[str]:
    """Return the values its `barograph.reason` has."""
    return cast(list[str], cast(Mapping[str, object], metric.get("annotations", {})).get("reasons", []))


def attributes_of(metric: Group) -> list[str]:
    """Return the attributes of its points."""
    return [attribute["ref"] for attribute in cast(list[Mapping[str, str]], metric["attributes"])]


def as_metric(group: Group) -> Metric:
    """Return it as the code has it."""
    return Metric(
        str(group["metric_name"]), str(group["unit"]), cast(Kind, group["instrument"]), str(group["brief"])
    )


_INTRODUCTION = """<!-- Made from schemas/metrics/registry.yaml by `python -m tests.contract.generate`. -->
# Metrics

What the agent sends over OTLP, and shows to those who scrape. Over OTLP each VM is a resource of its own;
its identity stands on the points too, unless `identity: resource` is set, since Prometheus drops most
attributes of a resource. Temporality is always cumulative. Names in Prometheus are those of its default
translation.

At `/metrics` (OpenMetrics, or the older text format for those who ask for nothing else) stand the same
metrics by their names in Prometheus, attributes as labels with `_` for `.`. A guest's values are there only
while its VM is `reporting`, each with the time of its `last_update`, so leave Prometheus'
`honor_timestamps` on.

## What the guest says

A point's time is the guest's `last_update`, never the time of sending: a guest that is silent has no new
points. A statistic that the guest does not give has no metric. A counter starts anew with each epoch.
"""

_HOST = f"""
A statistic that a later QEMU adds goes out as `{OTHER_PREFIX}<name>`, a gauge without a unit, until
it is known here. Do not build on these names. They are not at `/metrics`.

## What the host knows

A point's time is that of the cycle, and for the balloon the time it was observed. So these go on while a
guest is silent: `time() - qemu_vm_last_update_seconds` says for how long.
"""


_OWN = """
## What the agent says of itself

Over OTLP beside the VMs', every `otlp.interval`, from a resource of its own: `service.name` `barograph`,
`service.instance.id` the host's id, `service.version`, `host.id`, `host.name`; at `/metrics` these are on
`target_info`. Counters start at 0 with the agent. The number of series does not depend on the VMs.

`barograph.lag` is an upper bound. QEMU gives an update's time in whole seconds, so nobody can tell when
exactly it came: what is measured is the time from the last instant at which it cannot have been there (the
reading before that showed nothing, an interval after the update before, or its own second, whichever is
last) to the reading that showed it. Only updates with origin `poll` are in it: of others the age is not
known. The true lag is mostly some milliseconds.

At any instant these hold, so that nothing is lost uncounted; at `/metrics` all of the agent's own metrics
are of one instant:

- `readings` = `samples` + `repeats` + `coalesced`; with `readings_refused` these are all answers;
- for each sink `queued` + `carried` = `delivered` + `waiting` + `dropped` + `dead_lettered`;
- `queued` to `kafka.samples` = `samples`, to `kafka.states` = `state_events` + `agent_events`.
"""


def metrics_page(groups: list[Group]) -> str:
    """Return docs/metrics.md."""
    return "\n".join(_page(groups)) + "\n"


def _page(groups: list[Group]) -> Iterator[str]:
    metrics = metrics_of(groups)
    yield _INTRODUCTION
    yield from _table([metric for metric in metrics if statistic_of(metric)], "statistic")
    yield _HOST
    yield from _table([metric for metric in metrics if not statistic_of(metric) and not is_own(metric)], None)
    yield _OWN
    yield from _own_table([metric for metric in metrics if is_own(metric)])
    yield ""
    yield "## Attributes"
    yield ""
    yield "| attribute | what |"
    yield "| --- | --- |"
    attributes = cast(list[Mapping[str, object]], groups[0]["attributes"])
    for attribute in attributes:
        suffix = ".<name>" if attribute["type"] == "template[string]" else ""
        yield f"| `{attribute['id']}{suffix}` | {attribute['brief']} |"
    for attribute in cast(list[Mapping[str, object]], groups[1]["attributes"]):
        yield f"| `{attribute['id']}` | {attribute['brief']} |"
    yield "| `host.id`, `host.name` | OpenTelemetry's: the hypervisor. |"
    yield "| `service.name` | On the resource alone: `barograph`. |"
    yield "| `service.instance.id` | On the resource alone: `<host.id>/<qemu.vm.id>`, or `<host.id>`. |"
    yield ""
    yield "Values of `qemu.vm.state`:"
    yield ""
    yield "| value | when |"
    yield "| --- | --- |"
    for member in _members(attributes):
        yield f"| `{member['value']}` | {member['brief']} |"


def _table(metrics: list[Group], first: str | None) -> Iterator[str]:
    extra = [first] if first else []
    heads = [*extra, "metric", "in Prometheus", "unit", "kind", "what"]
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
    yield "| metric | in Prometheus | unit | kind | by | what |"
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


def generated() -> dict[Path, str]:
    """Return every generated file and what it must hold."""
    variants = {
        open_path(document, version): as_text(opened(load(closed_path(document, version))))
        for document in DOCUMENTS
        for version in versions(document)
    }
    return variants | {METRICS_PAGE: metrics_page(registry())}


def main() -> None:
    """Write them all."""
    for path, text in generated().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
