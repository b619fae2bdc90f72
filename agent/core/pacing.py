"""When to read next: one reading per update, just after it.

QEMU answers from its main loop, so the right number of readings is one per update; and its timer is
re-armed by the guest's answer, so updates come an interval plus the guest's response apart, on the
VM's own clock. All instants here are on that clock (nanoseconds of running time), so that a pause
moves nothing.

A reading shows whether the update has come by then, and in which second. What is known of the next update is
a `Belief`: a normal distribution of its moment and of the cadence. It widens from update to update by the
guest's jitter. A reading that shows the update cuts off the part after the reading; one that comes too early
cuts off the part before. The next reading is placed so that one in `HITS_PER_MISS` comes too early; how often
that happens is how the jitter is learned.

As long as the update's place in the interval is not known, the range where it may be is searched in a few
steps at each update. The range is at most the second that `last-update` names. A binary search would need
fewer readings, but would leave updates unread for half an interval, and a kill of the agent would lose them.

Use: `start` makes a `Pace`. Read at `due_ns`, then call `hit` if the reading shows an update, else `miss`;
both return the pace with the next `due_ns`. `read_at` moves the next reading without learning anything.
"""

import math

from msgspec import Struct
from msgspec.structs import replace

STEP_NS = 4_000_000
"""The first step after a miss, doubled each time: the scale of a guest's jitter."""

STEPS_MAX = 12
"""Steps after a miss. After them the VM counts as silent and is read once per interval."""

STEPS_MAX_AT_FIRST = 24
"""The same if no update was seen yet: more than an interval and a half, so that the first update after
another client changed the interval does not come while the VM counts as silent."""

STRAYED = 5
"""Steps after a miss that jitter does not explain: a tenth of a second together."""

TICK_NS = 1_000_000_000
"""The resolution of `last-update`."""

SEARCH_STEPS = 4
"""Steps for a whole second: an update is read within 250 ms even if its place in the interval is not
known."""

WIDE_NS = 48_000_000
"""A range wider than this is searched."""

KICK_NS = 8_000_000
"""When to read after setting 0 to N: QEMU asks the guest at once, and the guest answers within 2 to 14 ms."""

RESPONSE_NS, RESPONSE_ERROR_NS = 4e6, 5e6
"""The expected response time of a guest, and its error, before anything was learned about this one."""

JITTER_NS, JITTER_MIN_NS, JITTER_MAX_NS = 2e6, 0.3e6, 20e6
"""The jitter of the response time from update to update: the initial value, and the bounds when learning."""

DRIFT_NS = 2e4
"""The drift of the cadence itself from one update to the next."""

HITS_PER_MISS, AIM = 33, 1.88
"""One reading in this many may come too early, and the standard deviations after the expected moment that
give it."""

AIM_AGAIN = 1.3
"""The same for the reading after one that came too early: one in ten."""

OVERDUE_HITS, DOUBT = 2 * HITS_PER_MISS, 1.3
"""After this many hits without a miss the cadence may have become shorter while the lag grows unnoticed. Each
further hit widens the belief by the factor `DOUBT`, until a reading comes too early."""

UNSEEN_MAX_NS = 500_000_000
"""The same limit as time: how far updates may have moved ahead of the readings since the last miss."""

FAR = 4.0
"""An update this many standard deviations before the expected moment disproves the belief: the guest answers
sooner than before, each reading found its update, and the lag grew unnoticed until the two were in different
seconds."""

SURE, AIM_UNSURE = 5.0, 1.0
"""An error above this multiple of the jitter means that the cadence is still being learned; then one reading
in six may come too early. A smaller value makes more readings too early and gains nothing; a larger one adds
lag."""

LEARN = 0.1
"""The learning rate of the jitter's logarithm."""


