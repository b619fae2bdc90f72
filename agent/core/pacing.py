"""When to read next: one reading per update, just after it.

QEMU answers from its main loop, so the right number of readings is one per update; and its timer is
re-armed by the guest's answer, so updates come an interval plus the guest's response apart, on the
VM's own clock. All instants here are on that clock (nanoseconds of running time), so that a pause
moves nothing.

A reading that shows an update says only that it came before; one that comes too early, followed by
one that hits, brackets it. So, once the rhythm is known, we aim a little past the expected moment
(`spread_ns`) and creep towards it with each hit, until one reading comes too early and tells where
the update is. How soon that happens teaches how far to aim past it (the guest's jitter); the time
between two bracketed updates teaches the cadence, and how well it is known sets the pace of the creep.
While it is not known where in its interval the update falls, the uncertain stretch, which is never longer
than the second that `last-update` names, is searched in a few steps at each update: halving it would need
fewer readings, but leave updates unread for half an interval, and a kill of the agent would lose them.
"""

from dataclasses import dataclass, replace

STEP_NS = 4_000_000
"""The first step after a miss, then doubled: the scale of a guest's jitter."""

NARROW_NS = 3 * STEP_NS
"""A bracket this narrow teaches the cadence: a miss and one or two steps."""

WIDE_NS = 48_000_000
"""Not known better than this, the stretch is searched instead of followed."""

SEARCH_STEPS = 4
"""Of a whole second: an update is read within 250 ms also while its place is not known."""

TICK_NS = 1_000_000_000
"""What `last-update` counts in."""

KICK_NS = 8_000_000
"""After 0 to N the guest was seen to answer within 2 to 14 ms."""

SPREAD_MIN_NS, SPREAD_MAX_NS = 3_000_000, 40_000_000

HITS_PER_MISS = 60
"""Hits that the creep takes to use up the spread: about 1.02 readings per sample."""

STEPS_MAX = 12
"""Steps after a miss before the VM is taken to be silent, and read once an interval."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of one VM's rhythm. Instants are nanoseconds of its running time."""

    interval_ns: int
    due_ns: int  # when to read next
    cadence_ns: int  # learnt time between updates; the interval until then
    cadence_error_ns: int = STEP_NS  # how well it is known
    low_ns: int | None = None  # the newest update came after this; None: not known
    high_ns: int | None = None  # and not after this; None: none seen yet
    missed_at_ns: int | None = None  # the newest reading of this cycle that came too early
    misses: int = 0  # in this cycle
    spread_ns: int = 8_000_000
    hits: int = 0  # since the last miss
    bracketed_ns: int | None = None  # an update known to a narrow bracket
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
    return max(pace.high_ns + pace.cadence_ns, now_ns + STEP_NS)


