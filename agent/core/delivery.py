"""Delivery to one sink: when to send, when to retry, when to stop.

A batch is sent until the sink accepts it; later records do not overtake it. An unavailable sink is retried
after a pause that doubles up to a limit, less a random part, so that the agents of a fleet do not all
retry at the same instant.

Batches keep a distance where one is set, so that a backend gets few requests from each of many agents. A
queue that one batch does not empty is a backlog. It is sent at a limited rate: after an outage all agents
have one. The rate is above that of new records, or the backlog would grow.
"""

from dataclasses import dataclass, replace

from agent.core.poller import SECOND_NS

BACKLOG_TIMES_NEW = 4
"""A backlog is sent at least so many times as fast as new records arrive."""

_ARRIVALS_OVER_NS = 30 * SECOND_NS
"""The rate of new records is a mean over about this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """The pauses between retries, and the pace of batches."""

    first_retry_ns: int = SECOND_NS // 2
    longest_retry_ns: int = 30 * SECOND_NS
    linger_ns: int = 0  # the shortest time between two batches, unless there is a backlog
    backlog_records_per_s: int | None = None  # the least rate of a backlog; None: no limit


@dataclass(frozen=True, slots=True)
class Delivery:
    """The state of delivery to one sink."""

    failures: int = 0  # in a row
    retry_at_ns: int = 0
    next_at_ns: int = 0  # no batch before
    arrivals_per_s: float = 0.0  # new records
    arrived: int = 0  # records in all, at `arrived_at_ns`
    arrived_at_ns: int | None = None
    closing: bool = False  # the agent is stopping: one attempt for each batch, until one fails
    output_closed: bool = False  # the sink can never accept anything again


@dataclass(frozen=True, slots=True)
class Send:
    """Send the oldest batch now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until an instant; `None`: until there are records."""

    until_ns: int | None


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop delivering. The caller keeps or counts the records that are left."""


def next_action(delivery: Delivery, *, queued: int, now_ns: int) -> Send | Wait | Stop:
    """Return what to do now, with `queued` records not yet delivered."""
    if delivery.output_closed:
        return Stop()
    if delivery.closing and (not queued or delivery.failures):
        return Stop()
    if not queued:
        return Wait(None)
    if delivery.failures and now_ns < delivery.retry_at_ns:
        return Wait(delivery.retry_at_ns)
    if now_ns < delivery.next_at_ns and not delivery.closing:
        return Wait(delivery.next_at_ns)
    return Send()


def arrived(delivery: Delivery, *, total: int, now_ns: int) -> Delivery:
    """Take in that `total` records have arrived since the start."""
    if delivery.arrived_at_ns is None:
        return replace(delivery, arrived=total, arrived_at_ns=now_ns)
    passed_ns = now_ns - delivery.arrived_at_ns
    if passed_ns < SECOND_NS:
        return delivery
    newest_per_s = max(total - delivery.arrived, 0) * SECOND_NS / passed_ns
    weight = passed_ns / (passed_ns + _ARRIVALS_OVER_NS)
    mean_per_s = delivery.arrivals_per_s + weight * (newest_per_s - delivery.arrivals_per_s)
    return replace(delivery, arrivals_per_s=mean_per_s, arrived=total, arrived_at_ns=now_ns)


def batch_max(delivery: Delivery, *, sink_max: int, settings: DeliverySettings) -> int:
    """Return how many records the next batch may have: those of a backlog for one second."""
    per_s = _backlog_per_s(delivery, settings)
    if per_s is None or delivery.closing:
        return sink_max
    of_a_linger = int(delivery.arrivals_per_s * settings.linger_ns / SECOND_NS)
    return min(max(int(per_s), 2 * of_a_linger, 1), sink_max)


def sent(
    delivery: Delivery, *, begun_ns: int, records: int, left: int, settings: DeliverySettings
) -> Delivery:
    """Schedule the batch that follows one of `records`, begun at `begun_ns`, with `left` records queued."""
    pause_ns = settings.linger_ns
    if left:
        per_s = _backlog_per_s(delivery, settings)
        pause_ns = 0 if per_s is None else int(records * SECOND_NS / per_s)
    return replace(delivery, next_at_ns=begun_ns + pause_ns) if pause_ns else delivery


def _backlog_per_s(delivery: Delivery, settings: DeliverySettings) -> float | None:
    if settings.backlog_records_per_s is None:
        return None
    return max(float(settings.backlog_records_per_s), BACKLOG_TIMES_NEW * delivery.arrivals_per_s)


def accepted(delivery: Delivery) -> Delivery:
    """The sink accepted the batch, except for records that it refused for good."""
    return replace(delivery, failures=0, retry_at_ns=0) if delivery.failures else delivery


def unavailable(
    delivery: Delivery, *, now_ns: int, retry_after_ns: int | None, chance: int, settings: DeliverySettings
) -> Delivery:
    """The sink did not accept the batch. Schedule a retry.

    Args:
        delivery: the state before.
        now_ns: monotonic time.
        retry_after_ns: the delay the sink asked for; respected up to the longest pause.
        chance: a uniform draw from [0, 2**128).
        settings: the pauses.
    """
    doubled_ns = settings.first_retry_ns << min(delivery.failures, 16)
    pause_ns = min(doubled_ns, settings.longest_retry_ns)
    pause_ns -= pause_ns * (chance >> 75) // (1 << 53) // 2
    if retry_after_ns is not None:
        pause_ns = min(max(pause_ns, retry_after_ns), settings.longest_retry_ns)
    return replace(delivery, failures=delivery.failures + 1, retry_at_ns=now_ns + pause_ns)


def output_closed(delivery: Delivery) -> Delivery:
    """The sink's output is closed for good, as a pipe whose reader has ended: stop, whatever is queued."""
    return replace(delivery, output_closed=True)


def close(delivery: Delivery) -> Delivery:
    """The agent is stopping. A batch that awaits its retry is sent once more, at once."""
    return delivery if delivery.closing else replace(delivery, failures=0, retry_at_ns=0, closing=True)
