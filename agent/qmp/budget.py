"""The budget of all monitors together, and which is read next while it is used up. Pure: time is an argument.

Many monitors that each stay just below the bound of one (flood.py) would use up a core. So what all of them
send is taken from a budget. While it is used up, links wait, and are read one after the other: owners have
their turns (core/shares.py), and so have the links of each owner. Therefore no number of monitors delays
those of another owner for long, none waits without end, and few are read at the same time.
"""

from typing import Generic, TypeVar

from agent.core.shares import FairQueue, Owner

T = TypeVar("T")

UNUSED_FACTOR = 10
"""Events that the agent does not use, for each message: a disk that fails under `werror=report` makes an
event for each request. The budget is counted in such events."""

BUDGET_PER_S = 5_000
"""Messages of all monitors together: a fraction of a core."""

READ_COST = UNUSED_FACTOR // 2
"""Of a read, in events that are not used: bytes that come one by one cost reads, and make no message."""

TURN_COST = 20
"""What a link may use in its turn, in events that are not used: two messages, less than a millisecond."""

TURN_S = 0.05
"""A turn that was not used by then is over: saved turns would be used by all links at the same time."""

FILL_S = 0.02
"""The budget holds as much as it is filled up with in this time."""

_OWED_S = 0.1
"""What was used beyond the budget delays all links by at most this."""


class Budget(Generic[T]):
    """What all monitors may send together, and the links `T` that wait for their turn."""

    def __init__(self, messages_per_s: int = BUDGET_PER_S) -> None:
        """Begin with a full budget, counted in events that are not used."""
        self._per_s = messages_per_s * UNUSED_FACTOR
        self._left = self._left_max = self._per_s * FILL_S
        self._filled_s = 0.0
        self._waiting = FairQueue[T]()

    @property
    def is_free(self) -> bool:
        """Return whether a link may be read without a turn."""
        return self._left > 0 and not self._waiting

    @property
    def next_turn_s(self) -> float | None:
        """Return how long after the last filling the next turn begins; `None`: no link waits."""
        return max(0.0, -self._left / self._per_s) if self._waiting else None

    def use(self, cost: float) -> None:
        """Use some of the budget, in events that are not used."""
        self._left = max(self._left - cost, -self._per_s * _OWED_S)

    def fill(self, now_s: float) -> None:
        """Fill up the budget for the time since the last call.

        Call it once in a round of the event loop: if it were filled during a round, a process that gets
        little of a CPU would read all links in each round.
        """
        self._left = min(self._left + (now_s - self._filled_s) * self._per_s, self._left_max)
        self._filled_s = now_s

    def wait(self, owner: Owner, link: T) -> None:
        """Add a link that waits for its turn."""
        self._waiting.put(owner, link)

    def discard(self, owner: Owner, link: T) -> None:
        """Remove a link if it waits."""
        self._waiting.discard(owner, link)

    def take_turn(self) -> T | None:
        """Remove and return the link whose turn it is; `None`: none now."""
        return self._waiting.take() if self._waiting and self._left > 0 else None
