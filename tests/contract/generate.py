"""Writes what is made from schemas/: the readers' variants and docs/metrics.md.

Run `python -m tests.contract.generate` after a change of a schema or of the metric registry; a test compares.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import yaml

from agent.contract.metrics import OTHER_PREFIX
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


def prometheus_name(metric: Group) -> str:
    """Return the name Prometheus 3 gives it by default.

    Source: OpenTelemetry specification, compatibility/prometheus_and_openmetrics.md, "OTLP Metric points to
    Prometheus": dots become underscores, the unit a suffix, a monotonic sum ends in `_total`.
    """
    unit = {"By": "_bytes", "s": "_seconds"}.get(str(metric["unit"]), "")
    total = "_total" if metric["instrument"] == "counter" else ""
    return str(metric["metric_name"]).replace(".", "_") + unit + total


_INTRODUCTION = """<!-- Made from schemas/metrics/registry.yaml by `python -m tests.contract.generate`. -->
# Metrics

What the agent sends over OTLP. Each VM is a resource of its own; its identity stands on the points too,
unless `identity: resource` is set, since Prometheus drops most attributes of a resource. Temporality is
always cumulative. Names in Prometheus are those of its default translation.

## What the guest says

A point's time is the guest's `last_update`, never the time of sending: a guest that is silent has no new
points. A statistic that the guest does not give has no metric. A counter starts anew with each epoch.
"""

_HOST = f"""
A statistic that a later QEMU adds goes out as `{OTHER_PREFIX}<name>`, a gauge without a unit, until
it is known here. Do not build on these names.

## What the host knows

A point's time is that of the cycle, and for the balloon the time it was observed. So these go on while a
guest is silent: `time() - qemu_vm_last_update_seconds` says for how long.
"""


def metrics_page(groups: list[Group]) -> str:
    """Return docs/metrics.md."""
    return "\n".join(_page(groups)) + "\n"


def _page(groups: list[Group]) -> Iterator[str]:
    metrics = metrics_of(groups)
    yield _INTRODUCTION
    yield from _table([metric for metric in metrics if statistic_of(metric)], "statistic")
    yield _HOST
    yield from _table([metric for metric in metrics if not statistic_of(metric)], None)
    yield ""
    yield "## Attributes"
    yield ""
    yield "| attribute | what |"
    yield "| --- | --- |"
    attributes = cast(list[Mapping[str, object]], groups[0]["attributes"])
    for attribute in attributes:
        suffix = ".<name>" if attribute["type"] == "template[string]" else ""
        yield f"| `{attribute['id']}{suffix}` | {attribute['brief']} |"
    yield "| `host.id`, `host.name` | OpenTelemetry's: the hypervisor. |"
    yield "| `service.name` | On the resource alone: `barograph`. |"
    yield "| `service.instance.id` | On the resource alone: `<host.id>/<qemu.vm.id>`. |"
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
        cells += [f"`{metric['metric_name']}`", f"`{prometheus_name(metric)}`", f"`{metric['unit']}`"]
        yield f"| {' | '.join([*cells, str(metric['instrument']), str(metric['brief'])])} |"


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
