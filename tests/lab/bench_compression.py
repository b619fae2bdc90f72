"""Compare compressions of samples: bytes on the wire and CPU, by the number of records in a batch.

`python -m tests.lab.bench_compression`. The batches are those of the sink: aiokafka's builder, with the
records, keys and headers that the agent sends. The CPU time is that of this process. The last three lines are
levels of gzip that the client library does not use; no setting selects them.
"""

# aiokafka declares no types.

import time
import zlib
from collections.abc import Callable, Sequence

from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from agent.contract.headers import decode_headers
from agent.core.reading import Record
from tests.lab.bench_kafka import backlog

BATCHES = (1, 10, 35, 200)
"""200 records fill a batch of 256 KiB; 35 are those of 100 VMs in one interval, in three partitions."""
CPU_S = 2.0
"""The CPU time measured for each line and size."""
_HEADER_BYTES = 61  # of a batch, not compressed (kafka.apache.org/documentation, record batch)

CODECS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip_encode,
    "snappy": snappy_encode,
    "lz4": lz4_encode,
    "zstd": zstd_encode,
    "(gzip, level 1)": lambda data: _gzip(data, 1),
    "(gzip, level 4)": lambda data: _gzip(data, 4),
    "(gzip, level 6)": lambda data: _gzip(data, 6),
}


def main() -> None:
    """Print the figures."""
    samples = [record for part in backlog(25_000) for record in part]
    print("compression | " + " | ".join(f"{count} records" for count in BATCHES))
    for name, encode in CODECS.items():
        cells: list[str] = []
        for count in BATCHES:
            bodies = [_body(samples[at : at + count]) for at in range(0, 20 * count, count)]
            size = sum(len(encode(body)) + _HEADER_BYTES for body in bodies) / len(bodies) / count
            cells.append(f"{size:.0f} B {_cpu_us(encode, bodies) / count:.1f} µs")
        print(f"{name} | " + " | ".join(cells))


def _body(records: Sequence[Record]) -> bytes:
    """Return the part of a batch that is compressed."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 30)
    for offset, record in enumerate(records):
        headers: list[tuple[str, bytes | None]] = [*decode_headers(record.headers)]
        builder.append(offset, record.timestamp_ms, record.key.encode(), record.value, headers)
    return bytes(builder.build())[_HEADER_BYTES:]


def _cpu_us(encode: Callable[[bytes], bytes], bodies: Sequence[bytes]) -> float:
    """Return the CPU time for a batch, in microseconds."""
    began_s, batches = time.process_time(), 0
    while (spent_s := time.process_time() - began_s) < CPU_S:
        for body in bodies:
            encode(body)
        batches += len(bodies)
    return spent_s / batches * 1e6


def _gzip(data: bytes, level: int) -> bytes:
    return zlib.compress(data, level, wbits=31)


if __name__ == "__main__":
    main()
