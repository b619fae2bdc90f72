"""When to read next: one reading per update, just after it.

QEMU answers from its main loop, so the right number of readings is one per update; and its timer is
re-armed by the guest's answer, so updates come an interval plus the guest's response apart, on the
VM's own clock. All instants here are on that clock (nanoseconds of running time), so that a pause
moves nothing.

The newest update happened in a window: after the last reading that missed it, not after the one that
hit it. While the window is wide it is halved at each update, by reading in its middle. Once it is
narrow we follow it: each hit comes a touch earlier than the one before, until one comes too early
and misses; the next hit, a small step later, is then known to the step, and tells the cadence. How
far past the expected moment to start again (`spread_ns`) is learnt from how soon the misses come.
"""

from dataclasses import dataclass, replace

NARROW_NS = 12_000_000
"""A window narrower than this is followed; it is about what one retry step resolves."""

FIRST_STEP_NS = 4_000_000
"""The first step after a miss: the scale of a guest's jitter under emulation."""

KICK_NS = 8_000_000
"""After 0 to N the guest was seen to answer within 2 to 14 ms."""

SPREAD_MIN_NS, SPREAD_MAX_NS = 3_000_000, 40_000_000

HITS_PER_MISS = 45
"""How many hits the creep takes to use up the spread: sets readings per sample near 1.02."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of one VM's rhythm. Instants are nanoseconds of its running time."""

    interval_ns: int
    due_ns: int  # when to read next
    cadence_ns: int  # learnt time between updates; the interval until then
    low_ns: int | None = None  # the newest update came after this; None: not known
    high_ns: int | None = None  # and not after this; None: none seen yet
    missed_at_ns: int | None = None  # the newest reading of this cycle that came too early
    misses: int = 0  # in this cycle
    spread_ns: int = 10_000_000
    hits: int = 0  # since the last miss
    tight_ns: int | None = None  # the last update known to the step
    updates: int = 0  # since then


def start(interval_ns: int, now_ns: int, *, kicked: bool = False) -> Pace:
    """Return the pace of a VM of which nothing is known: read at once, or just after a kick."""
    return Pace(interval_ns, now_ns + KICK_NS if kicked else now_ns, interval_ns)


def read_at(pace: Pace, due_ns: int) -> Pace:
    """Return the pace with the next reading at `due_ns`; what was learnt stands."""
    return replace(pace, due_ns=due_ns)


def expected_at(pace: Pace, now_ns: int) -> int:
    """Return when the next update is expected, or an interval from now where that is not known."""
    if pace.high_ns is None:
        return now_ns + pace.interval_ns
    return max(pace.high_ns + pace.cadence_ns, now_ns + FIRST_STEP_NS)


def hit(pace: Pace, *, asked_ns: int, answered_ns: int, not_before_ns: int, missed: int) -> Pace:
    """A reading showed an update.

    Args:
        pace: before the reading.
        asked_ns: when it was sent.
        answered_ns: when the answer came: the update is no younger.
        not_before_ns: the update is no older, by its own time in whole seconds on the wall clock.
        missed: updates that may have been overwritten since the reading before.
    """
    bounds = [not_before_ns]
    if pace.missed_at_ns is not None:
        bounds.append(pace.missed_at_ns)
    if pace.low_ns is not None and not missed:
        bounds.append(pace.low_ns + pace.cadence_ns - FIRST_STEP_NS)
    low_ns = min(max(bounds), asked_ns)
    tight = pace.missed_at_ns is not None and answered_ns - pace.missed_at_ns <= NARROW_NS
    pace = _learn(pace, answered_ns, tight=tight, missed=missed)
    followed = pace.high_ns is not None and answered_ns - low_ns <= 4 * NARROW_NS
    spread_ns, hits = pace.spread_ns, pace.hits + 1
    if pace.misses and followed:
        # Misses that come too often mean that the guest jitters more than we allow for.
        wider = hits <= HITS_PER_MISS // 2
        spread_ns = spread_ns * 5 // 4 if wider else spread_ns * 7 // 8
        spread_ns = min(max(spread_ns, SPREAD_MIN_NS), SPREAD_MAX_NS)
        hits = 0
    if answered_ns - low_ns > 4 * NARROW_NS:
        aim_ns = low_ns + (answered_ns - low_ns) // 2
    elif pace.misses:
        aim_ns = answered_ns + spread_ns
    else:
        aim_ns = asked_ns - max(spread_ns // HITS_PER_MISS, 50_000)
    return replace(
        pace,
        due_ns=aim_ns + pace.cadence_ns,
        low_ns=low_ns,
        high_ns=answered_ns,
        missed_at_ns=None,
        misses=0,
        spread_ns=spread_ns,
        hits=hits,
    )


def miss(pace: Pace, *, asked_ns: int, answered_ns: int) -> Pace:
    """A reading showed nothing new. Never slower than the interval: an update must not be overwritten."""
    step_ns = min(FIRST_STEP_NS << min(pace.misses, 16), max(pace.interval_ns // 10, FIRST_STEP_NS))
    if pace.misses > 12:
        step_ns = pace.interval_ns * 9 // 10
    due_ns = answered_ns + step_ns
    expected_by_ns = None if pace.high_ns is None else pace.high_ns + pace.cadence_ns
    if pace.misses == 0 and expected_by_ns is not None and expected_by_ns - asked_ns > NARROW_NS:
        due_ns = expected_by_ns + FIRST_STEP_NS  # halving a wide window: it must be there by then
    return replace(pace, due_ns=due_ns, missed_at_ns=asked_ns, misses=pace.misses + 1)


def _learn(pace: Pace, answered_ns: int, *, tight: bool, missed: int) -> Pace:
    updates = pace.updates + 1
    if missed:
        return replace(pace, tight_ns=None, updates=0)
    if not tight:
        return replace(pace, updates=updates)
    cadence_ns = pace.cadence_ns
    if pace.tight_ns is not None:
        measured_ns = (answered_ns - pace.tight_ns) // updates
        if pace.interval_ns * 9 // 10 <= measured_ns <= pace.interval_ns * 3 // 2:
            first = cadence_ns == pace.interval_ns
            cadence_ns = measured_ns if first else (cadence_ns + measured_ns) // 2
    return replace(pace, cadence_ns=cadence_ns, tight_ns=answered_ns, updates=0)
