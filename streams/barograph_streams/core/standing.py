"""Counts keys by level, for the metrics of a job. A restart forgets them, and heartbeats bring them back."""

from collections import Counter

KEPT_MS = 900_000
"""A key without a record for so long is not counted: three heartbeats of the pressure job."""


class Standing:
    """The level of each key by its newest record."""

    def __init__(self) -> None:
        self._levels: dict[bytes, tuple[str, int]] = {}  # the newest record last
        self._counts: Counter[str] = Counter()

    def note(self, key: bytes, level: str, now_ms: int) -> None:
        """Take in a record of a key."""
        self._forget(key)
        self._levels[key] = level, now_ms
        self._counts[level] += 1

    def count(self, level: str, now_ms: int) -> int:
        """Return how many keys have a level."""
        while self._levels:
            key = next(iter(self._levels))
            if now_ms - self._levels[key][1] < KEPT_MS:
                break
            self._forget(key)
        return self._counts[level]

    def _forget(self, key: bytes) -> None:
        known = self._levels.pop(key, None)
        if known is not None:
            self._counts[known[0]] -= 1
