"""What the agent knows of itself, declared in one table.

Every loss, refusal and miss is a counter with a reason from a fixed list, so that nothing is lost
silently and the number of series does not grow with the VMs. A counter is a dictionary's entry until
somebody asks: `snapshot` turns totals and levels into points, at one instant, for OTLP (sinks/otlp_own.py)
and for scrapes (web/exposition.py). schemas/metrics/registry.yaml says the same, and a test compares.

At any instant, for whoever takes a snapshot on the event loop:

- readings = samples + repeats + coalesced;
- queued + carried = delivered + waiting + dropped + dead_lettered, for each sink;
- queued to kafka.samples = samples; queued to kafka.states = state_events + agent_events.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from agent.contract.decode import BadAnswerReason
from agent.contract.metrics import VM_STATE, Metric
from agent.core.reading import Refusal, State
from agent.errors import LinkFault

REASON: Final = "barograph.reason"
SINK: Final = "barograph.sink"
OTHER: Final = "other"
"""What is in no list: our bug, but counted, and one series whatever it is."""


class Count(StrEnum):
    """The counters. Those that take a reason say from which list it is."""

    READINGS = "readings"  # answers to a reading that were taken in
    SAMPLES = "samples"  # advances recorded
    REPEATS = "repeats"  # readings that showed nothing new
    COALESCED = "coalesced"  # updates within the second of the one before: no advance, so no event
    MISSED = "missed_at_most"  # updates overwritten before we read them, upper bound
    READINGS_REFUSED = "readings_refused"  # by contract.decode.BadAnswerReason
    STATISTICS_REFUSED = "statistics_refused"  # by core.reading.Refusal
    STATE_EVENTS = "state_events"  # changes and heartbeats recorded
    AGENT_EVENTS = "agent_events"  # the agent's own records
    LINKS_OPENED = "links_opened"
    LINK_FAILURES = "link_failures"  # by errors.LinkFault
    INTERVALS_SET = "intervals_set"
    INTERVALS_GIVEN_BACK = "intervals_given_back"
    LIBVIRT_CONNECTIONS = "libvirt_connections"  # made, those made again among them
    LIBVIRT_CALLS = "libvirt_calls"  # questions put to libvirt, of whatever kind
    LIBVIRT_LATE = "libvirt_late_results"  # came when nobody waited any more: dropped
    LIBVIRT_ASIDE = "libvirt_asides"  # domains missing in an answer, asked alone from then on
    VM_FAILURES = "vm_failures"  # a bug of ours met on one VM and contained
    QUEUED = "queued"  # by sink; records handed to it, delivered or not
    CARRIED = "carried"  # by sink; records that the run before left on disk
    DELIVERED = "delivered"  # by sink
    DEAD_LETTERED = "dead_lettered"  # by "<sink>:<reason>"; refused for good and kept for people
    DEAD_LETTERS_DROPPED = "dead_letters_dropped"  # no room for them within the spool's bound
    DELIVERY_FAILURES = "delivery_failures"  # by sink; the batch is kept and tried again
    DROPPED = "dropped"  # by "<sink>:<reason>"
    RESTAMPED = "restamped"  # the broker refused the record's time; sent again with a new one
    SPOOL_COMMITS = "spool_commits"
    SPOOL_FAILURES = "spool_failures"  # commits that the disk did not take, and files set aside
    POINTS_SENT = "otlp_points_sent"
    POINTS_REFUSED = "otlp_points_refused"  # by sinks.otlp_points.RefusedPoint
    POINTS_PASSED_OVER = "otlp_samples_passed_over"  # a newer sample came before the cycle
    CYCLES_SKIPPED = "otlp_cycles_skipped"  # the exporter was still busy or the backend away


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric of the agent's own, and the attributes of its points."""

    metric: Metric
    attributes: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # of the reason, or of the state; a sink is one of those configured


def _counter(
    count: Count, unit: str, description: str, *, by_sink: bool = False, reasons: Iterable[str] = ()
) -> tuple[Count, Instrument]:
    values = tuple(str(reason) for reason in reasons)
    attributes = ((SINK,) if by_sink else ()) + ((REASON,) if values else ())
    metric = Metric(f"barograph.{count}", unit, "counter", description)
    return count, Instrument(metric, attributes, values)


_REFUSED_RECORDS = ("too_large", "invalid")
_LOST_RECORDS = ("full", "expired", "damaged", "shutdown", *_REFUSED_RECORDS)
_REFUSED_POINTS = ("bad_value", "bad_name", "too_many_names", "time_went_back", "backend", "partial_success")

