"""Reads and records the host's memory, once per interval.

The files are read in a thread of its own. If one hangs, what was read before it is recorded, and the files
are not read again until that read has ended: there is one thread.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import structlog

from agent.core.host_memory import FileFault, HostMemoryEvent, share_of, sums_of
from agent.host.memory_files import Contents, parsed, read_files
from agent.runtime import clock
from agent.runtime.recorder import Recorder
from agent.telemetry import Count, Counters
from agent.threads import Call, WorkerThread

log = structlog.get_logger("barograph.host")

READ_TIMEOUT_S = 2.0
"""A read of all files takes about a millisecond."""

_ALL = "proc"
"""Stands for all files where it is not known which one."""


class HostMemoryReporter:
    """Owned by the event loop's thread."""

    def __init__(
        self,
        recorder: Recorder,
        counters: Counters,
        interval_s: int,
        read: Callable[[Contents], None] | None = None,
        root: Path = Path("/"),
    ) -> None:
        """Create it; `read` fills what it is given, and is called in a thread."""
        self._recorder = recorder
        self._counters = counters
        self._interval_s = interval_s
        self._read = read or partial(read_files, root=root)
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._sequence = 0
        self._thread: WorkerThread | None = None
        self._reading: Call[None] | None = None
        self._contents = Contents()
        self._reported: dict[str, FileFault] = {}

    async def run(self) -> None:
        """Record at once, and then on a fixed grid, until canceled."""
        began_s = anyio.current_time()
        try:
            while True:
                self._record(await self._look())
                slots = int((anyio.current_time() - began_s) / self._interval_s) + 1
                await anyio.sleep_until(began_s + slots * self._interval_s)
        finally:
            if self._thread is not None:
                self._thread.end()

    async def _look(self) -> Contents:
        """Return what can be read within the timeout."""
        contents = self._contents
        if self._reading is not None and not self._reading.done.is_set():
            return Contents(faults={contents.reading or _ALL: FileFault.HUNG})
        contents = self._contents = Contents()
        try:
            self._thread = self._thread or WorkerThread("host memory")
            self._reading = self._thread.submit(partial(self._read, contents))
            with anyio.move_on_after(READ_TIMEOUT_S):
                await self._reading.wait()
                return contents
        except (MemoryError, RuntimeError):  # "can't start new thread"
            return Contents(faults={_ALL: FileFault.UNREADABLE})
        hung = {contents.reading or _ALL: FileFault.HUNG}
        return Contents(dict(contents.texts), {**contents.faults, **hung})

    def _record(self, contents: Contents) -> None:
        memory, faults = parsed(contents, self._page_bytes)
        self._report(faults)
        self._sequence += 1
        self._recorder.host_memory(
            HostMemoryEvent(
                sequence=self._sequence,
                observed_at_ms=clock.unix_ms(),
                interval_s=self._interval_s,
                memory=memory,
                vms=sums_of(map(share_of, self._recorder.views())),
            )
        )

    def _report(self, faults: dict[str, FileFault]) -> None:
        """Count every fault, and log it when it begins and when it ends."""
        for name, fault in faults.items():
            self._counters.add(Count.HOST_FILES_REFUSED, reason=fault.value)
            if self._reported.get(name) is not fault:
                log.warning("host file unusable", path=f"/{name}", reason=fault.value)
        for name in self._reported.keys() - faults.keys():
            log.info("host file usable again", path=f"/{name}")
        self._reported = faults
