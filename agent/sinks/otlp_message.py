"""The OTLP message of one VM's metrics, while it is built. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric as OtlpMetric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from agent.contract import metrics
from agent.contract.metrics import Metric
from agent.contract.payloads import Agent
from agent.core.reading import State
from agent.sinks.otlp_settings import Identity

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer


VMS_MAX = 20_000
"""VMs remembered, including those that are gone."""

METRICS_KEPT_MAX = 1_024
"""Names of metrics that are kept encoded."""

Attributes: TypeAlias = tuple[tuple[str, str], ...]


class RefusedPoint(StrEnum):
    """Why a point was not exported: left out by the agent, or refused by the backend."""

    BAD_VALUE = "bad_value"  # not an integer of 64 bits
    BAD_NAME = "bad_name"  # not valid in a metric's name
    TOO_MANY_NAMES = "too_many_names"  # an unknown statistic, beyond the bound of the VM or of all VMs
    TIME_WENT_BACK = "time_went_back"  # the host's clock was set back: no points until it has caught up
    BACKEND = "backend"  # the request was refused, for this VM alone too
    PARTIAL_SUCCESS = "partial_success"  # the backend accepted the rest of the request


class Made:
    """The metrics of one VM, while they are built."""

    def __init__(self, key: str, agent: Agent, named: Mapping[str, str], identity: Identity) -> None:
        of_vm = {**agent.labels, "service.name": "barograph", "service.instance.id": key, **named}
        self.metrics = ResourceMetrics.FromString(_envelope(tuple(of_vm.items()), agent.version))
        self.points = 0
        self.series: set[Metric] = set()
        self.left_out: Counter[RefusedPoint] = Counter()
        self._metrics = self.metrics.scope_metrics[0].metrics
        self._identity = _identity(tuple(named.items()) if identity == "points" else ())

    def add(self, metric: Metric, value: float, *, time_ns: int, start_ns: int) -> None:
        self._add(self._points(metric), value, time_ns, start_ns)

    def add_states(
        self, metric: Metric, states: Sequence[State], state: State, *, time_ns: int, start_ns: int
    ) -> None:
        points = self._points(metric)
        for each in states:
            point = self._add(points, int(each is state), time_ns, start_ns)
            point.attributes.add(key=metrics.VM_STATE, value=AnyValue(string_value=each.value))

    def add_reason(
        self, reason: Mapping[str, str], before: Mapping[str, str] | None, *, time_ns: int, start_ns: int
    ) -> None:
        """Add the point of a reason, and the end of the series of the one before it."""
        points = self._points(metrics.STATE_REASON)
        self._add(points, 1, time_ns, start_ns).attributes.extend(_attributes(reason))
        if before is not None and before != reason:
            self._end(points, before, time_ns)

    def end(self, ended: Collection[Metric], reason: Mapping[str, str] | None, time_ns: int) -> None:
        """Add the ends of series. `reason` is the one that was sent last."""
        for metric in sorted(ended, key=lambda each: each.name):
            points = self._points(metric)
            own: Sequence[Mapping[str, str]] = [{}]
            if metric is metrics.STATE:
                own = [{metrics.VM_STATE: state.value} for state in State]
            elif metric is metrics.STATE_REASON:
                own = [reason or {}]
            for attributes in own:
                self._end(points, attributes, time_ns)

    def _end(
        self,
        points: "RepeatedCompositeFieldContainer[NumberDataPoint]",
        attributes: Mapping[str, str],
        time_ns: int,
    ) -> None:
        point = points.add(
            time_unix_nano=time_ns,
            flags=DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
            attributes=_attributes(attributes),
        )
        point.MergeFromString(self._identity)
        self.points += 1

    def _points(self, metric: Metric) -> "RepeatedCompositeFieldContainer[NumberDataPoint]":
        self.series.add(metric)
        made = self._metrics.add()
        made.MergeFromString(_without_points(metric))
        return made.gauge.data_points if metric.kind == "gauge" else made.sum.data_points

    def _add(
        self,
        points: "RepeatedCompositeFieldContainer[NumberDataPoint]",
        value: float,
        time_ns: int,
        start_ns: int,
    ) -> NumberDataPoint:
        point = points.add(start_time_unix_nano=start_ns, time_unix_nano=time_ns)
        if isinstance(value, int):
            point.as_int = value
        else:
            point.as_double = value
        if self._identity:
            point.MergeFromString(self._identity)
        self.points += 1
        return point


# What is the same in each cycle is encoded once. Decoding it is a single call, and building it is many.


@lru_cache(maxsize=VMS_MAX)
def _envelope(resource: Attributes, version: str) -> bytes:
    """Return the encoded metrics of a VM, without any metric."""
    scope = ScopeMetrics(
        scope=InstrumentationScope(name="barograph", version=version), schema_url=metrics.SCHEMA_URL
    )
    return ResourceMetrics(
        resource=Resource(attributes=_attributes(dict(resource))),
        scope_metrics=[scope],
        schema_url=metrics.SCHEMA_URL,
    ).SerializeToString()


@lru_cache(maxsize=VMS_MAX)
def _identity(attributes: Attributes) -> bytes:
    """Return an encoded point that has only attributes."""
    return NumberDataPoint(attributes=_attributes(dict(attributes))).SerializeToString()


@lru_cache(maxsize=METRICS_KEPT_MAX)
def _without_points(metric: Metric) -> bytes:
    """Return an encoded metric that has no point and no description: docs/metrics.md has them."""
    made = OtlpMetric(name=metric.name, unit=metric.unit)
    if metric.kind == "gauge":
        made.gauge.SetInParent()
    else:
        made.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        made.sum.is_monotonic = metric.kind == "counter"
    return made.SerializeToString()


def _attributes(of: Mapping[str, str]) -> Sequence[KeyValue]:
    return [KeyValue(key=name, value=AnyValue(string_value=value)) for name, value in of.items()]
