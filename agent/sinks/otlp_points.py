"""Builds the OTLP metrics of one VM's newest values. Pure: what was sent before, and the time, are arguments.

Rules, each with a test in tests/unit/sinks/test_otlp_points.py:

- a guest's values are sent when its sample is newer than the last one sent, with the time of `last_update`:
  never twice, and never with an earlier time than the last one;
- a counter starts when its epoch starts, but never before the last point of the previous epoch;
- the host's values are sent each cycle, with the time of their observation;
- a series ends with its VM: with a point without a value, flagged NO_RECORDED_VALUE (OpenTelemetry
  specification, metrics/data-model.md, "Data point flags"), which Prometheus takes as its end;
- each VM has one resource, and each VM id is on one resource only;
- the exporter gets only what it can encode: integers of 64 bits, names in UTF-8;
- unknown statistics make a bounded number of series: a monitor could invent names without end.

The values are OTLP's own messages, not the SDK's: its instruments cannot carry a measurement's own time,
many resources or a counter's start (OpenTelemetry specification, metrics/sdk.md, "MetricReader"), and its
`MetricsData` is far slower to build and encode (docs/decisions/0012).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from agent.contract import metrics
from agent.contract.memory_values import MEMORY_VALUES
from agent.contract.metrics import OTHER_PREFIX, Metric
from agent.contract.payloads import Agent
from agent.contract.targets import Target, identifying_attributes, label_attributes, reason_attributes
from agent.core.reading import Sample, State, VmView
from agent.sinks.otlp_message import VMS_MAX, Made, RefusedPoint
from agent.sinks.otlp_settings import Identity

_SECOND_NS = 1_000_000_000
STATES_EVERY_NS = 60 * _SECOND_NS
"""Prometheus forgets a series after five minutes without a point."""

_TIME_LIMIT_NS = 1 << 63
_VALUE_LIMIT = 1 << 63
OTHERS_OF_A_VM_MAX = 32
"""Names of unknown statistics of one VM. Each becomes a series."""

OTHERS_MAX = 8_192
"""The same for all VMs together, including those that are gone but remembered."""

_OF_THE_STATE = frozenset({metrics.STATE, metrics.STATE_REASON})
_OTHER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")  # instrument name syntax: metrics/api.md


class SentVm(Struct, frozen=True):
    """What has been sent of one VM. Times are Unix nanoseconds; 0: nothing sent.

    A `Struct`, since it is replaced several times for each VM and cycle.
    """

    epoch: str | None = None  # of the last sample settled: sent, or refused by the backend
    sequence: int = 0
    guest_time_ns: int = 0
    guest_start_ns: int = 0  # the start time of the epoch's counters
    host_time_ns: int = 0
    host_start_ns: int = 0
    balloon_time_ns: int = 0
    balloon_start_ns: int = 0
    memory_time_ns: int = 0  # of the last memory record
    memory_start_ns: int = 0
    cgroup: str | None = None  # the one of that record: another one starts its counters again
    cgroup_start_ns: int = 0
    state: State | None = None  # the one last sent as 1
    reason: Mapping[str, str] | None = None  # the attributes of `STATE_REASON` last sent as 1
    states_time_ns: int = 0  # when all states were last sent
    others: frozenset[str] = frozenset()  # unknown statistics that are series already
    named: Mapping[str, str] = field(default_factory=dict[str, str])  # the attributes of the VM
    series: frozenset[Metric] = frozenset()  # those that have begun and not ended


NOTHING_SENT = SentVm()


@dataclass(frozen=True, slots=True)
class VmPoints:
    """The metrics of one VM, and what has been sent once they are settled."""

    key: str
    metrics: ResourceMetrics
    points: int
    passed_over: int  # samples replaced by this newer one, never sent
    accepted: SentVm
    refused: SentVm  # the sample is not sent again, and a later one may have an earlier time
    left_out: Mapping[RefusedPoint, int] = field(default_factory=dict[RefusedPoint, int])


def build(
    target: Target,
    before: SentVm,
    agent: Agent,
    identity: Identity,
    now_ns: int,
    *,
    room_for_others: int = OTHERS_OF_A_VM_MAX,
) -> VmPoints:
    """Return the metrics to send of one VM: no points if time went back.

    Args:
        target: the VM.
        before: what has been sent of it.
        agent: the identity of the agent.
        identity: whether the VM's identity is on the points too.
        now_ns: Unix nanoseconds of this cycle.
        room_for_others: how many unknown statistics may become new series.
    """
    named = identifying_attributes(target, agent) | label_attributes(target)
    made = Made(target.key, agent, named, identity)
    after = _host_values(made, target, before, now_ns)
    after = _balloon(made, target.view, after)
    after = _memory(made, target, after)
    sample = target.view.sample
    passed_over = 0
    if (
        sample is not None
        and target.vm is not None
        and sample.vm.id == target.vm.id
        and _is_newer(sample, before)
    ):
        passed_over = _passed_over(sample, before)
        after = _guest_values(made, sample, after, room_for_others)
        _pressure(made, target.view, sample, after)
    series = before.series | made.series
    if target.view.state.state is State.GONE and now_ns > before.host_time_ns:
        over = before.series - made.series - _OF_THE_STATE
        made.end(over, before.reason, now_ns)
        series -= over
    after = replace(
        after,
        named=before.named if named == before.named else named,
        series=_shared(series),
    )
    return VmPoints(
        key=target.key,
        metrics=made.metrics,
        points=made.points,
        passed_over=passed_over,
        accepted=after,
        refused=replace(after, guest_time_ns=before.guest_time_ns),
        left_out=made.left_out,
    )


def build_end(key: str, before: SentVm, agent: Agent, identity: Identity, now_ns: int) -> VmPoints:
    """Return the ends of all series of a VM that is no longer shown: no points if time went back.

    Args:
        key: of the VM.
        before: what has been sent of it.
        agent: the identity of the agent.
        identity: whether the VM's identity is on the points too.
        now_ns: Unix nanoseconds of this cycle.
    """
    made = Made(key, agent, before.named, identity)
    if now_ns > before.host_time_ns:
        made.end(before.series, before.reason, now_ns)
    after = replace(
        before, host_time_ns=now_ns, state=None, reason=None, states_time_ns=0, series=frozenset()
    )
    return VmPoints(key, made.metrics, made.points, passed_over=0, accepted=after, refused=after)


@lru_cache(maxsize=256)
def _shared(series: frozenset[Metric]) -> frozenset[Metric]:
    """Return an equal set: most VMs have the same series, and a set of them takes 2 KB."""
    return series


def forget_old(
    sent: Mapping[str, SentVm],
    keys: frozenset[str],
    now_ns: int,
    after_ns: int,
    *,
    vms_max: int = VMS_MAX,
) -> dict[str, SentVm]:
    """Return `sent` without the VMs that have been gone for `after_ns`.

    A VM is remembered for a while so that nothing is sent twice if it returns. Beyond `vms_max` those gone
    for longest are forgotten first.
    """
    kept = {key: each for key, each in sent.items() if key in keys or each.host_time_ns + after_ns > now_ns}
    if len(kept) > vms_max:
        gone = sorted(kept.keys() - keys, key=lambda key: kept[key].host_time_ns)
        for key in gone[: len(kept) - vms_max]:
            del kept[key]
    return kept


def _host_values(made: Made, target: Target, before: SentVm, now_ns: int) -> SentVm:
    if now_ns <= before.host_time_ns:
        made.left_out[RefusedPoint.TIME_WENT_BACK] += 1
        return before
    start_ns = before.host_start_ns or now_ns
    view, state = target.view, target.view.state
    # The states that are 0 would be a third of all points: they are sent at a change, and once a minute.
    all_due = state.state is not before.state or now_ns - before.states_time_ns >= STATES_EVERY_NS
    states = tuple(State) if all_due else (state.state,)
    made.add_states(metrics.STATE, states, state.state, time_ns=now_ns, start_ns=start_ns)
    reason = reason_attributes(target)
    if all_due or reason != before.reason:
        made.add_reason(reason, before.reason, time_ns=now_ns, start_ns=start_ns)
    newest_s = view.last_update_s
    if newest_s and _fits(newest_s):
        made.add(metrics.LAST_UPDATE, newest_s, time_ns=now_ns, start_ns=start_ns)
    if state.interval_s is not None and _fits(state.interval_s):
        made.add(metrics.POLLING_INTERVAL, state.interval_s, time_ns=now_ns, start_ns=start_ns)
    return replace(
        before,
        host_time_ns=now_ns,
        host_start_ns=start_ns,
        state=state.state,
        reason=reason,
        states_time_ns=now_ns if all_due else before.states_time_ns,
    )


def _balloon(made: Made, view: VmView, before: SentVm) -> SentVm:
    """Add `actual` if it was observed since the last export. To spare the VM it is not read each cycle."""
    if view.balloon is None:
        return before
    time_ns = view.balloon.observed_at_ms * 1_000_000
    if time_ns <= before.balloon_time_ns:
        return before
    if not _fits(view.balloon.actual_bytes):
        made.left_out[RefusedPoint.BAD_VALUE] += 1
        return before
    start_ns = before.balloon_start_ns or time_ns
    made.add(metrics.BALLOON_ACTUAL, view.balloon.actual_bytes, time_ns=time_ns, start_ns=start_ns)
    return replace(before, balloon_time_ns=time_ns, balloon_start_ns=start_ns)


def _memory(made: Made, target: Target, before: SentVm) -> SentVm:
    """Add what was observed of the VM's memory since the last record of it that was exported."""
    memory = target.view.memory
    if memory is None or target.vm is None or memory.vm.id != target.vm.id:
        return before
    record_ns = memory.observed_at_ms * 1_000_000
    if record_ns <= before.memory_time_ns:
        return before
    start_ns = before.memory_start_ns or record_ns
    cgroup = None if memory.cgroup is None else memory.cgroup.path
    cgroup_start_ns = before.cgroup_start_ns if cgroup == before.cgroup else record_ns
    for name, value in MEMORY_VALUES.items():
        point = value(memory)
        if point is None:
            continue
        time_ns = point.observed_at_ms * 1_000_000
        if not before.memory_time_ns < time_ns <= record_ns:
            continue
        metric = metrics.MEMORY_METRICS[name]
        began_ns = cgroup_start_ns if metric.kind == "counter" else start_ns
        made.add(metric, point.value, time_ns=time_ns, start_ns=min(began_ns, time_ns))
    return replace(
        before,
        memory_time_ns=record_ns,
        memory_start_ns=start_ns,
        cgroup=cgroup,
        cgroup_start_ns=cgroup_start_ns,
    )


