"""Run many monitors in one process, on sockets that stay. They misbehave, or have no balloon driver.

`python -m tests.lab.crowd FOLDER COUNT`: `peer-0.qmp` and so on, until it is killed.
"""

import asyncio
import json
import resource
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.hostile import GREETING, plausible
from tests.lab.process import kill, start, wait_until

KINDS = ("waits", "silent", "waits", "hangs-up", "waits", "half", "waits", "full")
"""The kinds, in turn by number. `waits` answers as a VM without a balloon driver and keeps its connection,
`silent` sends nothing, `hangs-up` closes each connection, `half` sends half a greeting, and `full` accepts no
connection, so its queue fills up."""

NO_UPDATE = '{"return": {"stats": {}, "last-update": 0}, "id": %s}\r\n'


@contextmanager
def crowd(folder: Path, count: int) -> Generator[list[Path]]:
    """Run `count` peers until the block ends, then remove their sockets. Yield the paths of the sockets."""
    paths = [folder / f"peer-{number}.qmp" for number in range(count)]
    log = folder / "crowd.log"
    process = start(
        [sys.executable, "-m", "tests.lab.crowd", folder, str(count)], log, cwd=Path(__file__).parents[2]
    )
    try:
        wait_until(lambda: "listening" in log.read_text(), "crowd", process, log, 120)
        yield paths
    finally:
        kill(process)
        for path in paths:
            path.unlink(missing_ok=True)


async def _talk(kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ValueError):
        if kind == "waits":
            writer.write(GREETING.encode())
        elif kind == "half":
            writer.write(GREETING.encode()[:40])
        while kind != "hangs-up" and (request := await reader.read(65_536)):
            if kind == "waits":
                writer.write(_answer(json.loads(request)))
    writer.close()


def _answer(request: dict[str, object]) -> bytes:
    if request["execute"] == "qmp_capabilities":
        return json.dumps({"return": {}, "id": request.get("id")}).encode() + b"\r\n"
    return (plausible(request) or NO_UPDATE % json.dumps(request.get("id"))).encode()


async def _serve(folder: Path, count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    listeners: list[socket.socket] = []
    servers: list[asyncio.Server] = []
    for number in range(count):
        kind, listener = KINDS[number % len(KINDS)], socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / f"peer-{number}.qmp"))
        if kind == "full":
            listener.listen(0)
            listeners.append(listener)
            continue
        servers.append(
            await asyncio.start_unix_server(
                lambda reader, writer, kind=kind: _talk(kind, reader, writer), sock=listener
            )
        )
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
