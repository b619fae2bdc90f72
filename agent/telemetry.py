"""The agent's own metrics, declared in one table.

Every loss, refusal and miss is a counter with a reason from a fixed list: nothing is lost silently, and the
number of series does not grow with the VMs. Counting adds to a dictionary; `snapshot` turns totals and levels
into points of one instant, for OTLP (sinks/otlp_own.py) and for scrapes (web/exposition.py).
schemas/metrics/registry.yaml declares the same metrics, and a test compares them.

These hold at any instant, for a snapshot taken on the event loop:

- readings = samples + repeats + coalesced;
- queued + carried = delivered + queue.size + dropped + dead_lettered, for each sink;
- queued to kafka.samples = samples; queued to kafka.states = state_events + agent_events; queued to
  kafka.memory = memory_records; queued to otlp.logs are the state_events and agent_events without heartbeats.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from agent.contract.decode import BadAnswerReason
from agent.contract.host_metrics import HOST_MEMORY
from agent.contract.metrics import VM_STATE, Metric
from agent.core.health import Health
from agent.core.host_memory import FileFault, HostMemoryEvent
from agent.core.reading import Refusal, State
from agent.errors import LinkFault

REASON: Final = "barograph.reason"
SINK: Final = "barograph.sink"
COMPONENT: Final = "barograph.component"
HEALTH: Final = "barograph.health"
OTHER: Final = "other"
"""Stands for a sink or reason that is in no list: a bug, but counted, and in one series."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One of the agent's own metrics, and the attributes of its points."""

    metric: Metric
    attributes: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # of the reason or the state; the values of a sink are those configured


_REFUSED_RECORDS = ("too_large", "invalid")
_LOST_RECORDS = (
    *("full", "expired", "damaged", "shutdown", *_REFUSED_RECORDS),
    *("unsupported", "partial_success"),  # by an OTLP backend that takes no logs, or not all of a request
)
_REFUSED_POINTS = ("bad_value", "bad_name", "too_many_names", "time_went_back", "backend", "partial_success")


class Count(StrEnum):
    """The counters. A row is name, unit, description, attributes, and the reasons where it has some."""

    _value_: str
    instrument: Instrument

    def __new__(
        cls,
        name: str,
        unit: str,
        description: str,
        attributes: tuple[str, ...] = (),
        reasons: Iterable[str] = (),
    ) -> "Count":
        """Make a member of one row."""
        count = str.__new__(cls, name)
        count._value_ = name
        metric = Metric(f"barograph.{name}", unit, "counter", description)
        count.instrument = Instrument(metric, attributes, tuple(str(reason) for reason in reasons))
        return count

    # fmt: off
    READINGS = "readings", "{reading}", "Answers to guest-stats accepted as readings."
    SAMPLES = "samples", "{sample}", "New samples recorded."
    REPEATS = "repeats", "{reading}", "Readings without a new update."
    COALESCED = "coalesced", "{update}", "Updates in the same second as the previous one, not recorded."
    MISSED = "missed_at_most", "{update}", "Updates overwritten before they were read, as an upper bound."
    READINGS_REFUSED = (
        "readings_refused", "{reading}", "Malformed answers to guest-stats, by reason.",
        (REASON,), BadAnswerReason)
    STATISTICS_REFUSED = (
        "statistics_refused", "{value}", "Statistics left out of samples, by reason.", (REASON,), Refusal)
    STATE_EVENTS = "state_events", "{event}", "State changes and heartbeats of VMs recorded."
    AGENT_EVENTS = "agent_events", "{event}", "State changes and heartbeats of the agent recorded."
    MEMORY_RECORDS = "memory_records", "{record}", "Records of the memory of VMs and of the host."
    HOST_FILES_REFUSED = (
        "host_files_refused", "{file}", "Files about the host's memory that could not be used, by reason.",
        (REASON,), FileFault)
    LINKS_OPENED = "links_opened", "{link}", "Links to VMs opened."
    LINK_FAILURES = (
        "link_failures", "{link}", "Links that failed or could not be opened, by reason.",
        (REASON,), LinkFault)
    INTERVALS_SET = "intervals_set", "{interval}", "Polling intervals set."
    INTERVALS_GIVEN_BACK = "intervals_given_back", "{interval}", "Polling intervals restored."
    LIBVIRT_CONNECTIONS = (
        "libvirt_connections", "{connection}", "Connections to libvirt made, reconnections included.")
    LIBVIRT_CALLS = "libvirt_calls", "{call}", "Calls to libvirt of any kind."
    LIBVIRT_LATE = "libvirt_late_results", "{call}", "Results of libvirt dropped because they came too late."
    LIBVIRT_ASIDE = (
        "libvirt_asides", "{domain}",
        "Times a domain was missing from a bulk result; it is then read separately until it answers.")
    VM_FAILURES = "vm_failures", "{failure}", "Internal errors of the agent, each contained to one VM."
    QUEUED = "queued", "{record}", "Records queued for a sink, delivered or not.", (SINK,)
    CARRIED = "carried", "{record}", "Records that the previous run left in the spool.", (SINK,)
    DELIVERED = "delivered", "{record}", "Records acknowledged by a sink.", (SINK,)
    DEAD_LETTERED = (
        "dead_lettered", "{record}", "Records refused by a sink and kept as dead letters, by reason.",
        (SINK, REASON), _REFUSED_RECORDS)
    DEAD_LETTERS_DROPPED = (
        "dead_letters_dropped", "{record}", "Dead letters dropped because the spool had no room for them.")
    DELIVERY_FAILURES = (
        "delivery_failures", "{batch}", "Failed attempts to deliver a batch, which is kept and retried.",
        (SINK,))
    DROPPED = "dropped", "{record}", "Records lost, by reason.", (SINK, REASON), _LOST_RECORDS
    RESTAMPED = (
        "restamped", "{record}", "Records sent again with a new timestamp because the broker refused theirs.")
    SPOOL_COMMITS = "spool_commits", "{commit}", "Commits to the spool."
    SPOOL_FAILURES = (
        "spool_failures", "{commit}", "Times the spool could not be opened or written, or was set aside.")
    POINTS_SENT = "otlp_points_sent", "{point}", "Points of VMs accepted by the OTLP backend."
    POINTS_REFUSED = (
        "otlp_points_refused", "{point}",
        "Points of VMs refused by the OTLP backend or left out by the agent, by reason.",
        (REASON,), _REFUSED_POINTS)
    POINTS_PASSED_OVER = (
        "otlp_samples_passed_over", "{sample}",
        "Samples not exported over OTLP because a newer one replaced them before the cycle.")
    CYCLES_SKIPPED = (
        "otlp_cycles_skipped", "{cycle}",
        "OTLP cycles skipped or failed: the exporter was busy, or the backend unavailable.")
    # fmt: on