def _guest_values(made: Made, sample: Sample, before: SentVm, room_for_others: int) -> SentVm:
    time_ns = sample.last_update_s * _SECOND_NS
    if sample.epoch == before.epoch and before.guest_start_ns:
        start_ns = before.guest_start_ns
    else:
        # If the clock was set back, an epoch starts before the last point of the previous one.
        start_ns = min(max(sample.epoch_start_s * _SECOND_NS, before.guest_time_ns), time_ns)
    others = set(before.others)
    others_max = min(OTHERS_OF_A_VM_MAX, len(others) + room_for_others)
    for name, value in sample.statistics.items():
        metric = metrics.GUEST_METRICS.get(name) or _other(name)
        if metric is None:
            made.left_out[RefusedPoint.BAD_NAME] += 1
        elif not _fits(value):
            made.left_out[RefusedPoint.BAD_VALUE] += 1
        elif name in metrics.GUEST_METRICS or name in others:
            made.add(metric, value, time_ns=time_ns, start_ns=start_ns)
        elif len(others) < others_max:
            others.add(name)
            made.add(metric, value, time_ns=time_ns, start_ns=start_ns)
        else:
            made.left_out[RefusedPoint.TOO_MANY_NAMES] += 1
    return replace(
        before,
        epoch=sample.epoch,
        sequence=sample.sequence,
        guest_time_ns=time_ns,
        guest_start_ns=start_ns,
        others=before.others if len(others) == len(before.others) else frozenset(others),
    )


