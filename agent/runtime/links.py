"""What the agent asks of a VM, by its monitor or through libvirt, and which of the two opens the link."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from agent.contract.decode import BadAnswer
from agent.core.address import Address, Domain, MonitorPath
from agent.core.events import Checked, Introduced, LinkEvent
from agent.core.reading import Peer, Reading, SocketMark
from agent.core.shares import Owner
from agent.errors import Declined


class Link(Protocol):
    """The agent's connection to one VM, by its monitor or through libvirt.

    Each call raises `Declined` (the link stays usable) or `Unreachable` (the link has ended).
    """

    @property
    def mark(self) -> SocketMark: ...
    @property
    def peer(self) -> Peer | None: ...
    @property
    def owner(self) -> int | str | None: ...
    @property
    def resident_bytes(self) -> int | None: ...
    async def introduce(self) -> Introduced: ...
    async def check(self, balloon_path: str | None) -> Checked: ...
    async def read_actual(self) -> int | None: ...
    async def write_interval(self, balloon_path: str, interval_s: int) -> None: ...
    def read_stats(
        self, balloon_path: str, take: Callable[[Reading | BadAnswer | Declined], None]
    ) -> None: ...
    async def next_event(self) -> LinkEvent: ...


class Opener(Protocol):
    """Opens a link to the VM at `address`, when its owner has a turn.

    `look_first` and `mark` as in `OpenLink`. Raises `Unreachable`.
    """

    def __call__(
        self, address: Address, *, look_first: bool, mark: SocketMark | None, owner: Owner = None
    ) -> AbstractAsyncContextManager[Link]: ...


class MonitorOpener(Protocol):
    """The same for monitors only."""

    def __call__(
        self, monitor: MonitorPath, *, look_first: bool, mark: SocketMark | None, owner: Owner = None
    ) -> AbstractAsyncContextManager[Link]: ...


def opener(
    open_monitor: MonitorOpener, open_domain: Callable[[Domain], AbstractAsyncContextManager[Link]]
) -> Opener:
    """Return what opens a link to any VM, by the kind of its address."""

    def open_link(
        address: Address, *, look_first: bool, mark: SocketMark | None, owner: Owner = None
    ) -> AbstractAsyncContextManager[Link]:
        match address:
            case MonitorPath():
                return open_monitor(address, look_first=look_first, mark=mark, owner=owner)
            case Domain():
                return open_domain(address)

    return open_link
