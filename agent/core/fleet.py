"""Which VMs a scan starts, which pollers it notifies, and which address holds a VM's id."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.address import Address
from agent.core.events import PathMissing, PathSeen
from agent.core.reading import SocketMark, VmId


@dataclass(frozen=True, slots=True)
class Start:
    """Start a poller: this address has none."""

    address: Address


@dataclass(frozen=True, slots=True)
class Notify:
    """Give the event to the poller of this address."""

    address: Address
    event: PathSeen | PathMissing


def compare(
    running: Mapping[Address, SocketMark | None], seen: Mapping[Address, SocketMark]
) -> tuple[Start | Notify, ...]:
    """Return what a scan changes, in the order of the addresses' texts.

    Args:
        running: the addresses that have a poller, and the process each poller was last notified of; `None`:
            that it is missing.
        seen: the addresses found now, and the process behind each.
    """
    changes: list[Start | Notify] = []
    for address in sorted(running.keys() | seen.keys(), key=str):
        mark = seen.get(address)
        if address not in running:
            changes.append(Start(address))
        elif mark is None:
            if running[address] is not None:
                changes.append(Notify(address, PathMissing()))
        elif running[address] != mark:
            changes.append(Notify(address, PathSeen(mark)))
    return tuple(changes)


@dataclass(frozen=True, slots=True)
class Claims:
    """Which address holds each VM id: the first that claimed it and has not released it."""

    holders: Mapping[VmId, Address] = field(default_factory=dict[VmId, Address])

    def claim(self, id: VmId, address: Address) -> tuple["Claims", Address | None]:
        """Return the claims with `address` holding `id`, or unchanged and the other address that holds it."""
        holder = self.holders.get(id)
        if holder is not None and holder != address:
            return self, holder
        return Claims({**self.disclaim(address).holders, id: address}), None

    def disclaim(self, address: Address) -> "Claims":
        """Return the claims without those of `address`."""
        if address not in self.holders.values():
            return self
        return Claims({id: holder for id, holder in self.holders.items() if holder != address})
