"""Processes a bundle of records in one call from Java.

JobOperator.java writes a request and reads the answer. Numbers are big-endian and have 4 bytes, times 8. An
array of bytes has its length in front; -1: there is none.

A request has for each record or timer: the number of its key in the bundle; if the number is new, the key and
the state that is kept for it; then the frame of the record, or none for a timer.

An answer has:

- what each counter counts, and the number of keys of each level;
- the number of states, and for each the number of its key and the bytes;
- the number of timers, and for each the number of its key and the time;
- the number of records, and for each its topic, key, value, the number of headers, and their names and
  values;
- the number of messages to the second step, and for each its key and value.

The second step of a job has no counters and no levels, and its frames are the values of those messages.
"""

from struct import Struct, unpack_from

from barograph_streams.core.documents import Outcome
from barograph_streams.core.jobs import COUNTED, JOBS, process
from barograph_streams.core.records import Record
from barograph_streams.core.standing import Standing
from barograph_streams.core.steps import Sent

_INT = Struct(">i")
_TIMER = Struct(">iq")
_PLACES = {outcome: place for place, outcome in enumerate(Outcome)}
_LOST, _FOUND = len(COUNTED), len(COUNTED) + 1


class Bundles:
    """The bundles of one task of a job, or of its second step."""

    def __init__(self, name: str, *, by_host: bool = False) -> None:
        self._job = JOBS[name]
        self._by_host = self._job.by_host if by_host else None
        self._standing = Standing()

    def outcomes(self) -> str:
        """Return the names of the counters of records, in their order, separated by commas."""
        return "" if self._by_host else ",".join(COUNTED)

    def losses(self) -> str:
        """Return the names of the counters of lost samples, in their order, separated by commas."""
        return "" if self._by_host else "lost,found"

    def levels(self) -> str:
        """Return the levels that keys are counted by, in their order, separated by commas."""
        return "" if self._by_host else ",".join(self._job.levels)

    def process(self, request: bytes, now_ms: int) -> bytes:
        """Return what a bundle changes.

        Args:
            request: the bundle.
            now_ms: by the job's clock, in Unix milliseconds.
        """
        job, by_host, read = self._job, self._by_host, _INT.unpack_from
        on_timer = (by_host or job.steps).on_timer
        keys: list[str] = []
        kept: list[bytes | None] = []
        changed: dict[int, bytes] = {}
        counts = [0] * (len(COUNTED) + 2)
        timers: list[bytes] = []
        records: list[Record] = []
        sent: list[Sent] = []
        place, end = 0, len(request)
        while place < end:
            number, size = unpack_from(">ii", request, place)
            if number == len(keys):
                place += 8
                keys.append(request[place : place + size].decode())
                place += size
                (size,) = read(request, place)
                place += 4
                kept.append(request[place : place + size] if size >= 0 else None)
                place += max(size, 0)
                (size,) = read(request, place)
                place += 4
            else:
                place += 8
            if size >= 0 and by_host is not None:
                step = by_host.step(kept[number], keys[number], request[place : place + size], now_ms)
                due = step.records
                place += size
            elif size >= 0:
                frame = request[place : place + size]
                place += size
                step, due = process(job, kept[number], keys[number], frame, now_ms)
                counts[_PLACES[step.outcome]] += 1
                if step.lost:
                    counts[_LOST if step.lost > 0 else _FOUND] += abs(step.lost)
            else:
                step = on_timer(kept[number], keys[number], now_ms)
                due = step.records
            if step.state is not None:
                changed[number] = kept[number] = step.state
            if step.timer_ms is not None:
                timers.append(_TIMER.pack(number, step.timer_ms))
            records += due
            sent += step.sent
        if by_host is not None:
            return _answer([], changed, timers, records, sent)
        for record in records:
            if record.level:
                self._standing.note(record.key, record.level, now_ms)
        counts += (self._standing.count(level, now_ms) for level in job.levels)
        return _answer(counts, changed, timers, records, sent)


def _answer(
    counts: list[int], changed: dict[int, bytes], timers: list[bytes], records: list[Record], sent: list[Sent]
) -> bytes:
    parts = [*map(_INT.pack, counts), _INT.pack(len(changed))]
    for number, state in changed.items():
        parts += _INT.pack(number), _INT.pack(len(state)), state
    parts += _INT.pack(len(timers)), *timers, _INT.pack(len(records))
    for record in records:
        texts = [each.encode() for header in record.headers.items() for each in header]
        for part in (record.topic.encode(), record.key, record.value):
            parts += _INT.pack(len(part)), part
        parts.append(_INT.pack(len(record.headers)))
        for part in texts:
            parts += _INT.pack(len(part)), part
    parts.append(_INT.pack(len(sent)))
    for each in sent:
        for part in (each.key.encode(), each.value):
            parts += _INT.pack(len(part)), part
    return b"".join(parts)
