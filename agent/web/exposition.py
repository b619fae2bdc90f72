"""`/metrics`: the agent's own metrics and the newest values of each VM, for scrapes. Pure.

prometheus_client writes the agent's own metrics, the heads of families and the numbers; only this file
imports it. The lines of the VMs are written here: for 1,000 VMs that takes a sixth of the time. Names are
those that Prometheus gives the same metrics over OTLP. A guest's values are shown only while its VM is
`reporting`, with the time of its `last-update`: a scrape must not make an old value look new. Unknown
statistics are left to OTLP and Kafka: QEMU chose their names, and two of them may become one name here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Sample,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.exposition import generate_latest as write_plain
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import (
    generate_latest as write_openmetrics,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString as number_text

from agent import telemetry
from agent.contract import metrics
from agent.contract.memory_values import MEMORY_VALUES
from agent.contract.metrics import (
    GUEST_METRICS,
    Metric,
    prometheus_family,
    prometheus_label,
    prometheus_name,
    prometheus_unit,
)
from agent.contract.payloads import Agent
from agent.contract.targets import (
    Target,
    identifying_attributes,
    label_attributes,
    reason_attributes,
    targets,
    utf8,
)
from agent.core.pressure import VmPressure
from agent.core.reading import State, VmView
from agent.telemetry import INSTRUMENTS, Snapshot

SLICE_SAMPLES = 250
"""Samples written without giving way to other tasks."""

_SLICE_VMS = 100
_END = "# EOF\n"


@dataclass(frozen=True, slots=True)
class Format:
    """One of the two text formats."""

    content_type: str
    write: Callable[[Collector], bytes]
    time: Callable[[float], str]  # of a sample, from Unix seconds
    end: str


OPENMETRICS = Format(
    CONTENT_TYPE_OPENMETRICS, cast("Callable[[Collector], bytes]", write_openmetrics), str, _END
)
PLAIN = Format(CONTENT_TYPE_PLAIN_0_0_4, write_plain, lambda at_s: str(int(at_s * 1000)), "")


def format_for(accept: str) -> Format:
    """Return the format for an Accept header: OpenMetrics, unless the client accepts only the older one."""
    return PLAIN if "text/plain" in accept and "application/openmetrics-text" not in accept else OPENMETRICS


def metrics_parts(
    snapshot: Snapshot, views: Sequence[VmView], identity: Agent, form: Format
) -> Iterator[str]:
    """Yield the text in parts: the agent's own metrics first, then those of the VMs, family by family."""
    yield "".join(_text(family, form) for family in _own(snapshot, identity))
    vms: list[_Vm] = []
    every = targets(views, identity)
    for start in range(0, len(every), _SLICE_VMS):
        for target in every[start : start + _SLICE_VMS]:
            labels = _labels(identifying_attributes(target, identity))
            vms.append(_Vm(target, labels, _inside(labels)))
        yield ""
    yield from _slices(InfoMetricFamily("qemu_vm", "The labels of the VM."), _info_lines(vms), form)
    for metric, statistic in _VM_METRICS:
        yield from _slices(_family(metric, []), _lines(metric, statistic, vms, form), form)
    yield form.end


def _own(snapshot: Snapshot, identity: Agent) -> Iterator[Family]:
    yield InfoMetricFamily(
        "target",
        "The agent and its host.",
        value={
            "service_name": "barograph",
            "service_instance_id": identity.host_id,
            "service_version": identity.version,
            "host_id": identity.host_id,
            "host_name": utf8(identity.host_name),
        }
        | _labels(identity.labels),
    )
    for instrument in INSTRUMENTS:
        metric = instrument.metric
        if instrument is telemetry.LAG:
            family = HistogramMetricFamily(
                prometheus_family(metric), metric.description, unit=prometheus_unit(metric)
            )
            lag = snapshot.lag
            sums = [sum(lag.counts[: place + 1]) for place in range(len(lag.counts))]
            names = [*(str(bound) for bound in lag.bounds), "+Inf"]
            family.add_metric((), list(zip(names, sums, strict=True)), lag.sum)
            yield family
        else:
            name = prometheus_name(metric)
            points = snapshot.points[metric.name]
            yield _family(metric, [Sample(name, _labels(each.attributes), each.value) for each in points])


@dataclass(frozen=True, slots=True)
class _Vm:
    target: Target
    labels: Mapping[str, str]
    inside: str  # the same as text


