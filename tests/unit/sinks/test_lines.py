import os
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent.errors import OutputClosed, SinkUnavailable
from agent.sinks.lines import LinesSink, Settings
from tests.unit.sinks.records import record
from tests.unit.sinks.sink_contract import PATIENCE_S, SinkContract


class PipePeer:
    """A reader at the other end of a pipe."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._wanted = threading.Event()
        self._wanted.set()
        self._lines = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def sink(self) -> LinesSink:
        return LinesSink(Settings(descriptor=self._write_end, write_timeout_s=PATIENCE_S))

    def stall(self) -> None:
        self._wanted.clear()

    def resume(self) -> None:
        self._wanted.set()

    async def values(self, count: int) -> list[bytes]:
        await anyio.to_thread.run_sync(self.close)
        lines = bytes(self._lines).split(b"\n")
        assert lines.pop() == b""
        return [line.rstrip() for line in lines]

    def close(self) -> None:
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1
        self._wanted.set()
        self._reader.join()

    def _read(self) -> None:
        while True:
            self._wanted.wait()
            piece = os.read(self._read_end, 65536)
            if not piece:
                break
            self._lines += piece
        os.close(self._read_end)


@pytest.fixture
def peer() -> Iterator[PipePeer]:
    pipe = PipePeer()
    yield pipe
    pipe.close()


class TestLinesSink(SinkContract):
    pass


async def test_a_line_written_in_part_is_finished_first(peer: PipePeer) -> None:
    sink = peer.sink()
    peer.stall()
    with pytest.raises(SinkUnavailable):
        await sink.send([record(0, size_bytes=300_000)])
    peer.resume()

    await sink.send([record(1)])  # record 0 is not sent again, as if its queue had dropped it

    assert await peer.values(2) == [record(0).value, record(1).value]


async def test_a_slow_reader_is_not_unavailable() -> None:
    read_end, write_end = os.pipe()
    sink = LinesSink(Settings(descriptor=write_end, write_timeout_s=3.0))
    left_bytes = 4 * 100_001

    async with anyio.create_task_group() as group:
        group.start_soon(sink.send, [record(n, size_bytes=100_000) for n in range(4)])
        while left_bytes:
            await anyio.sleep(0.5)  # in all longer than the timeout, but each well within it
            left_bytes -= len(await anyio.to_thread.run_sync(os.read, read_end, 65536))

    os.close(read_end)
    os.close(write_end)


async def test_what_a_late_write_has_written_is_not_written_again(
    peer: PipePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sinks.lines._CHUNK_BYTES", 1 << 20)  # more than a pipe holds: a write blocks
    sink = peer.sink()
    records = [record(n, size_bytes=100_000) for n in range(4)]
    peer.stall()
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match="a write does not end"):
            await sink.send(records[:3])
    peer.resume()

    await sink.send(records)
    await sink.aclose()

    assert await peer.values(4) == [each.value.rstrip() for each in records]


async def test_a_reader_that_closes_the_pipe_closes_the_output() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    sink = LinesSink(Settings(descriptor=write_end))

    with pytest.raises(OutputClosed):
        await sink.send([record(0)])

    os.close(write_end)


async def test_a_full_disk_is_unavailable() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    sink = LinesSink(Settings(descriptor=full))

    with pytest.raises(SinkUnavailable, match="No space left"):
        await sink.send([record(0)])

    os.close(full)


async def test_lines_are_written_to_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        await LinesSink(Settings(descriptor=file.fileno())).send([record(0), record(1)])

    assert (tmp_path / "out").read_bytes() == b'{"n":0}\n{"n":1}\n'


def writers() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "standard output"}


async def test_one_thread_writes_all_batches_and_ends_with_the_sink(peer: PipePeer) -> None:
    before = writers()
    sink = peer.sink()
    await sink.send([record(0)])
    [writer] = writers() - before

    await sink.send([record(1)])

    assert writers() - before == {writer}
    await sink.aclose()
    await anyio.to_thread.run_sync(writer.join, 60)
    assert not writer.is_alive()


async def test_a_write_that_hangs_holds_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sinks.lines._CHUNK_BYTES", 1 << 20)  # more than the pipe takes: it blocks
    before = writers()
    read_end, write_end = os.pipe()
    sink = LinesSink(Settings(descriptor=write_end))
    line = record(0, size_bytes=200_000)

    for _ in range(3):
        with pytest.raises(SinkUnavailable, match="does not end"):
            await sink.send([line])

    [writer] = writers() - before
    await sink.aclose()
    with os.fdopen(read_end, "rb") as reader:
        written = await anyio.to_thread.run_sync(reader.read, len(line.value) + 1)
        await anyio.to_thread.run_sync(writer.join, 60)
        os.close(write_end)
        written += reader.read()
    assert written == line.value + b"\n"
