"""A wall clock that tests can set, for the processes that are told to believe it."""

from collections.abc import Mapping
from pathlib import Path

from tests.lab import setup


class WallClock:
    """A clock beside the host's. Monotonic clocks, and so every timer, go on as they are."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "wall-clock"
        self.step(0)

    def step(self, offset_s: int) -> None:
        """Set it to `offset_s` from the host's."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}\n")
        new.rename(self._file)

    @property
    def env(self) -> Mapping[str, str]:
        """What a process needs in its environment to believe it."""
        return {
            "LD_PRELOAD": str(setup.faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # its older name
            "NO_FAKE_STAT": "1",  # a socket's times tell QEMU's processes apart
        }
