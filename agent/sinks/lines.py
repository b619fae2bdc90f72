"""Writes records as JSON lines to standard output: the sink of `barograph run` if no other is configured."""

import os
import select
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.lowlevel

from agent.core.reading import Record
from agent.errors import OutputClosed, SinkUnavailable
from agent.sinks.record_sink import Receipt
from agent.threads import Call, WorkerThread

# A pipe that polls as writable accepts this much without blocking: pipe(7), PIPE_BUF.
_CHUNK_BYTES = 4096
# How long a thread waits for a reader that has stopped reading. It delays a cancellation.
_PATIENCE_MS = 100
# Only a write that hangs takes as long, as to a file on a disk that does not answer.
_PIECE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The output, and its timeout."""

    descriptor: int = 1  # standard output; the sink never closes it
    write_timeout_s: float = 5.0  # without any byte read by the reader


@dataclass(frozen=True, slots=True)
class _Late:
    """A write that had not ended in time, and the batch that it is part of."""

    call: Call[int]
    records: list[Record]
    lines: list[bytes]
    cut_bytes: int
    done_bytes: int  # before this write


class LinesSink:
    """Writes each record's value and a newline."""

    name = "lines"
    problem: str | None = None  # `send` fails early enough
    batch_bytes_max = 256 * 1024
    batch_records_max = 500

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._written: set[str] = set()  # ids of a batch that failed in part: not written again
        self._cut = b""  # the rest of a line that was written in part
        self._thread: WorkerThread | None = None  # kept: to start one costs more than a write
        self._late: _Late | None = None

    async def send(self, records: Sequence[Record]) -> Receipt:
        """Write one line for each record.

        Raises:
            SinkUnavailable: the reader does not read, or the disk is full.
            OutputClosed: the reader has closed the pipe.
        """
        await self._settle()
        left = [record for record in records if record.id not in self._written]
        lines = [record.value + b"\n" for record in left]
        self._written.intersection_update(record.id for record in records)
        data = memoryview(self._cut + b"".join(lines))
        cut_bytes, done_bytes = len(self._cut), 0
        try:
            deadline_s = anyio.current_time() + self._settings.write_timeout_s
            while done_bytes < len(data):
                await anyio.lowlevel.checkpoint()  # where a cancellation takes effect
                call = self._begin(data[done_bytes:])
                self._late = _Late(call, left, lines, cut_bytes, done_bytes)
                piece_bytes = await self._end(self._late)
                done_bytes += piece_bytes
                if piece_bytes:
                    deadline_s = anyio.current_time() + self._settings.write_timeout_s
                elif anyio.current_time() >= deadline_s:
                    raise TimeoutError
        except (BrokenPipeError, ConnectionResetError) as error:
            raise OutputClosed("standard output: closed by the reader") from error
        except TimeoutError as error:
            limit = f"{self._settings.write_timeout_s:g} s"
            message = f"standard output: nothing read for {limit}; check the program that reads it"
            raise SinkUnavailable(message) from error
        except OSError as error:
            raise SinkUnavailable(f"standard output: {error.strerror}") from error
        finally:
            if self._late is None:
                self._remember(left, lines, cut_bytes, done_bytes)
        self._written.clear()
        return Receipt()

    def _begin(self, data: memoryview) -> Call[int]:
        # In pieces: a thread cannot be canceled, and what it writes must be known.
        if self._thread is None:
            self._thread = WorkerThread("standard output")
        return self._thread.submit(partial(_write_some, self._settings.descriptor, data))

    async def _end(self, late: _Late) -> int:
        """Wait for a write; return the number of bytes.

        Raises:
            SinkUnavailable: it does not end in time. What it writes is taken in by the next `send`.
        """
        with anyio.move_on_after(_PIECE_TIMEOUT_S, shield=True):
            await late.call.done.wait()
        if not late.call.done.is_set():
            raise SinkUnavailable(
                "standard output: a write does not end; check the program that reads it, or the disk"
            )
        self._late = None
        return late.call.outcome()

    async def _settle(self) -> None:
        """Take in what the late write has written, which must not be written again."""
        late = self._late
        if late is None:
            return
        try:
            piece_bytes = await self._end(late)
        except OSError:
            piece_bytes = 0  # the next write tells the reason
        self._remember(late.records, late.lines, late.cut_bytes, late.done_bytes + piece_bytes)

    async def aclose(self) -> None:
        """End the thread. Standard output stays open."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()

    def _remember(self, left: list[Record], lines: list[bytes], cut_bytes: int, done_bytes: int) -> None:
        """Remember a line written in part: its rest is written first, and no line is written twice."""
        self._cut = self._cut[min(cut_bytes, done_bytes) :]
        at = cut_bytes
        for record, line in zip(left, lines, strict=True):
            if done_bytes <= at:
                return
            self._written.add(record.id)
            self._cut = line[done_bytes - at :]
            at += len(line)


def _write_some(descriptor: int, data: memoryview) -> int:
    """Write as much of `data` as the reader accepts without a pause; return the number of bytes."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    done = 0
    while done < len(data) and poll.poll(0 if done else _PATIENCE_MS):
        try:
            done += os.write(descriptor, data[done : done + _CHUNK_BYTES])
        except BlockingIOError:  # the descriptor is non-blocking, and the pipe has less room than polled
            break
        except OSError:
            if done:
                break  # report the bytes written; the error will occur again
            raise
    return done
