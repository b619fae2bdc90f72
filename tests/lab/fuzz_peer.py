"""Monitors for the fuzz test, on sockets in one folder: many hostile ones, or healthy ones with known values.

`python -m tests.lab.fuzz_peer hostile FOLDER COUNT SEED REPORT` writes the report after SIGTERM.
`python -m tests.lab.fuzz_peer healthy FOLDER COUNT 0 REPORT` writes the report at its start.
"""

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from tests.lab.fuzz import TYPE, Said, Tongue, Words

HEALTHY_PERIOD_S = 1.003
"""The polling interval plus the guest's response time."""

_JUNK_EVERY_S = 0.1
_JUNK_PER_S = (0, 100, 400, 400)  # the agent disconnects at 500
_IDLE_MAX_S = 12.0  # without a command: the agent has given up this socket for now


def healthy_uuid(number: int) -> str:
    """Return the uuid of a healthy VM."""
    return f"ffffffff-0000-4000-8000-{number:012x}"


def healthy_statistics(update: int) -> dict[str, int]:
    """Return the statistics of an update, as in a sample."""
    return {"free_memory": (1 << 28) + update * 4096, "total_memory": 1 << 30, "major_faults": update}


class Hostile:
    """One hostile monitor. It creates its socket again whenever the agent has disconnected."""

    def __init__(self, path: Path, number: int, seed: int) -> None:
        self.path = path
        self.tongue = Tongue(seed, number, (healthy_uuid(0), "not-a-uuid", "1_2" * 16, f"{number:032x}"))
        self.chance = random.Random(f"peer {seed}/{number}")
        self.said: list[tuple[int, Said]] = []
        self.counts: Counter[str] = Counter()
        self._sent = 0  # messages on this connection
        self._sent_when_answered = 0
        self._junk_per_s = 0

    async def run(self) -> None:
        """Serve one client after another, each on a new socket."""
        while True:
            self.path.unlink(missing_ok=True)
            left = asyncio.Event()

            async def serve(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: asyncio.Event = left
            ) -> None:
                async with anyio.create_task_group() as group:
                    with contextlib.suppress(OSError, TimeoutError):
                        await self._talk(reader, writer, group)
                    group.cancel_scope.cancel()
                writer.close()
                left.set()

            server = await asyncio.start_unix_server(serve, self.path)
            async with server:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_MAX_S * 5):
                        await left.wait()
                if self.chance.random() < 0.3:  # the same socket once more
                    left.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(2):
                            await left.wait()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, group: TaskGroup
    ) -> None:
        self.tongue.begin()
        self._sent = self._sent_when_answered = 0
        self._junk_per_s = self.chance.choice(_JUNK_PER_S)
        group.start_soon(self._chatter, writer)
        if not await self._say(writer, self.tongue.greeting(), "greetings"):
            return
        async for request in Requests(reader):
            self.counts["consumed"] += self._sent_when_answered
            self._sent -= self._sent_when_answered
            self._sent_when_answered = 0
            if request["execute"] == "qmp_capabilities":
                self.counts["introduced"] += 1
            for _ in range(self.chance.choice((0, 0, 0, 1, 5))):
                await self._say(writer, self.tongue.aside(), "asides")
            if not await self._say(writer, self.tongue.answer(request), "answers"):
                return
            self._sent_when_answered = self._sent
            if self.chance.random() < 0.1:
                await self._say(writer, self.tongue.again(request), "repeated")

    async def _chatter(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                await asyncio.sleep(_JUNK_EVERY_S)
                words = [self.tongue.aside().data for _ in range(int(self._junk_per_s * _JUNK_EVERY_S))]
                if words and self._whole:
                    writer.write(b"".join(words))
                    self.counts["asides"] += len(words)
                    self._sent += len(words)
                    await writer.drain()

    _whole = True  # no message is partly sent

    async def _say(self, writer: asyncio.StreamWriter, words: Words, kind: str) -> bool:
        """Send it whole, in pieces, or byte by byte. Return whether the session continues."""
        if words.reading is not None:
            self.said.append((self.tongue.number, words.reading))
        self.counts[kind] += 1
        self._sent += 1
        data = words.data
        self._whole = False
        step = self.chance.choice((len(data), len(data), len(data), len(data) // 2 + 1, 100, 1))
        if len(data) > 3000 and step < 100:
            step = 1000
        for start in range(0, len(data), max(step, 1)):
            writer.write(data[start : start + step])
            if step < len(data):
                await asyncio.sleep(0)
        self._whole = True
        await writer.drain()
        if words.breaks:
            self.counts["broken"] += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.chance.choice((0, 0.05, 2))):
                    await asyncio.Event().wait()
        return not words.breaks


class Healthy:
    """A healthy VM, with an update every `HEALTHY_PERIOD_S` from `base_s` on."""

    def __init__(self, number: int, base_s: float) -> None:
        self.number, self.base_s = number, base_s

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        version = {"qemu": {"major": 8, "minor": 0, "micro": 0}}
        writer.write(_line({"QMP": {"version": version, "capabilities": []}}))
        async for request in Requests(reader):
            writer.write(_line({"return": self._answer(request), "id": request.get("id")}))
        writer.close()

    def _answer(self, request: dict[str, Any]) -> object:
        match request["execute"], request.get("arguments", {}).get("property"):
            case "query-uuid", _:
                return {"UUID": healthy_uuid(self.number)}
            case "query-name", _:
                return {"name": f"healthy-{self.number}"}
            case "query-status", _:
                return {"status": "running", "running": True}
            case "query-balloon", _:
                return {"actual": 1 << 30}
            case "qom-list", _:
                return [{"name": "balloon0", "type": TYPE}]
            case "qom-get", "guest-stats":
                update = int((time.time() - self.base_s) / HEALTHY_PERIOD_S)
                told = {
                    f"stat-{name.replace('_', '-')}": each
                    for name, each in healthy_statistics(update).items()
                }
                at_s = int(self.base_s + update * HEALTHY_PERIOD_S)
                return {"stats": {**told, "stat-swap-in": 2**64 - 1}, "last-update": at_s}
            case "qom-get", "deflate-on-oom":
                return False
            case "qom-get", _:
                return 1
            case _:
                return {}


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


class Requests:
    """The commands of a client that does not end them with a newline."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._text = reader, ""

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> dict[str, Any]:
        while True:
            try:
                request, end = json.JSONDecoder().raw_decode(self._text)
                self._text = self._text[end:].lstrip()
                return request
            except json.JSONDecodeError:
                async with asyncio.timeout(_IDLE_MAX_S):
                    data = await self._reader.read(65536)
                if not data:
                    raise StopAsyncIteration from None
                self._text += data.decode()


async def _serve(kind: str, folder: Path, count: int, seed: int, report: Path) -> None:
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    if kind == "healthy":
        bases_s = [time.time() - 100 + number * 0.37 for number in range(count)]
        for number, base_s in enumerate(bases_s):
            vm = Healthy(number, base_s)
            await asyncio.start_unix_server(vm.talk, folder / f"healthy-{number}.qmp")
        _write(report, bases_s)
        await done.wait()
        return
    peers = [Hostile(folder / f"hostile-{number}.qmp", number, seed) for number in range(count)]
    async with anyio.create_task_group() as group:
        for peer in peers:
            group.start_soon(peer.run)
        while not done.is_set():
            _write(report.with_suffix(".progress"), _totals(peers))
            with anyio.move_on_after(0.5):
                await done.wait()
        group.cancel_scope.cancel()
    said = [
        (number, each.last_update_s, dict(each.statistics)) for peer in peers for number, each in peer.said
    ]
    _write(report, {"counts": _totals(peers), "said": said})


def _totals(peers: list[Hostile]) -> Counter[str]:
    return sum((peer.counts for peer in peers), Counter[str]())


def _write(path: Path, document: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.replace(path)


if __name__ == "__main__":
    kind, folder, count, seed, report = sys.argv[1:]
    asyncio.run(_serve(kind, Path(folder), int(count), int(seed), Path(report)))
