"""Reads the values that are not counted: queued records, states of VMs, and the process's own use."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from agent.core.health import Component
from agent.runtime import clock
from agent.runtime.recorder import Recorder
from agent.spool.disk import DiskSpool
from agent.spool.queues import DEAD_LETTERS
from agent.spool.record_queue import RecordQueue
from agent.telemetry import Levels

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SELF = Path("/proc/self")


def levels(
    queues: Mapping[str, RecordQueue],
    recorder: Recorder,
    spool: DiskSpool | None,
    excluded: int,
    components: Mapping[str, Component],
) -> Levels:
    """Return the present values; `queues` by sink, `excluded` counts VMs. Reading proc(5) does not block."""
    now_ms = clock.unix_ms()
    oldest = {sink: queue.oldest_ms for sink, queue in queues.items()}
    return Levels(
        waiting={sink: queue.held for sink, queue in queues.items()},
        oldest_age_s={
            sink: max(0, now_ms - at_ms) / 1000 for sink, at_ms in oldest.items() if at_ms is not None
        },
        vms=Counter(view.state.state for view in recorder.views()),
        excluded=excluded,
        components={name: each.health for name, each in components.items()},
        spool_used_bytes=None if spool is None else spool.totals.used_bytes,
        spool_limit_bytes=None if spool is None else spool.limit_bytes,
        dead_letters=None if spool is None else spool.totals.rows.get(DEAD_LETTERS, 0),
        cpu_s=time.process_time(),
        memory_bytes=resident_bytes(),
        descriptors=descriptors(),
        host_memory=recorder.newest_host_memory(),
    )


def resident_bytes() -> int | None:
    """Return the resident memory of this process; `None`: no descriptor is left to read it with."""
    try:
        return int((_SELF / "statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return None


def descriptors() -> int | None:
    """Return how many descriptors this process has; `None`: none is left to count them with."""
    try:
        # The size is their number since Linux 6.2, and needs no descriptor.
        return (_SELF / "fd").stat().st_size or len(os.listdir(_SELF / "fd"))
    except OSError:
        return None