COMPONENT_HEALTH = Instrument(
    Metric(
        "barograph.component.health",
        "1",
        "updowncounter",
        "1 for the current health of the component, 0 for each other value.",
    ),
    (COMPONENT, HEALTH),
    tuple(health.value for health in Health),
)
QUEUE_SIZE = Instrument(
    Metric(
        "barograph.queue.size", "{record}", "updowncounter", "Records queued, neither delivered nor lost."
    ),
    (SINK,),
)
QUEUE_AGE = Instrument(
    Metric(
        "barograph.queue.age",
        "s",
        "gauge",
        "Age of the next record to be sent; absent while none is queued or it has not been read from disk.",
    ),
    (SINK,),
)
VMS = Instrument(
    Metric("barograph.vms", "{vm}", "updowncounter", "VMs, by state."),
    (VM_STATE,),
    tuple(state.value for state in State),
)
EXCLUDED = Instrument(
    Metric("barograph.vms_excluded", "{vm}", "updowncounter", "VMs that the configuration excludes.")
)
SPOOL_USED = Instrument(
    Metric(
        "barograph.spool.used",
        "By",
        "updowncounter",
        "Space that the spool uses, as counted against its size limit.",
    )
)
SPOOL_LIMIT = Instrument(Metric("barograph.spool.limit", "By", "updowncounter", "Size limit of the spool."))
DEAD_LETTERS = Instrument(
    Metric("barograph.spool.dead_letters", "{record}", "updowncounter", "Dead letters in the spool.")
)
LAG = Instrument(
    Metric(
        "barograph.lag", "s", "histogram", "Time from an update's arrival until it was read, an upper bound."
    )
)
CPU = Instrument(Metric("process.cpu.time", "s", "counter", "CPU time used by the agent."))
MEMORY = Instrument(Metric("process.memory.usage", "By", "updowncounter", "Resident memory of the agent."))
DESCRIPTORS = Instrument(
    Metric(
        "process.unix.file_descriptor.count",
        "{file_descriptor}",
        "updowncounter",
        "File descriptors the agent has open.",
    )
)

INSTRUMENTS: tuple[Instrument, ...] = (
    *(count.instrument for count in Count),
    *(COMPONENT_HEALTH, QUEUE_SIZE, QUEUE_AGE, VMS, EXCLUDED, SPOOL_USED, SPOOL_LIMIT, DEAD_LETTERS),
    *(LAG, CPU, MEMORY, DESCRIPTORS),
    *(Instrument(each.metric, each.attributes) for each in HOST_MEMORY),
)
"""All of them, in the order of the documentation."""

LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Counts values by bucket. Owned by the event loop's thread."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def record(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def distribution(self) -> "Distribution":
        """Return the counts so far."""
        return Distribution(self._bounds, tuple(self._counts), self._sum)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's counts: one for each bound, up to and including it, and one for values above them all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Counters:
    """Totals since start. Owned by the event loop's thread: other threads hand over what they counted."""

    def __init__(self) -> None:
        self.lag = Histogram(LAG_BOUNDS_S)  # seconds
        self._totals: Counter[str] = Counter()

    def add(self, name: Count, amount: int = 1, reason: str = "") -> None:
        """Add `amount` to `name`, or to its `reason`: a sink, a reason of its list, or "<sink>:<reason>"."""
        self._totals[f"{name}/{reason}" if reason else name.value] += amount

    def total(self, name: Count, reason: str = "") -> int:
        """Return one total; 0 where nothing was counted."""
        return self._totals[f"{name}/{reason}" if reason else name.value]

    def snapshot(self) -> Mapping[str, int]:
        """Return every total that is not 0, by "name" or "name/reason"."""
        return MappingProxyType(dict(sorted(self._totals.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Values that are not counted but read at the instant of a snapshot."""

    waiting: Mapping[str, int]  # records queued, by sink: all that are configured
    oldest_age_s: Mapping[str, float] = field(default_factory=dict[str, float])
    vms: Mapping[State, int] = field(default_factory=dict[State, int])
    excluded: int = 0
    components: Mapping[str, Health] = field(default_factory=dict[str, Health])
    spool_used_bytes: int | None = None  # None: no spool
    spool_limit_bytes: int | None = None
    dead_letters: int | None = None
    cpu_s: float = 0.0
    memory_bytes: int | None = 0  # None: it cannot be read now
    descriptors: int | None = 0
    host_memory: HostMemoryEvent | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric, and its attributes."""

    value: int | float
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All metrics at one instant."""

    points: Mapping[str, Sequence[Point]]  # by the metric's name
    lag: Distribution


def snapshot(counters: Counters, levels: Levels) -> Snapshot:
    """Return every point of every instrument. Call it on the event loop, where totals and levels agree."""
    totals = dict(counters.snapshot())
    sinks = tuple(levels.waiting)
    points: dict[str, Sequence[Point]] = {
        count.instrument.metric.name: tuple(_counted(count, totals, sinks)) for count in Count
    }
    current: Mapping[Instrument, Iterable[Point]] = {
        COMPONENT_HEALTH: (
            Point(int(health is each), {COMPONENT: component, HEALTH: each.value})
            for component, health in levels.components.items()
            for each in Health
        ),
        QUEUE_SIZE: (Point(each, {SINK: sink}) for sink, each in levels.waiting.items()),
        QUEUE_AGE: (Point(each, {SINK: sink}) for sink, each in levels.oldest_age_s.items()),
        VMS: (Point(levels.vms.get(state, 0), {VM_STATE: state.value}) for state in State),
        EXCLUDED: (Point(levels.excluded),),
        SPOOL_USED: _optional(levels.spool_used_bytes),
        SPOOL_LIMIT: _optional(levels.spool_limit_bytes),
        DEAD_LETTERS: _optional(levels.dead_letters),
        CPU: _optional(levels.cpu_s),
        MEMORY: _optional(levels.memory_bytes),
        DESCRIPTORS: _optional(levels.descriptors),
    }
    points |= {instrument.metric.name: tuple(each) for instrument, each in current.items()}
    host = levels.host_memory
    for each in HOST_MEMORY:
        values = () if host is None else each.values(host)
        points[each.metric.name] = tuple(Point(value, attributes) for value, attributes in values)
    return Snapshot(points, counters.lag.distribution())


def _optional(value: float | None) -> Sequence[Point]:
    return () if value is None else (Point(value),)


def _counted(count: Count, totals: dict[str, int], sinks: Sequence[str]) -> Iterator[Point]:
    """Yield a point for each combination of attributes, 0 where nothing was counted: a rate needs a start."""
    instrument = count.instrument
    match instrument.attributes:
        case ():
            named = {count.value: dict[str, str]()}
        case (attribute,):
            values = sinks if attribute == SINK else instrument.values
            named = {f"{count}/{value}": {attribute: value} for value in values}
        case _:
            named = {
                f"{count}/{sink}:{reason}": {SINK: sink, REASON: reason}
                for sink in sinks
                for reason in instrument.values
            }
    for key, attributes in named.items():
        yield Point(totals.get(key, 0), attributes)
    rest = sum(
        total for key, total in totals.items() if key not in named and key.partition("/")[0] == count.value
    )
    if rest:
        yield Point(rest, dict.fromkeys(instrument.attributes, OTHER))
