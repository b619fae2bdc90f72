"""A wall clock that tests can set, for processes that run with its environment."""

from collections.abc import Mapping
from pathlib import Path

from tests.lab import setup


class WallClock:
    """A clock separate from the host's. Monotonic clocks, and therefore timers, are not affected."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "wall-clock"
        self.step(0)

    def step(self, offset_s: int) -> None:
        """Set the clock to the host's time plus `offset_s`."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}\n")
        new.rename(self._file)

    @property
    def env(self) -> Mapping[str, str]:
        """Return the environment variables with which a process uses this clock."""
        return {
            "LD_PRELOAD": str(setup.faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # its older name
            "NO_FAKE_STAT": "1",  # the agent tells QEMU processes apart by the times of their socket
        }