class Belief(Struct, frozen=True):
    """A normal distribution of an update's moment and of the cadence, in ns and ns².

    After a cut it is replaced by the normal distribution with the same mean and variance (Minka, Expectation
    Propagation, 2001, section 3.2).
    """

    moment: float
    cadence: float
    moment_var: float
    cadence_var: float
    covar: float = 0.0

    @property
    def error(self) -> float:
        """The standard deviation of the moment."""
        return math.sqrt(self.moment_var)

    def next(self, jitter: float) -> "Belief":
        """Return the belief about the update after this one."""
        return Belief(
            self.moment + self.cadence,
            self.cadence,
            self.moment_var + 2 * self.covar + self.cadence_var + jitter * jitter,
            self.cadence_var + DRIFT_NS * DRIFT_NS,
            self.covar + self.cadence_var,
        )

    def doubted(self, times: float) -> "Belief":
        """Return the belief with its errors multiplied by `times`."""
        more = times * times
        return replace(
            self,
            moment_var=self.moment_var * more,
            cadence_var=self.cadence_var * more,
            covar=self.covar * more,
        )

    def not_after(self, at_ns: int) -> "Belief":
        """Return the belief given that the update came by `at_ns`."""
        cut = max((at_ns - self.moment) / self.error, -_CUT_MAX)
        ratio = _density(cut) / _below(cut)
        return self._cut(-ratio, 1 - cut * ratio - ratio * ratio)

    def not_before(self, at_ns: int) -> "Belief":
        """Return the belief given that the update did not come by `at_ns`."""
        cut = (at_ns - self.moment) / self.error
        if cut > _CUT_MAX:  # the belief was wrong: start from this moment
            return replace(self, moment=at_ns, moment_var=STEP_NS**2 / 12, covar=0.0)
        ratio = _density(cut) / _below(-cut)
        return self._cut(ratio, 1 + cut * ratio - ratio * ratio)

    def seen_between(self, low_ns: int, high_ns: int) -> "Belief":
        """Return the belief given that the update came far later than expected, which does not change the
        cadence."""
        moment_var = max((high_ns - low_ns) ** 2 / 12, _ERROR_MIN_NS**2)
        return replace(self, moment=(low_ns + high_ns) / 2, moment_var=moment_var, covar=0.0)

    def _cut(self, by: float, narrowed: float) -> "Belief":
        narrowed = min(max(narrowed, 1e-3), 1.0)
        gain = self.covar / self.moment_var
        # An update far from the expected moment is an outlier: it moves the next ones, but not the cadence.
        by_at_most = min(max(by, -2.0), 2.0)
        return Belief(
            self.moment + by * self.error,
            self.cadence + gain * by_at_most * self.error,
            max(self.moment_var * narrowed, _ERROR_MIN_NS**2),
            self.cadence_var - gain * self.covar * (1 - narrowed),
            self.covar * narrowed,
        )


_ERROR_MIN_NS = 1e5  # the round trip of a reading