def _info_lines(vms: Sequence[_Vm]) -> Iterator[str]:
    """Yield the labels of the VMs: once each, instead of on every series, whose number they would not change
    but whose size they would."""
    for vm in vms:
        if vm.target.vm is not None:
            labels = _inside({**vm.labels, **_labels(label_attributes(vm.target))})
            yield f"qemu_vm_info{{{labels}}} 1.0\n"


def _lines(metric: Metric, statistic: str | None, vms: Sequence[_Vm], form: Format) -> Iterator[str]:
    name = prometheus_name(metric)
    for vm in vms:
        target, inside = vm.target, vm.inside
        view = target.view
        if statistic is not None:
            sample = view.sample
            if sample is not None and _is_shown(target):
                value = sample.statistics.get(statistic)
                if value is not None:
                    yield f"{name}{{{inside}}} {number_text(value)} {form.time(sample.last_update_s)}\n"
        elif metric.name in _PRESSURE_VALUES:
            pressure = view.pressure
            if pressure is not None and pressure.score is not None and _is_shown(target):
                value = _PRESSURE_VALUES[metric.name](pressure)
                yield f"{name}{{{inside}}} {number_text(value)} {form.time(pressure.last_update_s)}\n"
        elif metric is metrics.STATE:
            for state in State:
                value = "1.0" if view.state.state is state else "0.0"
                yield f'{name}{{{inside},{_STATE_LABEL}="{state.value}"}} {value}\n'
        elif metric is metrics.STATE_REASON:
            yield f"{name}{{{inside},{_inside(_labels(reason_attributes(target)))}}} 1.0\n"
        elif metric.name in _MEMORY_VALUES:
            memory = view.memory
            point = None if memory is None or target.vm is None else _MEMORY_VALUES[metric.name](memory)
            if point is not None:
                at = form.time(point.observed_at_ms / 1000)
                yield f"{name}{{{inside}}} {number_text(point.value)} {at}\n"
        else:
            value = _HOST_VALUES[metric.name](target)
            if value is not None:
                yield f"{name}{{{inside}}} {number_text(value)}\n"


def _is_shown(target: Target) -> bool:
    """Whether a guest's values are shown: the VM is reporting, and its sample is its own."""
    view = target.view
    if view.sample is None or target.vm is None or view.state.state is not State.REPORTING:
        return False
    return view.sample.vm.id == target.vm.id


_STATE_LABEL = prometheus_label(metrics.VM_STATE)
_HOST_VALUES: Mapping[str, Callable[[Target], int | None]] = {
    metrics.LAST_UPDATE.name: lambda target: target.view.last_update_s,
    metrics.POLLING_INTERVAL.name: lambda target: target.view.state.interval_s,
    metrics.BALLOON_ACTUAL.name: lambda target: (
        None if target.view.balloon is None else target.view.balloon.actual_bytes
    ),
}
_PRESSURE_VALUES: Mapping[str, Callable[[VmPressure], float]] = {
    metrics.PRESSURE_LEVEL.name: lambda pressure: pressure.level.rank,
    metrics.PRESSURE_SCORE.name: lambda pressure: pressure.score or 0.0,
}
_MEMORY_VALUES = {metrics.MEMORY_METRICS[name].name: value for name, value in MEMORY_VALUES.items()}
_VM_METRICS: tuple[tuple[Metric, str | None], ...] = (
    *((metric, None) for metric in metrics.HOST_METRICS),
    *((metric, statistic) for statistic, metric in GUEST_METRICS.items()),
    *((metric, None) for metric in metrics.PRESSURE_METRICS),
)


def _slices(family: Family, lines: Iterator[str], form: Format) -> Iterator[str]:
    """Yield one family in slices. Its head precedes the first slice; without samples nothing is yielded."""
    head = _text(family, form)
    while part := "".join(islice(lines, SLICE_SAMPLES)):
        yield head + part
        head = ""


def _family(metric: Metric, samples: list[Sample]) -> Family:
    name, unit = prometheus_family(metric), prometheus_unit(metric)
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(name, metric.description, labels=(), unit=unit)
    family.samples = samples
    return family


class _OneFamily(Collector):
    """The collector that the writer expects, for one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterator[Family]:
        yield self._family


def _text(family: Family, form: Format) -> str:
    return form.write(_OneFamily(family)).decode().removesuffix(_END)


def _labels(attributes: Mapping[str, str]) -> dict[str, str]:
    return {prometheus_label(name): value for name, value in attributes.items()}


def _inside(labels: Mapping[str, str]) -> str:
    """Return what both formats have between the braces."""
    return ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in sorted(labels.items()))


_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
