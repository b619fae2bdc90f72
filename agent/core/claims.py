"""Which address holds a VM's id, where several monitors or QEMUs of one host have the same uuid.

The first that claims an id holds it. The two QEMUs of a migration within a host have one uuid: an active VM
takes the id from one that has handed over or has yet to be started (core/holding.py: `is_active`), if root or
the same user runs it: any user may answer with any uuid.

For the same reason an id belongs to the owner that had it first, also across restarts. A VM of another owner
may hold it while there is no VM of that owner, and returns it, unless it has held it for `SETTLED_NS`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.core.address import Address
from agent.core.reading import VmId
from agent.core.shares import ROOT, Owner

SETTLED_NS = 3600 * 1_000_000_000
"""An id that another owner has held for so long belongs to that one: the VM has another user now."""

OWNERS_MAX = 20_000
"""Ids with an owner: those of the VMs that are observed and remembered."""


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds an id."""

    address: Address
    active: bool
    owner: Owner = None
    since_ns: int = 0  # monotonic

    def shares_with(self, owner: Owner) -> bool:
        """Return whether a VM of `owner` may be the same one, after a migration within this host."""
        return owner in (ROOT, self.owner)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The next claims, and what the addresses that they concern must learn."""

    claims: "Claims"
    other: Address | None = None  # holds the id instead of the address that claimed it
    contested: bool = False  # `other` would lose the id if it were not active any more
    displaced: Address | None = None  # held the id until now
    freed: tuple[Address, ...] = ()  # may claim now with success; in the order in which they tried
    owner: Owner = None  # of the id, if it is the one that claimed it


@dataclass(frozen=True, slots=True)
class Claims:
    """Which address holds each VM id, which tried in vain, and which owner each id belongs to."""

    holders: Mapping[VmId, Holder] = field(default_factory=dict[VmId, Holder])
    waiting: Mapping[Address, VmId] = field(default_factory=dict[Address, VmId])
    owners: Mapping[VmId, Owner] = field(default_factory=dict[VmId, Owner])

    def knowing(self, owners: Iterable[tuple[VmId, Owner]]) -> "Claims":
        """Return the claims with the owners of these ids."""
        return Claims(self.holders, self.waiting, _bounded({**self.owners, **dict(owners)}))

    def claim(
        self, id: VmId, address: Address, *, active: bool = True, owner: Owner = None, now_ns: int = 0
    ) -> Claimed:
        """Claim `id` for `address`, which holds no other id afterwards.

        Args:
            id: a VM's.
            address: of the VM.
            active: whether the VM is the one to observe, of two with this id.
            owner: what runs the VM.
            now_ns: the monotonic clock.
        """
        holder = self.holders.get(id)
        owners = self._owners_after(id, address, owner, now_ns)
        if holder is not None and holder.address != address:
            shares = active and holder.shares_with(owner)
            returns = active and owner is not None and owner == owners.get(id) != holder.owner
            if not (returns or (shares and not holder.active)):
                claims = Claims(self.holders, {**self.waiting, address: id}, owners)
                return Claimed(claims, holder.address, contested=shares)
        left = self.disclaim(address)
        freed = left.freed
        since_ns = now_ns
        if holder is not None and holder.address == address:
            freed = freed if holder.active and not active else ()
            since_ns = holder.since_ns if holder.owner == owner else now_ns
        displaced = None if holder is None or holder.address == address else holder.address
        waiting = left.claims.waiting if displaced is None else {**left.claims.waiting, displaced: id}
        holders = {**left.claims.holders, id: Holder(address, active, owner, since_ns)}
        own = owner if owner == owners.get(id) else None
        return Claimed(Claims(holders, waiting, owners), None, displaced=displaced, freed=freed, owner=own)

    def disclaim(self, address: Address) -> Claimed:
        """Release what `address` holds or tried to hold."""
        waiting = {each: id for each, id in self.waiting.items() if each != address}
        held = {id for id, holder in self.holders.items() if holder.address == address}
        if not held and len(waiting) == len(self.waiting):
            return Claimed(self)
        holders = {id: holder for id, holder in self.holders.items() if holder.address != address}
        freed = tuple(each for each, id in waiting.items() if id in held)
        return Claimed(Claims(holders, waiting, self.owners), freed=freed)

    def _owners_after(self, id: VmId, address: Address, owner: Owner, now_ns: int) -> Mapping[VmId, Owner]:
        """Return the owner of each id when `owner` claims this one."""
        first, holder = self.owners.get(id), self.holders.get(id)
        if holder is not None and holder.owner is not None and now_ns - holder.since_ns >= SETTLED_NS:
            owner = holder.owner
        elif first is not None or (holder is not None and holder.address != address):
            return self.owners
        if owner is None or owner == first:
            return self.owners
        return _bounded({**self.owners, id: owner})


def _bounded(owners: dict[VmId, Owner]) -> dict[VmId, Owner]:
    """Return so many of them: the owner with the most loses the oldest."""
    if (excess := len(owners) - OWNERS_MAX) > 0:
        [(most, _)] = Counter(owners.values()).most_common(1)
        for id in [id for id, owner in owners.items() if owner == most][:excess]:
            del owners[id]
    return owners
