"""When to read next: one reading per update, just after it.

QEMU answers from its main loop, so the right number of readings is one per update; and its timer is
re-armed by the guest's answer, so updates come an interval plus the guest's response apart, on the
VM's own clock. All instants here are on that clock (nanoseconds of running time), so that a pause
moves nothing.

A reading tells whether the update has come by then, and in which second it did. What is known of the next
one is kept as a `Belief`: a normal distribution of its moment and of the cadence. From update to update it
widens by the guest's jitter; a reading that shows the update cuts off what lies after it, one that comes too
early what lies before. We aim where one reading of `HITS_PER_MISS` comes too early, and how often that
happens teaches the jitter.

While it is not known where in its interval the update falls, the uncertain stretch, which is never longer
than the second that `last-update` names, is searched in a few steps at each update: halving it would need
fewer readings, but leave updates unread for half an interval, and a kill of the agent would lose them.
"""

import math

from msgspec import Struct
from msgspec.structs import replace

STEP_NS = 4_000_000
"""The step after a miss, then doubled: the scale of a guest's jitter."""

STEPS_MAX = 12
"""Steps after a miss before the VM is taken to be silent, and read once an interval."""

STEPS_MAX_AT_FIRST = 24
"""The same where no update has been seen yet: more than an interval and a half, so that the first one after
somebody changed the interval does not come while the VM is taken to be silent."""

STRAYED = 5
"""Steps after a miss, a tenth of a second in all, that are more than a guest's jitter."""

TICK_NS = 1_000_000_000
"""What `last-update` counts in."""

SEARCH_STEPS = 4
"""Of a whole second: an update is read within 250 ms also while its place is not known."""

WIDE_NS = 48_000_000
"""Not known better than this, the stretch is searched."""

KICK_NS = 8_000_000
"""After 0 to N the guest was seen to answer within 2 to 14 ms."""

RESPONSE_NS, RESPONSE_ERROR_NS = 4e6, 5e6
"""What a guest takes to answer, as long as nothing else is known of this one."""

JITTER_NS, JITTER_MIN_NS, JITTER_MAX_NS = 2e6, 0.3e6, 20e6
"""By how much its response differs from update to update: at first, and the bounds of what is learnt."""

DRIFT_NS = 2e4
"""By how much the cadence itself may change from one update to the next."""

HITS_PER_MISS, AIM = 33, 1.88
"""One reading of so many may come too early; as many standard deviations past the expected moment is that."""

AIM_AGAIN = 1.3
"""The same for the reading after one that came too early: one of ten."""

OVERDUE_HITS, DOUBT = 2 * HITS_PER_MISS, 1.3
"""After so many without a miss the cadence may have become shorter, and the lag grows unseen: each further
hit makes the belief so many times as uncertain, until a reading comes too early."""

UNSEEN_MAX_NS = 500_000_000
"""The same where the guest, answering at once since the last miss, could have got so far ahead of us."""

FAR = 4.0
"""An update so many standard deviations before it was expected disproves the belief: the guest answers sooner
than it did, each reading finds its update, and the lag grew unseen, until they lay in different seconds."""

SURE, AIM_UNSURE = 5.0, 1.0
"""An error above so many times the jitter is our ignorance: then one reading of six may come too early. Aimed
sooner, more of them do and nothing is gained; later, updates wait for longer meanwhile."""

LEARN = 0.1
"""How fast the jitter is learnt, in its logarithm."""