def _pressure(made: Made, view: VmView, sample: Sample, after: SentVm) -> None:
    """Add the pressure if the sample has changed it: an unsolicited one does not."""
    pressure = view.pressure
    if view.state.state is not State.REPORTING or pressure is None or pressure.score is None:
        return
    if (pressure.epoch, pressure.last_update_s) == (sample.epoch, sample.last_update_s):
        time_ns = after.guest_time_ns
        made.add(metrics.PRESSURE_LEVEL, pressure.level.rank, time_ns=time_ns, start_ns=after.guest_start_ns)
        made.add(metrics.PRESSURE_SCORE, pressure.score, time_ns=time_ns, start_ns=after.guest_start_ns)


def _is_newer(sample: Sample, before: SentVm) -> bool:
    if sample.epoch == before.epoch and sample.sequence <= before.sequence:
        return False
    return before.guest_time_ns < sample.last_update_s * _SECOND_NS < _TIME_LIMIT_NS


def _passed_over(sample: Sample, before: SentVm) -> int:
    """Return the number of samples of this run that are never exported, because `sample` is newer."""
    if before.epoch is None:
        return sample.sequence - 1  # all samples before the first cycle
    if sample.epoch == before.epoch:
        return sample.sequence - before.sequence - 1
    ended = sample.previous
    of_the_old = ended.sequence - before.sequence if ended is not None and ended.epoch == before.epoch else 0
    return of_the_old + sample.sequence - 1


def _other(name: str) -> Metric | None:
    return Metric(OTHER_PREFIX + name, "", "gauge", "") if _OTHER_NAME.fullmatch(name) else None


def _fits(value: object) -> bool:
    """Whether the exporter can encode `value`: it accepts `True` as a number, and fails beyond 64 bits."""
    return type(value) is int and -_VALUE_LIMIT <= value < _VALUE_LIMIT
