"""Which libvirts may get one more thread, while calls hold threads that nothing waits for any more."""

from collections import Counter
from typing import TypeVar

from agent.core.shares import Owner

T = TypeVar("T")

OWNERS_FACTOR = 4
"""From so many times the bound of threads in all on, no owner gets one more: owners may be many."""


class HeldThreads:
    """Counts the threads that are held by calls nothing waits for any more, by libvirt, by owner and in all.

    A libvirt may belong to any user, and one that never answers holds a thread for each attempt. The count
    outlives a connection, so that a socket that is created again does not get new threads.
    """

    def __init__(self, each_max: int, all_max: int | None = None) -> None:
        """Create it.

        Args:
            each_max: threads of one libvirt from which on it is refused.
            all_max: threads in all from which on the libvirts of owners with their share of them are refused,
                and from `OWNERS_FACTOR` times as many on all libvirts; `None`: no bound.
        """
        self._each_max = each_max
        self._all_max = all_max
        self._held: Counter[str] = Counter()
        self._held_of: Counter[Owner] = Counter()

    def refusal(self, uri: str, owner: Owner) -> str | None:
        """Return why no call may be made to this libvirt now; `None`: it may."""
        held = self._held[uri]
        if held >= self._each_max:
            return f"the daemon does not answer: {held} calls have not ended; restart it"
        total = self._held.total()
        if self._all_max is None or total < self._all_max:
            return None
        share = max(1, self._all_max // len(self._held_of))
        if self._held_of[owner] < share and total < self._all_max * OWNERS_FACTOR:
            return None
        return f"too many libvirt daemons do not answer: {total} calls have not ended; restart the daemons"

    def hold(self, uri: str, owner: Owner) -> None:
        """Count a thread."""
        self._held[uri] += 1
        self._held_of[owner] += 1

    def release(self, uri: str, owner: Owner) -> None:
        """Stop counting a thread: its call has ended."""
        _subtract(self._held, uri)
        _subtract(self._held_of, owner)


def _subtract(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
