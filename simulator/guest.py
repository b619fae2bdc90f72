"""Scripted guests: what they have in memory, and how long they take to say so, each from its seed.

Shapes are those of Linux: `stat-minor-faults` counts all faults, total memory is what the kernel manages and
falls by what the balloon has taken, and what is cumulative starts anew at each boot. Windows is here as it is
without its balloon service: a first buffer with nothing in it, then silence.
"""

import random
from collections.abc import Mapping
from enum import StrEnum

MS = 1_000_000
SECOND = 1_000_000_000
MIB = 1 << 20
PAGE = 4096

SWAP_IN, SWAP_OUT, MAJOR, FAULTS, FREE, TOTAL, AVAILABLE, CACHES = range(8)
OOM_KILLS, ALLOC_STALLS, ASYNC_SCANS, DIRECT_SCANS, ASYNC_RECLAIMS, DIRECT_RECLAIMS = range(10, 16)

_EDGES = (
    0,
    1,
    2**31,
    2**32,
    2**53 - 1,
    2**53,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 4096,
    2**64 - 2,
    2**64 - 1,
)


class Kind(StrEnum):
    """How a guest behaves."""

    STEADY = "steady"
    CHURNING = "churning"  # memory comes and goes
    LEAKING = "leaking"  # less and less is available; then it swaps; then the OOM killer; then again
    SILENT = "silent"  # no balloon driver until it is told to load one
    DYING = "dying"  # answers for a while, then never again
    SLOW = "slow"  # 10 to 500 ms to answer
    LYING = "lying"  # impossible values
    HOSTILE = "hostile"  # garbage at the edges of numbers, tags that nobody knows
    WINDOWS = "windows"  # the driver without its service


class Guest:
    """One guest. Deterministic: the same seed and the same calls give the same values."""

    def __init__(self, kind: Kind, memory_bytes: int, seed: int, tags: int = 16) -> None:
        """Make it, not yet booted.

        Args:
            kind: how it behaves.
            memory_bytes: of the VM.
            seed: of everything it does.
            tags: how many its driver knows: 16 from Linux 6.12 on, 10 before.
        """
        self.kind = kind
        self.memory_bytes = memory_bytes
        self.crashed = False
        self.ballooned_bytes = 0
        self.dirty_bytes = 0
        self.churns = kind is Kind.CHURNING
        self._tags = tags
        self._chance = random.Random(seed)
        self._usual_ns = self._chance.uniform(1.5, 8) * MS
        self._dies_after_ns = self._chance.uniform(8, 40) * SECOND
        self._phase_ns = self._chance.randrange(40 * SECOND)
        self._counters: dict[int, int] = {}
        self.boot()

    def boot(self) -> None:
        """Start anew."""
        self.crashed = False
        self.ballooned_bytes = self.dirty_bytes = 0
        self._counters = {SWAP_IN: 0, SWAP_OUT: 0, MAJOR: 0, FAULTS: 700 + self._chance.randrange(300)}

    @property
    def loads_driver(self) -> bool:
        """Whether its driver is loaded while it boots."""
        return self.kind is not Kind.SILENT

    def answer_after_ns(self, up_ns: int) -> int | None:
        """Return how long it takes to answer a request; `None`: for ever."""
        if self.crashed or self.kind is Kind.WINDOWS:
            return None
        if self.kind is Kind.DYING and up_ns > self._dies_after_ns:
            return None
        if self.kind is Kind.SLOW:
            return int(self._chance.triangular(10, 500, 60) * MS)
        return int(min(self._usual_ns + self._chance.expovariate(1 / (1.5 * MS)), 14 * MS))

    def statistics(self, up_ns: int) -> Mapping[int, int]:
        """Return what it says of its memory: tags with values."""
        match self.kind:
            case Kind.WINDOWS:
                return {}
            case Kind.HOSTILE:
                return self._garbage()
            case Kind.LYING:
                return self._lies(self._truth(up_ns))
            case _:
                return self._truth(up_ns)

    def _truth(self, up_ns: int) -> dict[int, int]:
        chance, counters = self._chance, self._counters
        total = self.memory_bytes - self.memory_bytes // 32 - 32 * MIB - self.ballooned_bytes
        caches = total // 40
        used = total // 4 + chance.randrange(64) * PAGE + self.dirty_bytes
        if self.churns:
            used += total // 4 * ((up_ns + self._phase_ns) // (2 * SECOND) % 2)
        if self.kind is Kind.LEAKING:
            used += self._leak(up_ns, total)
        counters[FAULTS] += chance.randrange(200)
        used = min(used, total - caches)
        free = (total - used - caches) & -PAGE
        values = {**counters, FREE: free, TOTAL: total & -PAGE, AVAILABLE: free + caches // 2 & -PAGE}
        values |= {CACHES: caches & -PAGE, 8: 0, 9: 0}
        if self._tags > 10:
            values |= {tag: counters.get(tag, 0) for tag in range(10, self._tags)}
        return values

    def _leak(self, up_ns: int, total: int) -> int:
        """Return what has leaked: all there is within two minutes, then the OOM killer takes it back."""
        leaked = int((up_ns + self._phase_ns) % (120 * SECOND) / (120 * SECOND) * total)
        if leaked > total // 2:
            pages = self._chance.randrange(2000)
            for tag, share in ((SWAP_OUT, 1), (ASYNC_SCANS, 3), (ASYNC_RECLAIMS, 2), (SWAP_IN, 0.2)):
                self._counters[tag] = self._counters.get(tag, 0) + int(pages * share) * PAGE
            self._counters[MAJOR] += pages // 8
        if leaked > total * 0.95:
            self._counters[OOM_KILLS] = self._counters.get(OOM_KILLS, 0) + 1
        return leaked

    def _lies(self, values: dict[int, int]) -> dict[int, int]:
        lie = self._chance.randrange(4)
        if lie == 0:
            values[FREE] = values[TOTAL] * 2
        elif lie == 1:
            values[AVAILABLE] = values[TOTAL] + PAGE * 1000
        elif lie == 2:
            values[TOTAL] = 0
        else:
            values[FAULTS] = self._chance.randrange(2**40)
        return values

    def _garbage(self) -> dict[int, int]:
        chance = self._chance
        tags = [*range(self._tags), *(chance.randrange(16, 2**16) for _ in range(3))]
        values: dict[int, int] = {}
        for tag in chance.sample(tags, chance.randrange(len(tags) + 1)):
            values[tag] = chance.choice(_EDGES) if chance.random() < 0.7 else chance.getrandbits(64)
        return values
