"""Simulated guests: their memory statistics, and how long they take to answer, derived from a seed.

The statistics behave as in Linux: `stat-minor-faults` counts all faults, total memory is what the kernel
manages less what the balloon has taken, and cumulative values restart at each boot. The Windows guest is one
without the balloon service: it sends a first empty buffer and then nothing.
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

_EXTREMES = (
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
    """The behavior of a guest."""

    STEADY = "steady"
    CHURNING = "churning"  # allocates and frees memory in turn
    LEAKING = "leaking"  # leaks memory until it swaps and the OOM killer frees it, again and again
    SILENT = "silent"  # no balloon driver until the order `load`
    DYING = "dying"  # answers for a while and then stops
    SLOW = "slow"  # takes 10 to 500 ms to answer
    LYING = "lying"  # reports impossible values
    HOSTILE = "hostile"  # reports random and extreme values, and unknown tags
    WINDOWS = "windows"  # the driver without the balloon service


class Guest:
    """One guest. The same seed and the same calls give the same values."""

    def __init__(self, kind: Kind, memory_bytes: int, seed: int, tags: int = 16) -> None:
        """Create a guest.

        Args:
            kind: its behavior.
            memory_bytes: of the VM.
            seed: of its random choices.
            tags: how many statistics its driver knows: 16 from Linux 6.12 on, 10 before.
        """
        self.kind = kind
        self.memory_bytes = memory_bytes
        self.crashed = False
        self.ballooned_bytes = 0
        self.dirty_bytes = 0
        self.churns = kind is Kind.CHURNING
        self.thrashes = False
        self._tags = tags
        self._random = random.Random(seed)
        self._usual_ns = self._random.uniform(1.5, 8) * MS
        self._dies_after_ns = self._random.uniform(8, 40) * SECOND
        self._phase_ns = self._random.randrange(40 * SECOND)
        self._counters: dict[int, int] = {}
        self.boot()

    def boot(self) -> None:
        """Boot: cumulative values restart."""
        self.crashed = False
        self.ballooned_bytes = self.dirty_bytes = 0
        self._counters = {SWAP_IN: 0, SWAP_OUT: 0, MAJOR: 0, FAULTS: 700 + self._random.randrange(300)}

    def run_out_of_memory(self) -> None:
        """Let the kernel kill a process because memory ran out."""
        self._counters[OOM_KILLS] = self._counters.get(OOM_KILLS, 0) + 1

    @property
    def loads_driver(self) -> bool:
        """Whether the balloon driver is loaded during boot."""
        return self.kind is not Kind.SILENT

    def answer_after_ns(self, up_ns: int) -> int | None:
        """Return how long the guest takes to answer a request; `None`: it never answers."""
        if self.crashed or self.kind is Kind.WINDOWS:
            return None
        if self.kind is Kind.DYING and up_ns > self._dies_after_ns:
            return None
        if self.kind is Kind.SLOW:
            return int(self._random.triangular(10, 500, 60) * MS)
        return int(min(self._usual_ns + self._random.expovariate(1 / (1.5 * MS)), 14 * MS))

    def statistics(self, up_ns: int) -> Mapping[int, int]:
        """Return the reported memory statistics by tag."""
        match self.kind:
            case Kind.WINDOWS:
                return {}
            case Kind.HOSTILE:
                return self._hostile_values()
            case Kind.LYING:
                return self._falsified(self._true_values(up_ns))
            case _:
                return self._true_values(up_ns)

    def _true_values(self, up_ns: int) -> dict[int, int]:
        rng, counters = self._random, self._counters
        total = self.memory_bytes - self.memory_bytes // 32 - 32 * MIB - self.ballooned_bytes
        caches = total // 40
        used = total // 4 + rng.randrange(64) * PAGE + self.dirty_bytes
        if self.churns:
            used += total // 4 * ((up_ns + self._phase_ns) // (2 * SECOND) % 2)
        if self.kind is Kind.LEAKING:
            used += self._leak(up_ns, total)
        if self.thrashes:
            used = total
            for tag in (SWAP_IN, SWAP_OUT):
                counters[tag] += 32 * MIB
            counters[MAJOR] += 1_000
        counters[FAULTS] += rng.randrange(200)
        used = min(used, total - caches)
        free = (total - used - caches) & -PAGE
        values = {**counters, FREE: free, TOTAL: total & -PAGE, AVAILABLE: free + caches // 2 & -PAGE}
        values |= {CACHES: caches & -PAGE, 8: 0, 9: 0}
        if self._tags > 10:
            values |= {tag: counters.get(tag, 0) for tag in range(10, self._tags)}
        return values

    def _leak(self, up_ns: int, total: int) -> int:
        """Return the leaked bytes: all memory within two minutes, then the OOM killer frees it."""
        leaked = int((up_ns + self._phase_ns) % (120 * SECOND) / (120 * SECOND) * total)
        if leaked > total // 2:
            pages = self._random.randrange(2000)
            for tag, share in ((SWAP_OUT, 1), (ASYNC_SCANS, 3), (ASYNC_RECLAIMS, 2), (SWAP_IN, 0.2)):
                self._counters[tag] = self._counters.get(tag, 0) + int(pages * share) * PAGE
            self._counters[MAJOR] += pages // 8
        if leaked > total * 0.95:
            self._counters[OOM_KILLS] = self._counters.get(OOM_KILLS, 0) + 1
        return leaked

    def _falsified(self, values: dict[int, int]) -> dict[int, int]:
        choice = self._random.randrange(4)
        if choice == 0:
            values[FREE] = values[TOTAL] * 2
        elif choice == 1:
            values[AVAILABLE] = values[TOTAL] + PAGE * 1000
        elif choice == 2:
            values[TOTAL] = 0
        else:
            values[FAULTS] = self._random.randrange(2**40)
        return values

    def _hostile_values(self) -> dict[int, int]:
        rng = self._random
        tags = [*range(self._tags), *(rng.randrange(16, 2**16) for _ in range(3))]
        values: dict[int, int] = {}
        for tag in rng.sample(tags, rng.randrange(len(tags) + 1)):
            values[tag] = rng.choice(_EXTREMES) if rng.random() < 0.7 else rng.getrandbits(64)
        return values
