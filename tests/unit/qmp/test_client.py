import socket
from collections.abc import Awaitable, Callable

import anyio
import pytest
from qemu.qmp import ExecInterruptedError
from qemu.qmp.message import Message

from agent.errors import QmpCommandError, QmpNotAllowed
from agent.qmp.client import MonitorClient
from tests.unit.qmp.peer import Client, serving

Attempt = Callable[[MonitorClient], Awaitable[object]]


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.setblocking(False)
    return connection


FORBIDDEN: dict[str, Attempt] = {
    "command": lambda client: client.call("quit"),
    "argument": lambda client: client.call("query-status", x=1),
    "property": lambda client: client.call("qom-set", path="/machine/x", property="realized", value=False),
}

LIBRARY: dict[str, Attempt] = {
    "execute": lambda client: client.execute("quit"),
    "out of band": lambda client: client.execute("query-status", oob=True),
    "message": lambda client: client.execute_msg(Message(b'{"execute": "quit"}')),
    "human": lambda client: client.execute("human-monitor-command", {"command-line": "quit"}),
}


@pytest.mark.parametrize("attempt", FORBIDDEN.values(), ids=FORBIDDEN.keys())
async def test_a_forbidden_command_is_not_sent_and_the_link_stays_usable(attempt: Attempt) -> None:
    seen: list[Client] = []

    async def script(peer: Client) -> None:
        seen.append(peer)
        await peer.greet()
        await peer.answer({"status": "running"})

    async with serving(script) as path:
        client = MonitorClient(path, events_per_s_max=100)
        await client.begin(connect(path))

        with pytest.raises(QmpNotAllowed):
            await attempt(client)
        answer = await client.call("query-status")
        await client.close()

    assert answer == {"status": "running"}
    assert [command["execute"] for command in seen[0].received] == ["qmp_capabilities", "query-status"]


@pytest.mark.parametrize("attempt", LIBRARY.values(), ids=LIBRARY.keys())
async def test_the_librarys_own_methods_to_send_are_subject_to_the_list_too(attempt: Attempt) -> None:
    heard: list[object] = []
    closed = anyio.Event()

    async def script(peer: Client) -> None:
        await peer.greet()
        try:
            heard.append(await peer.hear())
        finally:
            closed.set()

    async with serving(script) as path:
        client = MonitorClient(path, events_per_s_max=100)
        await client.begin(connect(path))

        with anyio.fail_after(60), pytest.raises(ExecInterruptedError):
            await attempt(client)
        await client.close()
        with anyio.fail_after(60):
            await closed.wait()

    assert heard == []


async def test_the_librarys_own_listener_keeps_nothing() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        for _ in range(100):
            await peer.say({"event": "STOP"})
        await peer.wait_closed()

    async with serving(script) as path:
        client = MonitorClient(path, events_per_s_max=1000)
        await client.begin(connect(path))

        with anyio.fail_after(60):
            for _ in range(50):
                await client.next_event()
        await client.close()

    assert client.events.history == ()
    assert client.events.empty()


async def test_closing_twice_and_before_beginning_does_nothing() -> None:
    client = MonitorClient("/nowhere", events_per_s_max=1)

    await client.close()
    await client.close()


async def test_the_text_of_a_refusal_is_bounded_and_printable() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        command = await peer.hear()
        refusal = {"class": "\x1b[2J\ud800", "desc": "no\n" * 10_000}
        await peer.say({"error": refusal, "id": command["id"]})
        await peer.wait_closed()

    async with serving(script) as path:
        client = MonitorClient(path, events_per_s_max=100)
        await client.begin(connect(path))

        with pytest.raises(QmpCommandError) as caught:
            await client.call("query-status")
        await client.close()

    assert caught.value.error_class == "\ufffd[2J\ufffd"
    assert caught.value.description == "no\ufffd" * 85 + "n"
