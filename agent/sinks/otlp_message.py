"""The OTLP message of one VM's metrics, while it is built. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
    NumberDataPoint,
    ResourceMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from agent.contract import metrics
from agent.contract.metrics import Metric
from agent.contract.payloads import Agent
from agent.core.reading import State
from agent.sinks.otlp_settings import Identity

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer


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
        self.metrics = ResourceMetrics(
            resource=Resource(attributes=_attributes(of_vm)), schema_url=metrics.SCHEMA_URL
        )
        self.points = 0
        self.series: set[Metric] = set()
        self.left_out: Counter[RefusedPoint] = Counter()
        scope = self.metrics.scope_metrics.add(
            scope=InstrumentationScope(name="barograph", version=agent.version), schema_url=metrics.SCHEMA_URL
        )
        self._metrics = scope.metrics
        # Encoded once for all points of the VM, which makes each point cheaper.
        on_points = _attributes(named) if identity == "points" else ()
        self._identity = NumberDataPoint(attributes=on_points).SerializeToString()

    def add(self, metric: Metric, value: float, *, time_ns: int, start_ns: int) -> None:
        self._add(self._points(metric), value, time_ns, start_ns)

    def add_states(
        self, metric: Metric, states: Sequence[State], state: State, *, time_ns: int, start_ns: int
    ) -> None:
        points = self._points(metric)
        for each in states:
            point = self._add(points, int(each is state), time_ns, start_ns)
            point.attributes.add(key=metrics.VM_STATE, value=AnyValue(string_value=each.value))

    def add_reasons(self, reasons: Mapping[int, Mapping[str, str]], *, time_ns: int, start_ns: int) -> None:
        """Add a point of `STATE_REASON` for each value."""
        points = self._points(metrics.STATE_REASON)
        for value, attributes in reasons.items():
            self._add(points, value, time_ns, start_ns).attributes.extend(_attributes(attributes))

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
                point = points.add(
                    time_unix_nano=time_ns,
                    flags=DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK,
                    attributes=_attributes(attributes),
                )
                point.MergeFromString(self._identity)
                self.points += 1

    def _points(self, metric: Metric) -> "RepeatedCompositeFieldContainer[NumberDataPoint]":
        # Without descriptions, which would be a third of the bytes; docs/metrics.md has them.
        self.series.add(metric)
        made = self._metrics.add(name=metric.name, unit=metric.unit)
        if metric.kind == "gauge":
            return made.gauge.data_points
        made.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        made.sum.is_monotonic = metric.kind == "counter"
        return made.sum.data_points

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
        point.MergeFromString(self._identity)
        self.points += 1
        return point


def _attributes(of: Mapping[str, str]) -> Sequence[KeyValue]:
    return [KeyValue(key=name, value=AnyValue(string_value=value)) for name, value in of.items()]
