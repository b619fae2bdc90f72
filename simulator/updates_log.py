"""The log of every update of every simulated VM."""

from pathlib import Path
from typing import BinaryIO

FLUSH_NS = 100_000_000


class UpdatesLog:
    """Writes each update as a JSON line.

    The format is `[path of the truth monitor, Unix nanoseconds, last-update, {statistics as in QMP}]`. The
    observer of the tests writes the same, so that one comparison reads both.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)
        self._flushed_ns = 0
        self._unflushed = False

    def write(self, path: Path, last_update_s: int, stats_json: str, seen_ns: int) -> None:
        """Add an update; `stats_json` is the JSON value of QMP's `guest-stats`."""
        statistics = stats_json[len('{"stats": ') : stats_json.rindex("}, ") + 1]
        self._file.write(f'["{path}", {seen_ns}, {last_update_s}, {statistics}]\n'.encode())
        self._unflushed = True

    def due_ns(self) -> int | None:
        """Return when to call `flush` next, on the monotonic clock; `None`: nothing to flush."""
        return self._flushed_ns + FLUSH_NS if self._unflushed else None

    def flush(self, mono_ns: int) -> None:
        """Make everything written so far visible to readers."""
        self._file.flush()
        self._flushed_ns, self._unflushed = mono_ns, False

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()