COUNTERS: Mapping[Count, Instrument] = MappingProxyType(
    dict(
        (
            _counter(Count.READINGS, "{reading}", "Answers to a reading that were taken in."),
            _counter(Count.SAMPLES, "{sample}", "Advances recorded: readings that hit."),
            _counter(Count.REPEATS, "{reading}", "Readings that showed nothing new: they came too early."),
            _counter(Count.COALESCED, "{update}", "Updates within the second of the one before: no event."),
            _counter(Count.MISSED, "{update}", "Updates overwritten before they were read, an upper bound."),
            _counter(
                Count.READINGS_REFUSED,
                "{reading}",
                "Answers to a reading that made no sense, by reason.",
                reasons=BadAnswerReason,
            ),
            _counter(
                Count.STATISTICS_REFUSED,
                "{value}",
                "Values kept out of samples, by reason.",
                reasons=Refusal,
            ),
            _counter(Count.STATE_EVENTS, "{event}", "Changes of VMs' states, and heartbeats, recorded."),
            _counter(Count.AGENT_EVENTS, "{event}", "The agent's own records."),
            _counter(Count.LINKS_OPENED, "{link}", "Greetings of monitors received."),
            _counter(
                Count.LINK_FAILURES,
                "{link}",
                "Links, and attempts at them, that ended, by fault.",
                reasons=LinkFault,
            ),
            _counter(Count.INTERVALS_SET, "{interval}", "Polling intervals set."),
            _counter(Count.INTERVALS_GIVEN_BACK, "{interval}", "Polling intervals given back."),
            _counter(
                Count.LIBVIRT_CONNECTIONS, "{connection}", "Connections to libvirt made, first or again."
            ),
            _counter(Count.LIBVIRT_CALLS, "{call}", "Questions put to libvirt, of whatever kind."),
            _counter(
                Count.LIBVIRT_LATE, "{call}", "Results of libvirt that came too late, and were dropped."
            ),
            _counter(
                Count.LIBVIRT_ASIDE, "{domain}", "Times a domain was missing in an answer and asked alone."
            ),
            _counter(Count.VM_FAILURES, "{failure}", "Bugs of the agent's own met on one VM, contained."),
            _counter(
                Count.QUEUED,
                "{record}",
                "Records handed to what keeps them for a sink.",
                by_sink=True,
            ),
            _counter(
                Count.CARRIED,
                "{record}",
                "Records that the run before left in the spool.",
                by_sink=True,
            ),
            _counter(Count.DELIVERED, "{record}", "Records a sink has acknowledged.", by_sink=True),
            _counter(
                Count.DEAD_LETTERED,
                "{record}",
                "Records a sink refused for good, kept in the spool, by reason.",
                by_sink=True,
                reasons=_REFUSED_RECORDS,
            ),
            _counter(
                Count.DEAD_LETTERS_DROPPED,
                "{record}",
                "Dead letters for which the spool had no room.",
            ),
            _counter(
                Count.DELIVERY_FAILURES,
                "{batch}",
                "Batches a sink did not take; they are kept and tried again.",
                by_sink=True,
            ),
            _counter(
                Count.DROPPED,
                "{record}",
                "Records lost, by reason.",
                by_sink=True,
                reasons=_LOST_RECORDS,
            ),
            _counter(
                Count.RESTAMPED,
                "{record}",
                "Records whose time the broker refused, sent again with a new one.",
            ),
            _counter(Count.SPOOL_COMMITS, "{commit}", "Commits to the spool."),
            _counter(Count.SPOOL_FAILURES, "{commit}", "Times the spool could not be written or opened."),
            _counter(Count.POINTS_SENT, "{point}", "VMs' points that the OTLP backend took."),
            _counter(
                Count.POINTS_REFUSED,
                "{point}",
                "VMs' points that were not taken, by reason.",
                reasons=_REFUSED_POINTS,
            ),
            _counter(
                Count.POINTS_PASSED_OVER,
                "{sample}",
                "Samples not sent over OTLP because a newer one came before the cycle.",
            ),
            _counter(
                Count.CYCLES_SKIPPED,
                "{cycle}",
                "OTLP cycles without export: the exporter was busy, or the backend away.",
            ),
        )
    )
)

