"""Shares: what all VMs use together is given to their owners in turn, so that none can take it all.

An owner is what the kernel shows and no other user can claim: the pod, by the directory that kubelet made, or
else the user who owns the topmost file on the way to a socket that root does not own. A user has one share
however many directories and sockets they make. A user with ids of their own (/etc/subuid) has a share for
each of them, where everyone may create files.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeAlias, TypeVar

Owner: TypeAlias = int | str | None
"""A user's id, a pod, or the URI of a libvirt. `None`: not known."""

ROOT = 0

T = TypeVar("T")

_POD = re.compile(r"/pods/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$")


def owner_below(above: Owner, path: str, user_id: int) -> Owner:
    """Return the owner of a file.

    A pod chooses its user, so only the path tells pods apart (kubernetes pkg/kubelet/config/defaults.go).

    Args:
        above: the owner of its directory.
        path: of the file.
        user_id: the user who owns it.
    """
    if above != ROOT:
        return above
    if user_id == ROOT and (pod := _POD.search(path)) is not None:
        return f"pod {pod[1]}"
    return user_id


def shown(owner: Owner) -> str:
    """Return the owner for a message."""
    return f"user {owner}" if isinstance(owner, int) else str(owner)


def in_turn(items: Iterable[T], owner_of: Callable[[T], Owner]) -> Iterator[T]:
    """Yield one item of each owner, then a second one of each, and so on; each owner's in their order."""
    queue = FairQueue[T]()
    for item in items:
        queue.put(owner_of(item), item)
    while queue:
        yield queue.take()


class FairQueue(Generic[T]):
    """Items that wait. Owners have their turns one after the other, whatever number of items each has."""

    def __init__(self) -> None:
        """Begin empty."""
        self._items: dict[Owner, deque[T]] = {}  # by owner, the one whose turn it is first

    def __bool__(self) -> bool:
        """Return whether an item waits."""
        return bool(self._items)

    def put(self, owner: Owner, item: T) -> None:
        """Add an item of an owner."""
        self._items.setdefault(owner, deque()).append(item)

    def take(self) -> T:
        """Remove and return the next item. There must be one."""
        owner, items = next(iter(self._items.items()))
        item = items.popleft()
        del self._items[owner]
        if items:
            self._items[owner] = items
        return item
