"""The budget of all monitors together, and which is read next while it is used up. Pure: time is an argument.

Many monitors that each stay just below the bound of one (qmp/flood.py) would use up a core. So what all of
them send is taken from a budget. While it is used up, links wait for a turn. The next turn is of the owner
(core/shares.py) who has used the least, and of the link of this owner that has used the least. A turn may
cost much more than another, since a message may be long, so turns are not counted. Therefore no number of
monitors delays those of another owner for long, and none waits without end.
"""

from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from agent.core.shares import Owner

K = TypeVar("K", bound=Hashable)
L = TypeVar("L", bound=Hashable)

UNUSED_FACTOR = 10
"""Events that the agent does not use, for each message: a disk that fails under `werror=report` makes an
event for each request. The budget is counted in such events."""

BUDGET_PER_S = 5_000
"""Messages of all monitors together: a fraction of a core."""

READ_COST = UNUSED_FACTOR // 2
"""Of a read, in events that are not used: bytes that come one by one cost reads, and make no message."""

TURN_COST = 20
"""What a link may use in its turn, in events that are not used: two short messages, which take
less than a millisecond."""

TURN_S = 0.05
"""A turn that was not used by then is over: saved turns would be used by all links at the same time."""

FILL_S = 0.02
"""The budget holds as much as it is filled up with in this time."""

_OWED_S = 0.1
"""What was used beyond the budget delays all links by at most this."""

_KEYS_KEPT_MIN = 1_000
"""From so many keys on, those that have not used more than the next one are forgotten."""


class LeastUsedFirst(Generic[K]):
    """Keys that wait. The next is the one that has used the least since keys wait.

    A key that begins to wait counts as having used as much as the one that was next before it, so no key
    saves up its share (start-time fair queueing: Goyal, Vin and Cheng, 1996).
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._waiting: set[K] = set()
        self._order: list[tuple[float, int, K]] = []  # a heap by use; an entry may be out of date
        self._number = count()
        self._used: dict[K, float] = {}
        self._used_max = _KEYS_KEPT_MIN
        self._least = 0.0  # what the one that was next last had used

    def __bool__(self) -> bool:
        """Return whether a key waits."""
        return bool(self._waiting)

    def put(self, key: K) -> None:
        """Add a key; if it waits already, it keeps its place."""
        if not self._waiting:
            self._order.clear()
            self._used.clear()
            self._least = 0.0
        if key not in self._waiting:
            self._waiting.add(key)
            self._push(key)

    def discard(self, key: K) -> None:
        """Remove a key if it waits."""
        self._waiting.discard(key)

    def use(self, key: K, cost: float) -> None:
        """Count what a key has used. While none waits, all may use what they want."""
        if self._waiting:
            self._used[key] = self._used_by(key) + cost

    def next(self) -> K:
        """Return the key that is next. One must wait."""
        while True:
            used, _, key = self._order[0]
            if key in self._waiting and used >= self._used_by(key):
                break
            heappop(self._order)
            if key in self._waiting:
                self._push(key)
        self._least = max(self._least, used)
        self._forget()
        return key

    def _used_by(self, key: K) -> float:
        return max(self._used.get(key, 0.0), self._least)

    def _push(self, key: K) -> None:
        heappush(self._order, (self._used_by(key), next(self._number), key))

    def _forget(self) -> None:
        if len(self._used) > self._used_max:
            self._used = {key: used for key, used in self._used.items() if used > self._least}
            self._used_max = max(_KEYS_KEPT_MIN, 2 * len(self._used))


class Budget(Generic[L]):
    """What all monitors may send together, and the links `L` that wait for their turn."""

    def __init__(self, messages_per_s: int = BUDGET_PER_S) -> None:
        """Begin with a full budget, counted in events that are not used."""
        self._per_s = messages_per_s * UNUSED_FACTOR
        self._left = self._left_max = self._per_s * FILL_S
        self._filled_s = 0.0
        self._owners = LeastUsedFirst[Owner]()
        self._links: dict[Owner, LeastUsedFirst[L]] = {}  # of owners with a link that waits

    @property
    def is_free(self) -> bool:
        """Return whether a link may be read without a turn."""
        return self._left > 0 and not self._links

    @property
    def next_turn_s(self) -> float | None:
        """Return how long after the last filling the next turn begins; `None`: no link waits."""
        return max(0.0, -self._left / self._per_s) if self._links else None

    def use(self, owner: Owner, link: L, cost: float) -> None:
        """Use some of the budget, in events that are not used."""
        self._left = max(self._left - cost, -self._per_s * _OWED_S)
        if not self._links:
            return
        self._owners.use(owner, cost)
        if (links := self._links.get(owner)) is not None:
            links.use(link, cost)

    def fill(self, now_s: float) -> None:
        """Fill up the budget for the time since the last call.

        Call it once in a round of the event loop: if it were filled during a round, a process that gets
        little of a CPU would read all links in each round.
        """
        self._left = min(self._left + (now_s - self._filled_s) * self._per_s, self._left_max)
        self._filled_s = now_s

    def wait(self, owner: Owner, link: L) -> None:
        """Add a link that waits for its turn."""
        self._links.setdefault(owner, LeastUsedFirst()).put(link)
        self._owners.put(owner)

    def discard(self, owner: Owner, link: L) -> None:
        """Remove a link if it waits."""
        links = self._links.get(owner)
        if links is not None:
            links.discard(link)
            if not links:
                del self._links[owner]
                self._owners.discard(owner)

    def take_turn(self) -> L | None:
        """Remove and return the link whose turn it is; `None`: none now. A turn costs as much as a read."""
        if not self._links or self._left <= 0:
            return None
        owner = self._owners.next()
        link = self._links[owner].next()
        self.use(owner, link, READ_COST)
        self.discard(owner, link)
        return link
