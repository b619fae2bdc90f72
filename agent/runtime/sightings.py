"""Merge the monitors that discovery finds and the domains of libvirt into one scan."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup

from agent.core.reading import Access
from agent.discovery.scan import RefusedPath, RefusedReason, Scan, Seen
from agent.libvirt.connections import Connections
from agent.libvirt.targets import Place

GATHER_S = 0.02
"""Changes of domains within this time are merged: a host that starts its VMs reports each."""


class Sightings:
    """Merges the scans of all sources. The first scan comes once each source has reported."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._monitors: Scan | None = None
        self._sockets: dict[Place, Scan] = {}
        self._changed = anyio.Event()
        self._may_begin = False  # libvirt was asked once

    def start(
        self,
        group: TaskGroup,
        monitors: AsyncIterator[Scan],
        sockets: dict[Place, AsyncIterator[Scan]],
    ) -> None:
        """Follow the sources, in `group`.

        Args:
            group: runs the tasks.
            monitors: scans of monitors.
            sockets: scans of libvirt's sockets, by the place whose glob they match.
        """
        group.start_soon(self._follow_monitors, monitors)
        for place, scans in sockets.items():
            group.start_soon(self._follow_sockets, place, scans)
        group.start_soon(self._follow_domains, len(sockets))

    async def scans(self) -> AsyncGenerator[Scan, None]:
        """Yield a scan at once, and again whenever it may have changed."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            if self._monitors is not None and self._may_begin:
                yield self._scan(self._monitors)

    def _scan(self, monitors: Scan) -> Scan:
        domains = (
            Seen(
                each.address,
                each.mark,
                Access.HOLD,
                each.name,
                each.labels,
                each.place.policy,
                each.place.interval_s,
                owner=each.owner,
            )
            for each in self._connections.domains()
        )
        refused = [each for scan in self._sockets.values() for each in scan.refused]
        refused += [
            RefusedPath(place, RefusedReason.UNUSABLE, why)
            for place, why in self._connections.unusable().items()
        ]
        return replace(
            monitors,
            seen=tuple(sorted((*monitors.seen, *domains), key=lambda seen: str(seen.address))),
            refused=tuple(sorted((*monitors.refused, *refused), key=lambda found: found.path)),
        )

    async def _follow_monitors(self, scans: AsyncIterator[Scan]) -> None:
        async for scan in scans:
            self._monitors = scan
            self._changed.set()

    async def _follow_sockets(self, place: Place, scans: AsyncIterator[Scan]) -> None:
        async for scan in scans:
            known = self._sockets.get(place)
            if known is not None:  # what this scan did not cover remains valid
                seen = {each.address for each in scan.seen}
                unlooked = scan.unlooked(known.seen) - seen
                kept = tuple(each for each in known.seen if each.address in unlooked)
                scan = replace(scan, seen=(*scan.seen, *kept))
            self._sockets[place] = scan
            self._connections.see_sockets(
                {str(seen.address): place for place, scan in self._sockets.items() for seen in scan.seen},
                {str(seen.address): seen.mark for scan in self._sockets.values() for seen in scan.seen},
                {str(seen.address): seen.owner for scan in self._sockets.values() for seen in scan.seen},
            )
            self._changed.set()

    async def _follow_domains(self, globs: int) -> None:
        while len(self._sockets) < globs:
            await self._connections.changed()
        await self._connections.tried()
        self._may_begin = True
        self._changed.set()
        while True:
            await self._connections.changed()
            await anyio.sleep(GATHER_S)
            self._changed.set()
