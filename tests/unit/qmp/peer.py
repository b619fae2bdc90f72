"""A scripted QMP server on a Unix socket, for what a real QEMU does not do on demand."""

import json
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import SocketStream

from agent.contract.decode import BadAnswer
from agent.core.reading import Reading
from agent.errors import QmpCommandError
from agent.qmp.link import Link, Settings

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"},'
    b' "capabilities": ["oob"]}}\r\n'
)
BALLOON = "/machine/peripheral/balloon0"

SETTINGS = Settings(greeting_timeout_s=5.0, events_per_s_max=100_000)
IMPATIENT = Settings(greeting_timeout_s=0.1)


async def read_stats(link: Link, balloon_path: str = BALLOON) -> Reading | BadAnswer:
    """Return the answer to one reading.

    Raises:
        QmpCommandError: the reading was refused.
    """
    answered = anyio.Event()
    answers: list[Reading | BadAnswer | QmpCommandError] = []

    def take(answer: Reading | BadAnswer | QmpCommandError) -> None:
        answers.append(answer)
        answered.set()

    link.read_stats(balloon_path, take)
    with anyio.fail_after(60):
        await answered.wait()
    if isinstance(answers[0], QmpCommandError):
        raise answers[0]
    return answers[0]


class Client:
    """The server's side of the connection of one client."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._unread = ""
        self.received: list[dict[str, Any]] = []

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        await self._stream.send(data)

    async def say(self, message: object) -> None:
        """Send one message."""
        await self.send(json.dumps(message).encode() + b"\r\n")

    async def hear(self) -> dict[str, Any]:
        """Return the next command. The library ends no command with a newline."""
        while True:
            try:
                message, end = json.JSONDecoder().raw_decode(self._unread)
            except json.JSONDecodeError:
                self._unread += (await self._stream.receive()).decode()
                continue
            self._unread = self._unread[end:]
            self.received.append(message)
            return message

    async def answer(self, value: object) -> dict[str, Any]:
        """Receive a command, and answer it with `value`."""
        command = await self.hear()
        await self.say({"return": value, "id": command["id"]} if "id" in command else {"return": value})
        return command

    async def greet(self) -> None:
        """Send the greeting, and accept `qmp_capabilities`. Afterwards the client may send commands."""
        await self.send(GREETING)
        await self.answer({})

    async def wait_closed(self) -> None:
        """Wait until the client has closed its end."""
        try:
            while True:
                await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


Script = Callable[[Client], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script) -> AsyncGenerator[str, None]:
    """Run `script` for each client, and then close the connection. Yield the socket's path."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            try:
                await script(Client(stream))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return  # the client left in the middle of the script

    with tempfile.TemporaryDirectory(prefix="barograph-") as directory:
        path = Path(directory) / "qmp.sock"
        async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, handle, name="peer")
            yield str(path)
            group.cancel_scope.cancel()