WAITING = Instrument(
    Metric("barograph.waiting", "{record}", "updowncounter", "Records neither delivered nor lost."), (SINK,)
)
OLDEST = Instrument(
    Metric(
        "barograph.waiting.age",
        "s",
        "gauge",
        "How old the next record to be sent is; absent where none waits, or it has not been read from disk.",
    ),
    (SINK,),
)
VMS = Instrument(
    Metric("barograph.vms", "{vm}", "updowncounter", "VMs, by the state they are in."),
    (VM_STATE,),
    tuple(state.value for state in State),
)
SPOOL_USED = Instrument(
    Metric("barograph.spool.used", "By", "updowncounter", "What of the spool's bound is used.")
)
DEAD_LETTERS = Instrument(
    Metric("barograph.spool.dead_letters", "{record}", "updowncounter", "Dead letters in the spool.")
)
LAG = Instrument(
    Metric(
        "barograph.lag",
        "s",
        "histogram",
        "How long an update had been visible at most when it was read.",
    )
)
CPU = Instrument(Metric("process.cpu.time", "s", "counter", "CPU time the agent has used."))
MEMORY = Instrument(Metric("process.memory.usage", "By", "updowncounter", "The agent's resident memory."))
DESCRIPTORS = Instrument(
    Metric(
        "process.unix.file_descriptor.count",
        "{file_descriptor}",
        "updowncounter",
        "Descriptors the agent has open.",
    )
)

INSTRUMENTS: tuple[Instrument, ...] = (
    *COUNTERS.values(), WAITING, OLDEST, VMS, SPOOL_USED, DEAD_LETTERS, LAG, CPU, MEMORY, DESCRIPTORS,
)  # fmt: skip
"""All there is."""

LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """How often a value fell between which bounds. The event loop's thread owns it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def record(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def distribution(self) -> "Distribution":
        """Return what was counted so far."""
        return Distribution(self._bounds, tuple(self._counts), self._sum)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's counts: one for each bound, inclusive above, and one for what lies above them all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Counters:
    """Totals since start. The event loop's thread owns them; other threads hand back theirs as values."""

    def __init__(self) -> None:
        self.lag = Histogram(LAG_BOUNDS_S)  # seconds
        self._totals: Counter[str] = Counter()

    def add(self, name: Count, amount: int = 1, reason: str = "") -> None:
        """Add `amount` to `name`, or to its `reason`, which must come from the list the table names."""
        self._totals[f"{name}/{reason}" if reason else name.value] += amount

    def total(self, name: Count, reason: str = "") -> int:
        """One total; 0 where nothing was counted."""
        return self._totals[f"{name}/{reason}" if reason else name.value]

    def snapshot(self) -> Mapping[str, int]:
        """Every total that is not 0, as "name" or "name/reason"."""
        return MappingProxyType(dict(sorted(self._totals.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What is not counted but looked at."""

    waiting: Mapping[str, int]  # by sink: every one that is configured
    oldest_age_s: Mapping[str, float] = field(default_factory=dict[str, float])
    vms: Mapping[State, int] = field(default_factory=dict[State, int])
    spool_used_bytes: int | None = None  # None: no spool
    dead_letters: int | None = None
    cpu_s: float = 0.0
    memory_bytes: int = 0
    descriptors: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """One value, and the attributes that tell it from the others of its metric."""

    value: int | float
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one instant."""

    points: Mapping[str, Sequence[Point]]  # by the metric's name
    lag: Distribution


def snapshot(counters: Counters, levels: Levels) -> Snapshot:
    """Return every point of every instrument. On the event loop, where totals and levels agree."""
    totals = dict(counters.snapshot())
    sinks = tuple(levels.waiting)
    points: dict[str, Sequence[Point]] = {
        instrument.metric.name: tuple(_counted(count, instrument, totals, sinks))
        for count, instrument in COUNTERS.items()
    }
    looked_at: Mapping[Instrument, Iterable[Point]] = {
        WAITING: (Point(each, {SINK: sink}) for sink, each in levels.waiting.items()),
        OLDEST: (Point(each, {SINK: sink}) for sink, each in levels.oldest_age_s.items()),
        VMS: (Point(levels.vms.get(state, 0), {VM_STATE: state.value}) for state in State),
        SPOOL_USED: _some(levels.spool_used_bytes),
        DEAD_LETTERS: _some(levels.dead_letters),
        CPU: _some(levels.cpu_s),
        MEMORY: _some(levels.memory_bytes),
        DESCRIPTORS: _some(levels.descriptors),
    }
    points |= {instrument.metric.name: tuple(each) for instrument, each in looked_at.items()}
    return Snapshot(points, counters.lag.distribution())


def _some(value: float | None) -> Sequence[Point]:
    return () if value is None else (Point(value),)


def _counted(
    count: Count, instrument: Instrument, totals: dict[str, int], sinks: Sequence[str]
) -> Iterator[Point]:
    """Yield a point for each combination of attributes, 0 where nothing was counted: a rate needs a start."""
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
