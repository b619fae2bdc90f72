"""Tests that every record sink must pass. The tests of a sink subclass them and provide a `peer`."""

import time
from typing import Protocol

import anyio
import pytest

from agent.errors import SinkUnavailable
from agent.sinks.record_sink import Receipt, RecordSink
from tests.unit.sinks.records import record

PATIENCE_S = 2.0
"""The deadline of the sink that a peer makes."""


class Peer(Protocol):
    """The real destination of a sink, which can be made to accept nothing."""

    def sink(self) -> RecordSink:
        """Return a new sink with a deadline of `PATIENCE_S`."""
        ...

    def stall(self) -> None:
        """Accept nothing from now on."""
        ...

    def resume(self) -> None:
        """Accept everything again."""
        ...

    async def values(self, count: int) -> list[bytes]:
        """Return the values that have arrived, `count` or all there are, without trailing blanks."""
        ...


class SinkContract:
    """The tests. Each sink runs them with its real peer."""

    async def test_an_accepted_batch_arrives_once_and_in_order(self, peer: Peer) -> None:
        sink = peer.sink()
        batch = [record(n) for n in range(100)]

        receipts = [await sink.send(batch[:60]), await sink.send(batch[60:])]
        await sink.aclose()

        assert receipts == [Receipt(), Receipt()]
        assert await peer.values(100) == [each.value for each in batch]

    async def test_a_peer_that_accepts_nothing_is_unavailable_within_the_deadline(self, peer: Peer) -> None:
        sink = peer.sink()
        peer.stall()
        began_s = time.monotonic()

        with pytest.raises(SinkUnavailable):
            await sink.send([record(n, size_bytes=100_000) for n in range(4)])

        assert time.monotonic() - began_s < PATIENCE_S + 15  # the peer would be silent for a minute
        await sink.aclose()

    async def test_after_a_failure_the_same_batch_arrives_in_order(self, peer: Peer) -> None:
        sink = peer.sink()
        batch = [record(n, size_bytes=100_000) for n in range(4)]
        peer.stall()
        with pytest.raises(SinkUnavailable):
            await sink.send(batch)
        peer.resume()

        receipt = await sink.send(batch)
        await sink.aclose()

        assert receipt == Receipt()
        assert await peer.values(4) == [record(n).value for n in range(4)]

    async def test_cancelling_a_send_leaves_the_sink_usable(self, peer: Peer) -> None:
        sink = peer.sink()
        batch = [record(n, size_bytes=100_000) for n in range(4)]
        peer.stall()
        with anyio.move_on_after(0.3) as scope:
            await sink.send(batch)
        assert scope.cancelled_caught
        peer.resume()

        receipt = await sink.send(batch)
        await sink.aclose()

        assert receipt == Receipt()
        assert await peer.values(4) == [record(n).value for n in range(4)]

    async def test_aclose_does_not_hang_on_a_peer_that_accepts_nothing(self, peer: Peer) -> None:
        sink = peer.sink()
        await sink.send([record(0)])
        peer.stall()
        with anyio.move_on_after(0.2):
            await sink.send([record(n, size_bytes=100_000) for n in range(1, 4)])
        began_s = time.monotonic()

        await sink.aclose()
        await sink.aclose()

        assert time.monotonic() - began_s < 20

    async def test_aclose_works_while_being_cancelled(self, peer: Peer) -> None:
        sink = peer.sink()
        await sink.send([record(0)])

        with anyio.CancelScope() as scope:
            scope.cancel()
            await sink.aclose()

        receipt = await sink.send([record(1)])
        await sink.aclose()
        assert receipt == Receipt()
