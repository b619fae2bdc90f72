"""Tests of opening a link to a scripted peer, and of giving up."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from agent.core.events import MonitorEvent, MonitorEventKind
from agent.errors import LinkFault, QmpUnreachable
from agent.qmp.link import Link, Settings, open_link
from agent.qmp.openings import PATIENCE_S, Openings
from tests.unit.qmp.peer import GREETING, IMPATIENT, SETTINGS, Client, Script, serving

Ask = Callable[[Link], Awaitable[object]]


def openings() -> Openings:
    return Openings(32)


async def opening_fault(script: Script, settings: Settings = SETTINGS) -> LinkFault:
    async with serving(script) as path:
        with pytest.raises(QmpUnreachable) as caught:
            async with open_link(path, settings, openings()):
                raise AssertionError("opened")
    assert caught.value.path == path
    assert caught.value.detail
    return caught.value.fault


# --- opening ---


async def test_a_link_negotiates_without_asking_for_anything() -> None:
    seen: list[Client] = []

    async def script(peer: Client) -> None:
        seen.append(peer)
        await peer.greet()
        await peer.wait_closed()

    async with serving(script) as path, open_link(path, SETTINGS, openings()):
        pass

    assert seen[0].received == [{"execute": "qmp_capabilities"}]


@pytest.mark.parametrize("cut", range(1, len(GREETING)))
async def test_a_greeting_cut_anywhere_is_the_same_greeting(cut: int) -> None:
    async def script(peer: Client) -> None:
        await peer.send(GREETING[:cut])
        await anyio.wait_all_tasks_blocked()
        await peer.send(GREETING[cut:])
        await peer.answer({})
        await peer.answer({"status": "running"})
        await peer.wait_closed()

    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with anyio.fail_after(60):
            assert await link.read_run_state() == "running"


async def test_events_before_and_during_the_negotiation_are_received() -> None:
    async def script(peer: Client) -> None:
        await peer.say({"event": "STOP", "data": {"n": 1}})
        await peer.send(GREETING)
        await peer.say({"event": "RESUME", "data": {"n": 2}})
        await peer.hear()
        await peer.say({"event": "RESET", "data": {"n": 3}})
        await peer.say({"event": "BLOCK_JOB_READY"})
        await peer.say({"return": {}})
        await peer.say({"event": "SHUTDOWN"})
        await peer.wait_closed()

    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with anyio.fail_after(60):
            heard = [await link.next_event() for _ in range(4)]

    kinds = (
        MonitorEventKind.STOP,
        MonitorEventKind.RESUME,
        MonitorEventKind.RESET,
        MonitorEventKind.SHUTDOWN,
    )
    assert heard == [MonitorEvent(kind) for kind in kinds]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"", LinkFault.HUNG_UP),
        (GREETING[:40], LinkFault.HUNG_UP),
        (GREETING, LinkFault.HUNG_UP),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", LinkFault.NOT_QMP),
        (b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", LinkFault.NOT_QMP),
        (b"\n", LinkFault.HUNG_UP),
        (b"HTTP/1.1 400 Bad Request\r\nServer: Firecracker API\r\n", LinkFault.NOT_QMP),
        (b"[]\n", LinkFault.NOT_QMP),
        (b"{}\n", LinkFault.NOT_QMP),
        (b'{"QMP": 1}\n', LinkFault.NOT_QMP),
        (b'{"QMP": {"version": 1, "capabilities": []}}\n', LinkFault.NOT_QMP),
        (b'{"QMP": {"version": {}, "capabilities": 1}}\n', LinkFault.NOT_QMP),
        (b"\xff\xfe\xfd\n", LinkFault.NOT_QMP),
        (b"x" * 200_000, LinkFault.NOT_QMP),
        (b"[" * 60_000 + b"\n", LinkFault.NOT_QMP),
        (GREETING + b"garbage\n", LinkFault.PROTOCOL),
        (GREETING + b"{}\n", LinkFault.PROTOCOL),
        (GREETING + b'{"error": {"class": "CommandNotFound", "desc": "no"}}\n', LinkFault.PROTOCOL),
        (GREETING + b"x" * 200_000, LinkFault.PROTOCOL),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_each_invalid_opening_of_a_link_is_reported_with_its_fault(
    said: bytes, fault: LinkFault
) -> None:
    async def script(peer: Client) -> None:
        if said:
            await peer.send(said)

    assert await opening_fault(script) is fault


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"", LinkFault.SILENT),
        (GREETING[:40], LinkFault.SILENT),
        (GREETING[:-3], LinkFault.SILENT),
        (GREETING, LinkFault.NO_ANSWER),
    ],
    ids=["nothing", "half a greeting", "all but the end", "greeting"],
)
async def test_a_silent_peer_is_given_up_at_the_deadline_and_its_connection_closed(
    said: bytes, fault: LinkFault
) -> None:
    closed = anyio.Event()

    async def script(peer: Client) -> None:
        if said:
            await peer.send(said)
        await peer.wait_closed()
        closed.set()

    async with serving(script) as path:
        with anyio.fail_after(60):
            with pytest.raises(QmpUnreachable) as caught:
                async with open_link(path, IMPATIENT, openings()):
                    raise AssertionError("opened")
            await closed.wait()

    assert caught.value.fault is fault


@pytest.mark.parametrize("said", [b"", GREETING[:40], GREETING], ids=["silent", "half", "greeted"])
async def test_canceling_an_opening_closes_the_connection(said: bytes) -> None:
    reached, closed = anyio.Event(), anyio.Event()

    async def script(peer: Client) -> None:
        if said:
            await peer.send(said)
        if said == GREETING:
            await peer.hear()
        reached.set()
        await peer.wait_closed()
        closed.set()

    async def open_and_hold(path: str) -> None:
        async with open_link(path, SETTINGS, openings()):
            raise AssertionError("opened")

    async with serving(script) as path:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(open_and_hold, path)
                await reached.wait()
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            await closed.wait()


async def test_an_opening_canceled_at_any_step_leaves_no_task_and_no_error() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.wait_closed()

    async def open_and_leave(path: str) -> None:
        async with open_link(path, SETTINGS, openings()):
            opened.append(path)

    async def library_tasks() -> set[str]:
        names = (str(task.get_coro()) for task in asyncio.all_tasks())
        return {name for name in names if "AsyncProtocol" in name or "_bh_" in name}

    opened: list[str] = []
    async with serving(script) as path:
        for steps in range(150):
            async with anyio.create_task_group() as group:
                group.start_soon(open_and_leave, path)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            assert await library_tasks() == set()
        # The thread that connects may need longer on a busy machine.
        with anyio.fail_after(60):
            while not opened:
                async with anyio.create_task_group() as group:
                    group.start_soon(open_and_leave, path)
                    await anyio.sleep(0.1)
                    group.cancel_scope.cancel()
        assert await library_tasks() == set()
    gc.collect()

    assert complaints == []


async def test_links_being_opened_are_bounded_and_open_ones_are_not_counted() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.wait_closed()

    limiter = Openings(1)
    async with serving(script) as path:
        async with (
            open_link(path, SETTINGS, limiter),
            open_link(path, SETTINGS, limiter),
            limiter.turn(1000),
        ):
            with anyio.move_on_after(PATIENCE_S / 5) as scope:
                async with open_link(path, SETTINGS, limiter):
                    raise AssertionError("opened")
            assert scope.cancelled_caught

        with anyio.fail_after(60):
            async with open_link(path, SETTINGS, limiter):
                pass


@pytest.mark.parametrize("greets", [False, True], ids=["silent", "greets only"])
async def test_peers_that_do_not_answer_do_not_delay_another(greets: bool) -> None:
    """40 of them open one at a time with a deadline of 5 s. Another waits at most 50 ms for each of them."""

    async def stuck(peer: Client) -> None:
        if greets:
            await peer.send(GREETING)
        await peer.wait_closed()

    async def free(peer: Client) -> None:
        await peer.greet()
        await peer.wait_closed()

    async def give_up(path: str) -> None:
        with pytest.raises(QmpUnreachable):
            async with open_link(path, SETTINGS, limiter):
                raise AssertionError("opened")

    limiter = Openings(1)
    async with serving(stuck) as stuck_path, serving(free) as path, anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(give_up, stuck_path)
        await anyio.lowlevel.checkpoint()
        with anyio.fail_after(60):  # 40 deadlines would be 200 s
            async with open_link(path, SETTINGS, limiter):
                pass
        group.cancel_scope.cancel()


async def test_many_peers_of_one_owner_do_not_delay_those_of_another_owner() -> None:
    """1,000 of them, one after the other, take 50 s."""

    async def free(peer: Client) -> None:
        await peer.greet()
        await peer.wait_closed()

    async def wait(number: int) -> None:
        async with limiter.turn(1000):
            waited.append(number)
            await anyio.sleep(60)

    limiter, waited = Openings(1), list[int]()
    async with serving(free) as path, anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(wait, number)
        await anyio.lowlevel.checkpoint()
        with anyio.fail_after(60):
            async with open_link(path, SETTINGS, limiter, owner=1001):
                pass
        group.cancel_scope.cancel()
    assert 0 < len(waited) < 500
    async with limiter.turn(1000):  # those that were canceled while they waited have released their turns
        pass


async def test_the_connection_is_closed_when_the_block_fails() -> None:
    closed = anyio.Event()

    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.wait_closed()
        closed.set()

    async with serving(script) as path:
        with pytest.raises(ZeroDivisionError):
            async with open_link(path, SETTINGS, openings()):
                raise ZeroDivisionError
        with anyio.fail_after(60):
            await closed.wait()
