"""Counts the messages of a monitor in windows of a second, and reports a flood. Pure: time is an argument.

All monitors together have a budget, so that many which stay just below the bound of one do not use up a core.
While it is used up, those that have sent more than any VM does are not read. Where several owners
(core/shares.py) have monitors, those of an owner who has used more than a share are not read either, apart
from a few messages: anyone may have many monitors that send little each.
"""

from collections import Counter

from agent.core.shares import Owner
from agent.core.wording import printable

_WEIGHT_BYTES = 1024
"""A message counts once more for each of these: events take 100 to 500 bytes, a reading 900."""

UNUSED_FACTOR = 10
"""Events that the agent does not use, for each message allowed: a disk that fails under `werror=report` makes
an event for each request."""

BUDGET_PER_S = 5_000
"""Messages of all monitors together: a fraction of a core."""

_BUDGET_WINDOW_S = 0.1

READ_COST = UNUSED_FACTOR // 2
"""Of a read, in events that are not used: bytes that come one by one cost reads, and make no message."""

NEVER_PAUSED_PER_S = 30
"""Messages of a monitor that is read in any case: a VM sends fewer, at its introduction too."""

_NEVER_PAUSED_MIN_PER_S = 1
"""The same for one of the many monitors of an owner who has used more than a share."""

_NAMES_MAX = 16
"""Names of events that are counted: a VM floods with one or two."""

_EVENT_SHOWN_MAX = 64

_CAUSES = {"BLOCK_IO_ERROR": "a disk of the VM fails; check its storage"}
_UNKNOWN_CAUSE = "find out which program created the socket"


class FloodingError(Exception):
    """More messages than the bound. The message names the bound and the most frequent event."""


class Budget:
    """What all monitors may send together."""

    def __init__(self, messages_per_s: int = BUDGET_PER_S) -> None:
        """Count nothing yet; an event that is not used counts as a message divided by `UNUSED_FACTOR`."""
        self._messages_per_s = messages_per_s
        self._left_max = messages_per_s * UNUSED_FACTOR * _BUDGET_WINDOW_S
        self._left = self._left_max
        self._used: Counter[Owner] = Counter()  # in the present window
        self._ends_s = 0.0
        self._senders: Counter[Owner] = Counter()  # monitors that have sent in the present second
        self._senders_before: Counter[Owner] = Counter()  # in the second before
        self._second_ends_s = 0.0

    def enter(self, owner: Owner, now_s: float) -> None:
        """Take in that a monitor sends. Call it once a second for each that does."""
        if now_s >= self._second_ends_s:
            is_next = now_s < self._second_ends_s + 1.0
            self._senders_before = self._senders if is_next else Counter()
            self._senders, self._second_ends_s = Counter(), now_s + 1.0
        self._senders[owner] += 1

    def use(self, owner: Owner, amount: int, now_s: float) -> None:
        """Use some of the present window's budget, in events that are not used."""
        if now_s >= self._ends_s:
            self._ends_s, self._left = now_s + _BUDGET_WINDOW_S, self._left_max
            self._used.clear()
        self._left -= amount
        self._used[owner] += amount

    def pause_s(self, owner: Owner, messages: float, now_s: float) -> float:
        """Return how long not to read a monitor that has sent so many messages in this second; 0: read it."""
        if self._left > 0 or now_s >= self._ends_s or messages <= self._never_paused(owner):
            return 0.0
        return self._ends_s - now_s

    def _never_paused(self, owner: Owner) -> float:
        owners = len(self._senders.keys() | self._senders_before.keys())
        if owners <= 1 or self._used[owner] <= self._left_max / owners:
            return NEVER_PAUSED_PER_S
        monitors = max(1, self._senders[owner], self._senders_before[owner])
        share = self._messages_per_s / owners / monitors
        return min(NEVER_PAUSED_PER_S, max(_NEVER_PAUSED_MIN_PER_S, share))


class FloodWindow:
    """The messages of the present second."""

    def __init__(self, messages_per_s_max: int, budget: Budget | None = None, owner: Owner = None) -> None:
        """Count nothing yet; of events that are not used, `UNUSED_FACTOR` times as many are allowed."""
        self._budget = budget or Budget()
        self._owner = owner
        self._messages_per_s_max = messages_per_s_max
        self._start_s = 0.0
        self._used = 0
        self._unused = 0
        self._reads = 0
        self._names: Counter[str] = Counter()

    def add(self, event: object, size_bytes: int, now_s: float) -> None:
        """Count a message that is used. Answers count too: they lead to further commands.

        Args:
            event: the name of the event; anything else for an answer.
            size_bytes: of the message.
            now_s: the monotonic clock.

        Raises:
            FloodingError: the messages of this second are more than the bound.
        """
        self._begin(now_s)
        self._used += _weight(size_bytes)
        self._budget.use(self._owner, UNUSED_FACTOR * _weight(size_bytes), now_s)
        if isinstance(event, str):
            self._count_name(event)
        self._check(self._used, self._messages_per_s_max)

    def add_unused(self, event: str, size_bytes: int, now_s: float) -> None:
        """Count an event that the agent does not use; arguments and errors are those of `add`."""
        self._begin(now_s)
        self._unused += _weight(size_bytes)
        self._budget.use(self._owner, _weight(size_bytes), now_s)
        self._count_name(event)
        self._check(self._unused, self._messages_per_s_max * UNUSED_FACTOR)

    def add_read(self, now_s: float) -> None:
        """Count a read, whether it completed a message or not."""
        self._begin(now_s)
        self._reads += 1
        self._budget.use(self._owner, READ_COST, now_s)

    def pause_s(self, now_s: float) -> float:
        """Return how long not to read this monitor, for the sake of the others; mostly 0."""
        if now_s - self._start_s >= 1.0:
            return 0.0
        sent = self._used + (self._unused + self._reads * READ_COST) / UNUSED_FACTOR
        return self._budget.pause_s(self._owner, sent, now_s)

    def _begin(self, now_s: float) -> None:
        if now_s - self._start_s >= 1.0:
            self._start_s, self._used, self._unused, self._reads = now_s, 0, 0, 0
            self._names.clear()
            self._budget.enter(self._owner, now_s)

    def _count_name(self, event: str) -> None:
        if event in self._names or len(self._names) < _NAMES_MAX:
            self._names[event] += 1

    def _check(self, count: int, limit: int) -> None:
        if count <= limit:
            return
        flood = f"more than {limit} messages in one second (each KiB counts as one)"
        if self._names:
            [(event, _)] = self._names.most_common(1)
            name = printable(event, _EVENT_SHOWN_MAX)
            flood += f", most of the events {name}; {_CAUSES.get(event, _UNKNOWN_CAUSE)}"
        raise FloodingError(flood)


def _weight(size_bytes: int) -> int:
    return 1 + size_bytes // _WEIGHT_BYTES