class Belief(Struct, frozen=True):
    """A normal distribution of an update's moment and of the cadence, in ns and ns². A cut one is taken for
    the normal one with the same mean and variance (Minka, Expectation propagation, 2001, section 3.2)."""

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
        """Return the belief with its errors so many times as large."""
        more = times * times
        return replace(
            self,
            moment_var=self.moment_var * more,
            cadence_var=self.cadence_var * more,
            covar=self.covar * more,
        )

    def not_after(self, at_ns: int) -> "Belief":
        """The update has come by `at_ns`."""
        cut = max((at_ns - self.moment) / self.error, -_CUT_MAX)
        ratio = _density(cut) / _below(cut)
        return self._cut(-ratio, 1 - cut * ratio - ratio * ratio)

    def not_before(self, at_ns: int) -> "Belief":
        """The update has not come by `at_ns`."""
        cut = (at_ns - self.moment) / self.error
        if cut > _CUT_MAX:  # nobody would have believed it: it comes when it comes
            return replace(self, moment=at_ns, moment_var=STEP_NS**2 / 12, covar=0.0)
        ratio = _density(cut) / _below(-cut)
        return self._cut(ratio, 1 + cut * ratio - ratio * ratio)

    def seen_between(self, low_ns: int, high_ns: int) -> "Belief":
        """The update came far later than believed, between the two: that says nothing of the cadence."""
        moment_var = max((high_ns - low_ns) ** 2 / 12, _ERROR_MIN_NS**2)
        return replace(self, moment=(low_ns + high_ns) / 2, moment_var=moment_var, covar=0.0)

    def _cut(self, by: float, narrowed: float) -> "Belief":
        narrowed = min(max(narrowed, 1e-3), 1.0)
        gain = self.covar / self.moment_var
        # An update far off the mark is an outlier: it moves the next ones, and says nothing of the cadence.
        by_at_most = min(max(by, -2.0), 2.0)
        return Belief(
            self.moment + by * self.error,
            self.cadence + gain * by_at_most * self.error,
            max(self.moment_var * narrowed, _ERROR_MIN_NS**2),
            self.cadence_var - gain * self.covar * (1 - narrowed),
            self.covar * narrowed,
        )


_ERROR_MIN_NS = 1e5  # what a reading itself takes

_CUT_MAX = 30.0
"""Standard deviations; further out the tail is smaller than a float."""


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _below(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


class Pace(Struct, frozen=True):
    """What is known of one VM's rhythm. Instants are nanoseconds of its running time."""

    interval_ns: int
    due_ns: int  # when to read next
    belief: Belief | None = None  # about the next update; None: its place is not known well enough
    low_ns: int | None = None  # the newest update came after this; None: not known
    high_ns: int | None = None  # and not after this; None: none seen yet
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
        """The learnt time between updates; the interval until then."""
        return self.interval_ns if self.belief is None else int(self.belief.cadence)

    @property
    def strayed(self) -> bool:
        """Whether the update comes far later than expected."""
        return self.misses >= STRAYED

    @property
    def sure(self) -> bool:
        """Whether what is not known of the next update is the guest's jitter, and not our ignorance."""
        known = self.belief is not None and self.belief.error <= SURE * self.jitter
        return known and not self.overdue

    @property
    def overdue(self) -> bool:
        """Whether a reading should have come too early by now."""
        unseen_ns = self.hits * (self.cadence_ns - self.interval_ns)
        return self.hits > OVERDUE_HITS or unseen_ns > UNSEEN_MAX_NS


def start(interval_ns: int, now_ns: int, *, kicked: bool = False) -> Pace:
    """Return the pace of a VM of which nothing is known: read at once, or just after a kick."""
    return Pace(interval_ns, now_ns + KICK_NS if kicked else now_ns)


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
    if pace.read_ns is not None:
        low_ns = max(low_ns, pace.read_ns)
    if pace.low_ns is not None and pace.regular and not missed:
        low_ns = max(low_ns, pace.low_ns + pace.interval_ns)
    low_ns = min(low_ns, asked_ns)
    by_its_time_ns = not_before_ns + TICK_NS
    if by_its_time_ns < low_ns - STEP_NS:  # a time that cannot be: the update came since we read last
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
            max(high_ns - low_ns, STEP_NS) ** 2 / 12,  # anywhere between the two
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
    """A reading showed nothing new. Never slower than the interval: an update must not be overwritten."""
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
        if stretch_ns > WIDE_NS and answered_ns < by_ns:  # searching: it must be there by then
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
    """Whether an update may have come one interval after the one before, as far as the two are known.

    A driver's probe comes when it likes, and the timer that was running already may follow it at any moment.
    """
    if pace.low_ns is None or pace.high_ns is None or pace.misses >= STEPS_MAX:
        return False
    return high_ns - pace.low_ns >= pace.interval_ns and low_ns - pace.high_ns <= pace.interval_ns * 3 // 2


def _credible(belief: Belief, interval_ns: int, high_ns: int) -> bool:
    """Whether the rhythm is one that QEMU can have, and the update was not seen a second away from it."""
    good = interval_ns * 0.95 <= belief.cadence <= interval_ns * 1.4
    return good and high_ns - belief.moment <= TICK_NS
