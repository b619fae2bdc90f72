"""One cycle: builds and exports the newest values of every VM in slices. Runs on the exporter's thread.

Building and encoding hold the interpreter's lock. The pause between slices lets the event loop run, so that
readings are not late.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from agent.contract.payloads import Agent
from agent.contract.targets import Target, targets
from agent.core.reading import VmView
from agent.sinks import otlp_points
from agent.sinks.otlp_points import NOTHING_SENT, OTHERS_MAX, RefusedPoint, SentVm, VmPoints
from agent.sinks.otlp_settings import Identity

SLICE_VMS = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one export."""

    accepted: bool
    refused: bool = False  # the request itself was refused, and would be again
    unsupported: bool = False  # the backend has nothing at this address
    rejected: int = 0  # points or logs of an accepted request: partial success
    detail: str = ""
    retry_after_s: float | None = None  # the delay that the backend asked for


class Exporter(Protocol):
    """Sends metrics and waits for the answer, with its own deadline."""

    def export(self, request: ExportMetricsServiceRequest) -> Outcome:
        """Send `request`. Errors of the backend or the network are outcomes, not exceptions."""
        ...

    def shutdown(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class Cycle:
    """The input of one cycle."""

    views: Sequence[VmView]
    sent: Mapping[str, SentVm]  # by Target.key
    now_ns: int  # Unix nanoseconds


@dataclass(frozen=True, slots=True)
class SliceReport:
    """The results of one slice."""

    settled: Mapping[str, SentVm] = field(default_factory=dict[str, SentVm])
    points_sent: int = 0
    points_refused: Mapping[RefusedPoint, int] = field(default_factory=dict[RefusedPoint, int])
    passed_over: int = 0


@dataclass(frozen=True, slots=True)
class CycleEnd:
    """The end of a cycle. `failure` is the outcome that ended it early."""

    failure: Outcome | None = None
    exports: int = 0  # 0: nothing to export, so the state of the backend is not known


def run_cycle(
    cycle: Cycle, exporter: Exporter, agent: Agent, identity: Identity, pause: Callable[[], bool]
) -> Iterator[SliceReport | CycleEnd]:
    """Export the newest values of each VM, then the ends of those that are no longer there.

    The first slice that fails ends the cycle.

    Args:
        cycle: the VMs, and what has been sent of them.
        exporter: where to send.
        agent: the identity of the agent.
        identity: whether the VM's identity is on the points too.
        pause: waits between two slices; `True`: the cycle must end now.

    Yields:
        A report for each slice, then the end.
    """
    vms = targets(cycle.views, agent)
    shown = {target.key for target in vms}
    ended = [key for key, each in cycle.sent.items() if each.series and key not in shown]
    due: Sequence[Target | str] = [*vms, *ended]
    exports = 0
    room_for_others = max(OTHERS_MAX - sum(len(each.others) for each in cycle.sent.values()), 0)
    for start in range(0, len(due), SLICE_VMS):
        if start and pause():
            break
        built: list[VmPoints] = []
        for target in due[start : start + SLICE_VMS]:
            if isinstance(target, str):
                end = otlp_points.build_end(target, cycle.sent[target], agent, identity, cycle.now_ns)
                built.append(end)
                continue
            before = cycle.sent.get(target.key, NOTHING_SENT)
            points = otlp_points.build(
                target, before, agent, identity, cycle.now_ns, room_for_others=room_for_others
            )
            room_for_others -= len(points.accepted.others) - len(before.others)
            built.append(points)
        report, failure = _send(built, exporter)
        exports += 1
        yield report
        if failure is not None:
            yield CycleEnd(failure, exports)
            return
    yield CycleEnd(None, exports)


def _send(built: Sequence[VmPoints], exporter: Exporter) -> tuple[SliceReport, Outcome | None]:
    vms = [vm for vm in built if vm.points]
    if not vms:
        return _report(built, [], [], 0), None
    outcome = exporter.export(_request(vms))
    if outcome.accepted:
        return _report(built, vms, [], outcome.rejected), None
    if not outcome.refused:
        return SliceReport(), outcome
    return _send_alone(built, vms, exporter, outcome)


def _send_alone(
    built: Sequence[VmPoints], vms: Sequence[VmPoints], exporter: Exporter, outcome: Outcome
) -> tuple[SliceReport, Outcome | None]:
    """Export each VM of a refused slice separately: a bad point of one VM must not affect the others.

    Prometheus stores nothing of a request in which one point is too old. If no VM at all is accepted, the
    problem is the backend's, and the cycle ends.
    """
    accepted: list[VmPoints] = []
    refused: list[VmPoints] = []
    rejected_points = 0
    failure: Outcome | None = outcome
    for vm in vms:
        alone = outcome if len(vms) == 1 else exporter.export(_request([vm]))
        if alone.accepted:
            accepted.append(vm)
            rejected_points += min(max(alone.rejected, 0), vm.points)
            failure = None
        elif alone.refused:
            refused.append(vm)
        else:
            failure = alone
            break
    return _report(built, accepted, refused, rejected_points), failure


def _report(
    built: Sequence[VmPoints], accepted: Sequence[VmPoints], refused: Sequence[VmPoints], rejected_points: int
) -> SliceReport:
    points_refused: Counter[RefusedPoint] = Counter()
    for vm in (*accepted, *refused, *(vm for vm in built if not vm.points)):
        points_refused.update(vm.left_out)
    points_refused[RefusedPoint.BACKEND] += sum(vm.points for vm in refused)
    sent = sum(vm.points for vm in accepted)
    rejected_points = min(max(rejected_points, 0), sent)  # a backend may answer any number
    points_refused[RefusedPoint.PARTIAL_SUCCESS] += rejected_points
    return SliceReport(
        settled={vm.key: vm.accepted for vm in accepted} | {vm.key: vm.refused for vm in refused},
        points_sent=sent - rejected_points,
        points_refused={reason: points for reason, points in points_refused.items() if points},
        passed_over=sum(vm.passed_over for vm in (*accepted, *refused)),
    )


def _request(vms: Sequence[VmPoints]) -> ExportMetricsServiceRequest:
    return ExportMetricsServiceRequest(resource_metrics=[vm.metrics for vm in vms])