def hit(pace: Pace, *, asked_ns: int, answered_ns: int, not_before_ns: int, missed: int) -> Pace:
    """A reading showed an update.

    Args:
        pace: before the reading.
        asked_ns: when it was sent.
        answered_ns: when the answer came: the update is no younger.
        not_before_ns: the update is no older, by its own time in whole seconds on the wall clock.
        missed: updates that may have been overwritten since the reading before.
    """
    low_ns = not_before_ns
    if pace.missed_at_ns is not None:
        low_ns = max(low_ns, pace.missed_at_ns)
    if pace.low_ns is not None and not missed:
        low_ns = max(low_ns, pace.low_ns + pace.cadence_ns - pace.cadence_error_ns - STEP_NS // 10)
    low_ns = min(low_ns, asked_ns)
    high_ns = min(answered_ns, max(not_before_ns + TICK_NS, low_ns + STEP_NS))
    bracketed = pace.missed_at_ns is not None and answered_ns - pace.missed_at_ns <= NARROW_NS
    pace = _learn_cadence(pace, answered_ns, bracketed=bracketed, missed=missed)
    wide = high_ns - low_ns > WIDE_NS
    if pace.misses:
        pace = pace if wide else _learn_spread(pace)
        aim_ns = answered_ns + pace.spread_ns
    else:
        # From the moment planned: our own delays must not add up.
        aim_ns = min(max(pace.due_ns, low_ns), asked_ns) - _creep_ns(pace)
    if wide:
        aim_ns = low_ns + (high_ns - low_ns) // SEARCH_STEPS
    return replace(
        pace,
        due_ns=max(aim_ns + pace.cadence_ns, answered_ns + STEP_NS),
        low_ns=low_ns,
        high_ns=high_ns,
        missed_at_ns=None,
        misses=0,
        hits=0 if pace.misses else pace.hits + 1,
    )


def miss(pace: Pace, *, asked_ns: int, answered_ns: int) -> Pace:
    """A reading showed nothing new. Never slower than the interval: an update must not be overwritten."""
    step_ns = min(STEP_NS << pace.misses, max(pace.interval_ns // 10, STEP_NS))
    if pace.misses >= STEPS_MAX:
        step_ns = pace.interval_ns * 9 // 10
    due_ns = answered_ns + step_ns
    if pace.high_ns is not None and pace.low_ns is not None:
        stretch_ns, by_ns = pace.high_ns - pace.low_ns, pace.high_ns + pace.cadence_ns
        if stretch_ns > WIDE_NS and answered_ns < by_ns:  # searching: it must be there by then
            due_ns = min(answered_ns + stretch_ns // SEARCH_STEPS, by_ns + STEP_NS)
    return replace(pace, due_ns=due_ns, missed_at_ns=asked_ns, misses=min(pace.misses + 1, STEPS_MAX))


def _creep_ns(pace: Pace) -> int:
    creep_ns = max(pace.spread_ns // HITS_PER_MISS, pace.cadence_error_ns)
    # Too long without a miss: the cadence has become shorter than we think, and the lag grows unseen.
    overdue = max(pace.hits - HITS_PER_MISS, 0)
    return min(creep_ns * (1 + overdue), pace.interval_ns // 10)


def _learn_spread(pace: Pace) -> Pace:
    """A miss ends a run of hits. Soon: the guest jitters more than we allow for; late: less."""
    if pace.cadence_error_ns > pace.spread_ns // HITS_PER_MISS:
        return pace  # still learning: it was the creep
    spread_ns = pace.spread_ns * 6 // 5 if pace.hits < HITS_PER_MISS * 2 // 3 else pace.spread_ns * 9 // 10
    return replace(pace, spread_ns=min(max(spread_ns, SPREAD_MIN_NS), SPREAD_MAX_NS))


def _learn_cadence(pace: Pace, answered_ns: int, *, bracketed: bool, missed: int) -> Pace:
    updates = pace.updates + 1
    if missed or pace.bracketed_ns is None:
        return replace(pace, bracketed_ns=answered_ns if bracketed else None, updates=0)
    if not bracketed:
        return replace(pace, updates=updates)
    measured_ns = (answered_ns - pace.bracketed_ns) // updates
    error_ns = NARROW_NS // 2 // updates
    if not pace.interval_ns * 9 // 10 <= measured_ns <= pace.interval_ns * 3 // 2:
        return replace(pace, bracketed_ns=answered_ns, updates=0)
    # Two estimates, each counted by how well the other is known.
    both_ns = pace.cadence_error_ns + error_ns
    cadence_ns = (pace.cadence_ns * error_ns + measured_ns * pace.cadence_error_ns) // max(both_ns, 1)
    if pace.cadence_error_ns == STEP_NS:
        cadence_ns = measured_ns
    again = updates >= HITS_PER_MISS
    return replace(
        pace,
        cadence_ns=cadence_ns,
        cadence_error_ns=max(min(error_ns, pace.cadence_error_ns), STEP_NS // 40),
        bracketed_ns=answered_ns if again else pace.bracketed_ns,
        updates=0 if again else updates,
    )
