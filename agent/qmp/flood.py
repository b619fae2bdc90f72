"""Counts the messages of a monitor in windows of a second, and reports a flood. Pure: time is an argument."""

from collections import Counter
from typing import Any

from agent.core.read_budget import READ_COST, TURN_COST, TURN_S, UNUSED_FACTOR, Budget
from agent.core.shares import Owner
from agent.core.wording import printable

_WEIGHT_BYTES = 1024
"""A message counts once more for each of these: events take 100 to 500 bytes, a reading 900."""

_NAMES_MAX = 16
"""Names of events that are counted: a VM floods with one or two."""

_EVENT_SHOWN_MAX = 64

_CAUSES = {"BLOCK_IO_ERROR": "a disk of the VM fails; check its storage"}
_UNKNOWN_CAUSE = "find out which program created the socket"


class FloodingError(Exception):
    """More messages than the bound. The message names the bound and the most frequent event."""


class FloodWindow:
    """The messages of the present second, and the turn of the link if it has one (core/read_budget.py)."""

    def __init__(self, messages_per_s_max: int, budget: Budget[Any], owner: Owner = None) -> None:
        """Count nothing yet; of events that are not used, `UNUSED_FACTOR` times as many are allowed."""
        self.owner = owner
        self._budget = budget
        self._messages_per_s_max = messages_per_s_max
        self._start_s = 0.0
        self._used = 0
        self._unused = 0
        self._names: Counter[str] = Counter()
        self._turn_left = 0
        self._turn_ends_s = 0.0

    def add(self, event: object, size_bytes: int, now_s: float, *, asked_for: bool = False) -> None:
        """Count a message that is used. Answers count too: they lead to further commands.

        Args:
            event: the name of the event; anything else for an answer.
            size_bytes: of the message.
            now_s: the monotonic clock.
            asked_for: it answers a command. Of the budget only its length uses something, because the agent
                chooses how many commands it sends.

        Raises:
            FloodingError: the messages of this second are more than the bound.
        """
        self._begin(now_s)
        weight = _weight(size_bytes)
        self._used += weight
        self._use(UNUSED_FACTOR * (weight - asked_for))
        if isinstance(event, str):
            self._count_name(event)
        self._check(self._used, self._messages_per_s_max)

    def add_unused(self, event: str, size_bytes: int, now_s: float) -> None:
        """Count an event that the agent does not use; arguments and errors are those of `add`."""
        self._begin(now_s)
        self._unused += _weight(size_bytes)
        self._use(_weight(size_bytes))
        self._count_name(event)
        self._check(self._unused, self._messages_per_s_max * UNUSED_FACTOR)

    def add_read(self) -> None:
        """Count a read, whether it completed a message or not."""
        self._use(READ_COST)

    def needs_turn(self, now_s: float) -> bool:
        """Return whether this monitor must not be read now, for the sake of the others; mostly it may."""
        has_turn = self._turn_left > 0 and now_s < self._turn_ends_s
        return not has_turn and not self._budget.is_free

    def begin_turn(self, now_s: float) -> None:
        """Begin a turn: the monitor is read even if the budget is used up."""
        self._turn_left, self._turn_ends_s = TURN_COST, now_s + TURN_S

    def _use(self, cost: int) -> None:
        self._turn_left -= cost
        self._budget.use(self.owner, self, cost)

    def _begin(self, now_s: float) -> None:
        if now_s - self._start_s >= 1.0:
            self._start_s, self._used, self._unused = now_s, 0, 0
            self._names.clear()

    def _count_name(self, event: str) -> None:
        if event in self._names or len(self._names) < _NAMES_MAX:
            self._names[event] += 1

    def _check(self, count: int, limit: int) -> None:
        if count <= limit:
            return
        flood = (
            f"more than {limit} messages in one second (a message counts once, and once more for each KiB)"
        )
        if self._names:
            [(event, _)] = self._names.most_common(1)
            name = printable(event, _EVENT_SHOWN_MAX)
            flood += f"; most frequent event: {name}; {_CAUSES.get(event, _UNKNOWN_CAUSE)}"
        raise FloodingError(flood)


def _weight(size_bytes: int) -> int:
    return 1 + size_bytes // _WEIGHT_BYTES
