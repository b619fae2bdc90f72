"""Exports the agent's own metrics over OTLP, with instruments of the SDK, to the backend of the VMs' metrics.

Rules, each with a test in tests/integration/test_sinks_otlp_own.py:

- all instruments are observable and come from the table, so that counting costs nothing here;
- the exported values are a snapshot taken on the event loop, never the loop's own objects;
- a backend that is unavailable or hangs blocks only the SDK's thread, and is logged when it begins and ends;
- at shutdown there is a last export, with a deadline.

The SDK has no observable histogram: the agent keeps its own and adds it to what the SDK collected.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, cast

import anyio
import structlog
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from agent.contract import metrics
from agent.contract.payloads import Agent
from agent.contract.targets import utf8
from agent.core.health import Health, Status
from agent.redaction import Redactor
from agent.sinks.otlp_cycle import Exporter
from agent.sinks.otlp_exporter import open_exporter
from agent.sinks.otlp_settings import Settings
from agent.telemetry import INSTRUMENTS, LAG, Distribution, Instrument, Snapshot
from agent.threads import WorkerThread

log = structlog.get_logger("barograph.otlp")

_SNAPSHOT_TIMEOUT_S = 5.0


class OwnTelemetry:
    """Exports all instruments every cycle, from the SDK's thread."""

    def __init__(
        self,
        settings: Settings,
        agent: Agent,
        take_snapshot: Callable[[], Snapshot],
        redact: Redactor | None = None,
    ) -> None:
        """Start nothing yet; `take_snapshot` is called on the event loop."""
        self._settings = settings
        self._redact = redact or Redactor()
        self._agent = agent
        self._take_snapshot = take_snapshot
        self._loop: asyncio.AbstractEventLoop | None = None
        self._provider: MeterProvider | None = None
        self._snapshot: Snapshot | None = None
        self._is_stale = False
        self._exporter: _Exporter | None = None

    def joined(self, of_vms: Status) -> Status:
        """Return the health of OTLP: that of the metrics of VMs, or of these while there is no VM."""
        problem = "" if self._exporter is None else self._exporter.problem
        if problem and of_vms.health is Health.STARTING:
            return Status(Health.DEGRADED, problem)
        return of_vms

    def start(self) -> None:
        """Start exporting. Call it on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._snapshot, self._is_stale = self._take_snapshot(), True
        exporter = self._exporter = _Exporter(self._open, self._last_of_a_collection)
        reader = PeriodicExportingMetricReader(
            exporter, export_interval_millis=self._settings.interval_s * 1000
        )
        self._provider = MeterProvider([reader], resource=_resource(self._agent), shutdown_on_exit=False)
        meter = self._provider.get_meter("barograph", self._agent.version, schema_url=metrics.SCHEMA_URL)
        for instrument in INSTRUMENTS:
            self._register(meter, instrument)

    async def finish(self, deadline_s: float) -> None:
        """Export once more and end. At the deadline the rest is abandoned."""
        provider, self._provider = self._provider, None
        if provider is None:
            return
        thread = WorkerThread("otlp-own-end")
        ended = thread.submit(lambda: provider.shutdown(timeout_millis=deadline_s * 1000))
        thread.end()
        with anyio.move_on_after(deadline_s) as scope:
            await ended.done.wait()
        if scope.cancelled_caught:
            detail = "the backend did not answer in time; check it, or raise shutdown.deadline"
            log.warning("export of agent metrics abandoned", after_s=deadline_s, detail=detail)

    def _open(self) -> Exporter:
        return open_exporter(self._settings, None, self._redact.add, self._redact)

    def _register(self, meter: Meter, instrument: Instrument) -> None:
        metric = instrument.metric

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            points = self._present().points[metric.name]
            return [Observation(point.value, dict(point.attributes)) for point in points]

        match metric.kind:
            case "counter":
                meter.create_observable_counter(metric.name, [observe], metric.unit, metric.description)
            case "updowncounter":
                meter.create_observable_up_down_counter(
                    metric.name, [observe], metric.unit, metric.description
                )
            case "gauge":
                meter.create_observable_gauge(metric.name, [observe], metric.unit, metric.description)
            case "histogram":
                return  # the exporter adds it

    def _present(self) -> Snapshot:
        """Return one snapshot for a whole collection; the last one if the event loop does not answer.

        Called on the SDK's thread.
        """
        if self._is_stale:
            self._is_stale = False
            taken: Future[Snapshot] = Future()
            if self._loop is not None and _call(self._loop, lambda: taken.set_result(self._take_snapshot())):
                try:
                    self._snapshot = taken.result(_SNAPSHOT_TIMEOUT_S)
                except TimeoutError:
                    detail = "the event loop did not answer in time; the last values are sent again"
                    log.warning("agent metrics are stale", detail=detail)
        if self._snapshot is None:
            raise LookupError("not started")
        return self._snapshot

    def _last_of_a_collection(self) -> Distribution:
        lag = self._present().lag
        self._is_stale = True
        return lag


class _Exporter(MetricExporter):
    """The official exporter, opened at the first export; it adds the histogram to the SDK's metrics."""

    def __init__(self, open_: Callable[[], Exporter], lag: Callable[[], Distribution]) -> None:
        super().__init__()
        self._open = open_
        self._lag = lag
        self._exporter: Exporter | None = None
        self._began_ns = time.time_ns()
        self._failures = 0
        self.problem = ""  # written by the SDK's thread, read by any

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        lag = self._lag()
        try:
            self._exporter = self._exporter or self._open()
        except (OSError, ValueError) as error:  # a certificate file that is missing or invalid
            self._failed(f"cannot open the exporter: {error}")
            return MetricExportResult.FAILURE
        outcome = self._exporter.export(encode_metrics(_with(metrics_data, self._histogram(lag))))
        if not outcome.accepted:
            self._failed(outcome.detail)
            return MetricExportResult.FAILURE
        if self._failures:
            log.info("agent metrics exported again", exports_failed=self._failures)
        self._failures = 0
        self.problem = ""
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        if self._exporter is not None:
            self._exporter.shutdown()

    def _failed(self, problem: str) -> None:
        self.problem = problem or "unknown"
        if not self._failures:
            log.warning("agent metrics not exported", problem=problem)
        self._failures += 1

    def _histogram(self, lag: Distribution) -> Metric:
        unknown = cast("float", None)  # minimum and maximum are optional in the protocol, and not kept
        point = HistogramDataPoint(
            attributes={},
            start_time_unix_nano=self._began_ns,
            time_unix_nano=time.time_ns(),
            count=sum(lag.counts),
            sum=lag.sum,
            bucket_counts=lag.counts,
            explicit_bounds=lag.bounds,
            min=unknown,
            max=unknown,
        )
        metric = LAG.metric
        points: Sequence[HistogramDataPoint] = [point]
        return Metric(
            metric.name, metric.description, metric.unit, Histogram(points, AggregationTemporality.CUMULATIVE)
        )


def _with(collected: MetricsData, metric: Metric) -> MetricsData:
    (of_resource,) = collected.resource_metrics
    (of_scope,) = of_resource.scope_metrics
    scope = replace(of_scope, metrics=[*of_scope.metrics, metric])
    return MetricsData([replace(of_resource, scope_metrics=[scope])])


def _resource(agent: Agent) -> Resource:
    return Resource(
        {
            **agent.labels,
            "service.name": "barograph",
            "service.instance.id": agent.host_id,
            "service.version": agent.version,
            metrics.HOST_ID: agent.host_id,
            metrics.HOST_NAME: utf8(agent.host_name),
        },
        metrics.SCHEMA_URL,
    )


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> bool:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return False  # the loop has ended
    return True
