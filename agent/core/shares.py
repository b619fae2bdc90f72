"""Shares: what all VMs use together is given to their owners in turn, so that none can take it all.

An owner is what the kernel shows and no other user can claim: the pod, by the directory that kubelet made, or
else the user who owns the topmost file on the way to a socket that root does not own. A user has one share
however many directories and sockets they make. A user with ids of their own (/etc/subuid) has a share for
each of them, where everyone may create files.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar

Owner: TypeAlias = int | str | None
"""A user's id, a pod, or the URI of a libvirt. `None`: not known."""

ROOT = 0

T = TypeVar("T")

_POD_OWNER = "pod "
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
        return f"{_POD_OWNER}{pod[1]}"
    return user_id


def is_pod(owner: Owner) -> bool:
    """Return whether the owner is a pod."""
    return isinstance(owner, str) and owner.startswith(_POD_OWNER)


def pod_uid(owner: Owner) -> str | None:
    """Return the uid of the pod that is the owner; `None`: the owner is no pod."""
    return owner.removeprefix(_POD_OWNER) if isinstance(owner, str) and is_pod(owner) else None


def shown(owner: Owner) -> str:
    """Return the owner for a message."""
    return f"user {owner}" if isinstance(owner, int) else str(owner)


class FairQueue(Generic[T]):
    """Items that wait, each once. Owners have their turns one after the other."""

    def __init__(self) -> None:
        """Begin empty."""
        self._items: dict[Owner, dict[T, None]] = {}  # by owner, the one whose turn it is first

    def __bool__(self) -> bool:
        """Return whether an item waits."""
        return bool(self._items)

    def put(self, owner: Owner, item: T) -> None:
        """Add an item of an owner; if it waits already, it keeps its place."""
        self._items.setdefault(owner, {})[item] = None

    def take(self) -> T:
        """Remove and return the next item. There must be one."""
        owner = next(iter(self._items))
        items = self._items.pop(owner)
        item = next(iter(items))
        del items[item]
        if items:
            self._items[owner] = items
        return item

    def discard(self, owner: Owner, item: T) -> None:
        """Remove an item if it waits."""
        items = self._items.get(owner)
        if items is None:
            return
        items.pop(item, None)
        if not items:
            self._items.pop(owner, None)


def equal_shares(owners: Mapping[T, Owner], first: Sequence[T], count_max: int) -> set[T]:
    """Return at most `count_max` items. Over the bound, the owners have equal shares.

    Args:
        owners: of all items.
        first: items that come before the others of their owner; those not in `owners` are ignored.
        count_max: the bound.
    """
    turns = FairQueue[T]()
    for item in (*first, *owners):
        if item in owners:
            turns.put(owners[item], item)
    return {turns.take() for _ in range(min(len(owners), count_max))}
