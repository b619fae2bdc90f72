"""Small records for tests."""

from agent.contract.headers import encode_headers
from agent.core.reading import Record, RecordKind


def record(
    n: int,
    *,
    key: str = "vm-1",
    kind: RecordKind = RecordKind.SAMPLE,
    size_bytes: int = 0,
    timestamp_ms: int = 1_795_404_000_000,
) -> Record:
    """Return the n-th record. Its number is in its id and its value."""
    value = f'{{"n":{n}}}'.encode()
    return Record(
        kind=kind,
        id=f"id-{n}",
        key=key,
        timestamp_ms=timestamp_ms,
        headers=encode_headers([("ce_id", f"id-{n}".encode())]),
        value=value + b" " * (size_bytes - len(value)),
    )
