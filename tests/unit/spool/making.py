"""Records and memories for the spool's tests."""

import random

from agent.contract.headers import encode_headers
from agent.core.epochs import History
from agent.core.memory import Memory
from agent.core.reading import Reading, Record, RecordKind, SocketMark, State, VmId

NOW_MS = 1_795_400_000_000


def record(
    n: int, kind: RecordKind = RecordKind.SAMPLE, *, size_bytes: int = 100, at_ms: int = NOW_MS
) -> Record:
    # Random bytes, which no compression makes smaller.
    return Record(
        kind,
        f"id-{n}",
        "vm-1",
        at_ms,
        encode_headers([("ce_id", b"\xff\x00")]),
        random.Random(n).randbytes(size_bytes),
    )


def memory(path: str = "/run/vm/a.qmp", *, sequence: int = 1) -> Memory:
    reading = Reading(1_795_400_000 + sequence, {"free_memory": 1}, frozenset({"disk_caches"}))
    history = History("epoch-1", reading.last_update_s, 1_795_400_000, sequence, last=reading)
    return Memory(path, SocketMark(1, 2, 3), VmId("vm-1"), history, 99, State.REPORTING)
