"""Spools with real samples and dead letters, for the tests of the code that reads them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.contract.encode import Mode, encode_sample, encode_state
from agent.core.reading import EpochEnd, Record, VmId, VmIdentity
from agent.spool.record_queue import DeadLetter
from agent.spool.store import Bounds, Change, open_store
from tests.unit.contract.test_encode import AGENT, SAMPLE, STATE
from tests.unit.spool.making import NOW_MS


def sample(
    sequence: int,
    *,
    vm: str = "vm-1",
    epoch: str = "epoch-1",
    previous: EpochEnd | None = None,
    at_ms: int = NOW_MS,
    mode: Mode = Mode.BINARY,
) -> Record:
    value = replace(
        SAMPLE,
        vm=VmIdentity(VmId(vm), "uuid", vm, None),
        epoch=epoch,
        sequence=sequence,
        previous=previous,
        last_update_s=1_795_400_000 + sequence,
        observed_at_ms=at_ms,
    )
    return encode_sample(value, AGENT, mode)


def state() -> Record:
    return encode_state(STATE, AGENT, Mode.BINARY)


def refused(
    record: Record, reason: str = "too_large", detail: str = "over the limit", at_ms: int = NOW_MS
) -> DeadLetter:
    return DeadLetter(record, reason, detail, at_ms)


def fill(path: Path, records: Sequence[Record] = (), letters: Sequence[DeadLetter] = ()) -> None:
    store = open_store(path, Bounds())
    store.commit(Change(now_ms=NOW_MS, records=list(enumerate(records, 1)), refused=letters))
    store.close()


def waiting(path: Path) -> list[Record]:
    """Return the records that an agent would send, samples first."""
    store = open_store(path, Bounds())
    try:
        return [
            record
            for queue in ("samples", "states", "memory")
            for _, record in store.read(queue, after=0, size_bytes_max=1 << 30)  # pyrefly: ignore[bad-argument-type]
        ]
    finally:
        store.close()