_CUT_MAX = 30.0
"""Standard deviations; further out the tail is smaller than a float."""


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _below(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


class Pace(Struct, frozen=True):
    """What is known of one VM's cadence. Instants are nanoseconds of its running time."""

    interval_ns: int
    due_ns: int  # when to read next
    belief: Belief | None = (
        None  # about the next update; None: its place in the interval is not known well enough
    )
    low_ns: int | None = None  # the newest update came after this; None: not known
    high_ns: int | None = None  # and not after this; None: no update seen yet
    regular: bool = (
        False  # it came an interval after another: the timer asked for it, so the next is no sooner
    )
    read_ns: int | None = (
        None  # the newest reading: the next update comes after it, whatever its own time says
    )
    misses: int = 0  # in this cycle
    hits: int = 0  # since the last miss
    jitter: float = JITTER_NS

    @property
    def cadence_ns(self) -> int:
        """The learned time between updates; before that, the interval."""
        return self.interval_ns if self.belief is None else int(self.belief.cadence)

    @property
    def strayed(self) -> bool:
        """Whether the update is far later than expected."""
        return self.misses >= STRAYED

    @property
    def sure(self) -> bool:
        """Whether the belief is as good as the guest's jitter allows."""
        known = self.belief is not None and self.belief.error <= SURE * self.jitter
        return known and not self.overdue

    @property
    def overdue(self) -> bool:
        """Whether a reading should have been too early by now."""
        unseen_ns = self.hits * (self.cadence_ns - self.interval_ns)
        return self.hits > OVERDUE_HITS or unseen_ns > UNSEEN_MAX_NS


def start(interval_ns: int, now_ns: int, *, kicked: bool = False) -> Pace:
    """Return the pace of a VM with an unknown cadence: read at once; `kicked`: just after QEMU asked the
    guest."""
    return Pace(interval_ns, now_ns + KICK_NS if kicked else now_ns)


def read_at(pace: Pace, due_ns: int) -> Pace:
    """Return the pace with the next reading at `due_ns`; what was learned stays."""
    return replace(pace, due_ns=due_ns)


def expected_at(pace: Pace, now_ns: int) -> int:
    """Return when the next update is expected; if that is not known, an interval from now."""
    if pace.high_ns is None:
        return now_ns + pace.interval_ns
    return max(pace.high_ns + pace.cadence_ns, now_ns + STEP_NS)


def hit(pace: Pace, *, asked_ns: int, answered_ns: int, not_before_ns: int, missed: int) -> Pace:
    """Return the pace after a reading that showed an update.

    Args:
        pace: before the reading.
        asked_ns: when it was sent.
        answered_ns: when the answer came: the update is no younger.
        not_before_ns: the update is no older, by its own time in whole seconds on the wall clock.
        missed: updates that may have been overwritten since the reading before.
    """
    low_ns = not_before_ns
    if pace.read_ns is not None:
        low_ns = max(low_ns, pace.read_ns)
    if pace.low_ns is not None and pace.regular and not missed:
        low_ns = max(low_ns, pace.low_ns + pace.interval_ns)
    low_ns = min(low_ns, asked_ns)
    by_its_time_ns = not_before_ns + TICK_NS
    if by_its_time_ns < low_ns - STEP_NS:  # impossible (a clock step): the update came after the last reading
        by_its_time_ns = answered_ns
    high_ns = min(answered_ns, max(by_its_time_ns, low_ns + STEP_NS))
    jitter = pace.jitter if pace.misses or not pace.sure else pace.jitter * math.exp(-LEARN / HITS_PER_MISS)
    belief = pace.belief
    if belief is not None and (missed or high_ns < belief.moment - FAR * belief.error):
        belief = None
    if belief is not None:
        belief = belief.seen_between(low_ns, high_ns) if pace.misses > 1 else belief.not_after(high_ns)
        if pace.overdue:
            belief = belief.doubted(DOUBT)
        if not _credible(belief, pace.interval_ns, high_ns):
            belief = None
    if belief is None and high_ns - low_ns <= WIDE_NS:
        belief = Belief(
            (low_ns + high_ns) / 2,
            pace.interval_ns + RESPONSE_NS,
            max(high_ns - low_ns, STEP_NS) ** 2 / 12,  # uniform between the two
            RESPONSE_ERROR_NS**2,
        )
    pace = replace(
        pace,
        belief=None if belief is None else belief.next(jitter),
        low_ns=low_ns,
        high_ns=high_ns,
        regular=_came_in_time(pace, low_ns, high_ns),
        read_ns=asked_ns,
        misses=0,
        hits=0 if pace.misses else pace.hits + 1,
        jitter=max(jitter, JITTER_MIN_NS),
    )
    if pace.belief is None:
        due_ns = low_ns + (high_ns - low_ns) // SEARCH_STEPS + pace.interval_ns
    else:
        due_ns = int(pace.belief.moment + (AIM if pace.sure else AIM_UNSURE) * pace.belief.error)
    return replace(
        pace, due_ns=min(max(due_ns, answered_ns + STEP_NS), answered_ns + pace.interval_ns * 3 // 2)
    )


def miss(pace: Pace, *, asked_ns: int, answered_ns: int) -> Pace:
    """Return the pace after a reading without an update. It is never slower than the interval: QEMU would
    overwrite an update unread."""
    step_ns = min(STEP_NS << pace.misses, max(pace.interval_ns // 10, STEP_NS))
    steps_max = STEPS_MAX_AT_FIRST if pace.high_ns is None else STEPS_MAX
    silent = pace.misses >= steps_max
    if silent:
        step_ns = pace.interval_ns * 9 // 10
    due_ns = answered_ns + step_ns
    jitter = pace.jitter
    belief = None if silent else pace.belief
    if belief is not None and not pace.misses:
        belief = belief.not_before(asked_ns)
        if pace.sure:
            jitter = min(jitter * math.exp(LEARN * (1 - 1 / HITS_PER_MISS)), JITTER_MAX_NS)
        again_ns = int(belief.moment + AIM_AGAIN * belief.error)
        due_ns = min(due_ns, max(again_ns, answered_ns + STEP_NS // 4))
    elif belief is None and not silent and pace.high_ns is not None and pace.low_ns is not None:
        stretch_ns, by_ns = pace.high_ns - pace.low_ns, pace.high_ns + pace.cadence_ns
        if stretch_ns > WIDE_NS and answered_ns < by_ns:  # searching: the update comes by then
            due_ns = min(answered_ns + stretch_ns // SEARCH_STEPS, by_ns + STEP_NS)
    return replace(
        pace,
        due_ns=due_ns,
        belief=belief,
        read_ns=asked_ns,
        misses=min(pace.misses + 1, steps_max),
        jitter=jitter,
    )


def _came_in_time(pace: Pace, low_ns: int, high_ns: int) -> bool:
    """Return whether an update may have come one interval after the one before, as far as the two are known.

    A driver's probe may come at any moment, and the timer that was running already may follow it at any
    moment.
    """
    if pace.low_ns is None or pace.high_ns is None or pace.misses >= STEPS_MAX:
        return False
    return high_ns - pace.low_ns >= pace.interval_ns and low_ns - pace.high_ns <= pace.interval_ns * 3 // 2


def _credible(belief: Belief, interval_ns: int, high_ns: int) -> bool:
    """Return whether QEMU can have this cadence, and the update was seen within a second of it."""
    good = interval_ns * 0.95 <= belief.cadence <= interval_ns * 1.4
    return good and high_ns - belief.moment <= TICK_NS
