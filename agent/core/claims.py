"""Which address holds a VM's id, where several monitors or QEMUs of one host have the same uuid.

The first that claims an id holds it. The two QEMUs of a migration within a host have one uuid: an active VM
takes the id from one that has handed over or has yet to be started (core/holding.py: `is_active`), if root or
the same user runs it: any user may answer with any uuid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.address import Address
from agent.core.reading import VmId
from agent.core.shares import ROOT, Owner


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds an id."""

    address: Address
    active: bool
    owner: Owner = None

    def yields(self, active: bool, owner: Owner) -> bool:
        """Return whether a VM of `owner` at another address takes the id."""
        return active and not self.active and owner in (ROOT, self.owner)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The next claims, and what the addresses that they concern must learn."""

    claims: "Claims"
    other: Address | None = None  # holds the id instead of the address that claimed it
    displaced: Address | None = None  # held the id until now
    freed: tuple[Address, ...] = ()  # may claim now with success; in the order in which they tried


@dataclass(frozen=True, slots=True)
class Claims:
    """Which address holds each VM id, and which tried in vain."""

    holders: Mapping[VmId, Holder] = field(default_factory=dict[VmId, Holder])
    waiting: Mapping[Address, VmId] = field(default_factory=dict[Address, VmId])

    def claim(self, id: VmId, address: Address, *, active: bool = True, owner: Owner = None) -> Claimed:
        """Claim `id` for `address`, which holds no other id afterwards.

        Args:
            id: a VM's.
            address: of the VM.
            active: whether the VM is the one to observe, of two with this id.
            owner: what runs the VM.
        """
        holder = self.holders.get(id)
        if holder is not None and holder.address != address and not holder.yields(active, owner):
            return Claimed(Claims(self.holders, {**self.waiting, address: id}), holder.address)
        left = self.disclaim(address)
        freed = left.freed
        if holder is not None and holder.address == address:
            freed = freed if holder.active and not active else ()
        displaced = None if holder is None or holder.address == address else holder.address
        waiting = left.claims.waiting if displaced is None else {**left.claims.waiting, displaced: id}
        claims = Claims({**left.claims.holders, id: Holder(address, active, owner)}, waiting)
        return Claimed(claims, None, displaced, freed)

    def disclaim(self, address: Address) -> Claimed:
        """Release what `address` holds or tried to hold."""
        waiting = {each: id for each, id in self.waiting.items() if each != address}
        held = {id for id, holder in self.holders.items() if holder.address == address}
        if not held and len(waiting) == len(self.waiting):
            return Claimed(self)
        holders = {id: holder for id, holder in self.holders.items() if holder.address != address}
        freed = tuple(each for each, id in waiting.items() if id in held)
        return Claimed(Claims(holders, waiting), freed=freed)
