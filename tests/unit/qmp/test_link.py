"""Tests of the link with a scripted peer, for what a real QEMU does not do on demand."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agent.core.events import Given, MonitorEvent, MonitorEventKind
from agent.core.reading import Peer, Reading
from agent.errors import LinkFault, QmpCommandError, QmpNotAllowed, QmpUnreachable
from agent.qmp.link import Link, Settings, open_link
from agent.qmp.openings import Openings
from agent.qmp.turns import ReadTurns
from tests.unit.qmp.peer import BALLOON, GREETING, SETTINGS, Client, Script, read_stats, serving

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


# --- asking ---


def answering(values: dict[str, object], asked: list[dict[str, Any]] | None = None) -> Script:
    """Return a script that answers by `values`, by command, property (qom-get) or path (qom-list)."""

    async def script(peer: Client) -> None:
        await peer.greet()
        while True:
            command = await peer.hear()
            if asked is not None:
                asked.append(command)
            arguments = command.get("arguments", {})
            key = arguments.get("property", arguments.get("path", command["execute"]))
            value = values.get(key, {"class": "DeviceNotFound", "desc": f"no {key}"})
            kind = "return" if key in values else "error"
            await peer.say({kind: value, "id": command["id"]})

    return script


VM: dict[str, object] = {
    "query-uuid": {"UUID": "5F0C1E4E-28A6-4F0E-9A5F-0123456789AB"},
    "query-name": {"name": "web-3"},
    "query-status": {"status": "running", "running": True},
    "/machine/peripheral": [
        {"name": "type", "type": "string"},
        {"name": "balloon0", "type": "child<virtio-balloon-pci>"},
    ],
    "/machine/peripheral-anon": [],
    "guest-stats-polling-interval": 10,
    "deflate-on-oom": False,
    "query-memory-size-summary": {"base-memory": 512 << 20, "plugged-memory": 64 << 20},
    "query-balloon": {"actual": 134217728},
    "guest-stats": {"stats": {}, "last-update": 0},
}


async def test_an_introduction_has_the_identity_and_the_state_of_the_vm() -> None:
    async with serving(answering(VM)) as path, open_link(path, SETTINGS, openings()) as link:
        introduction = await link.introduce()

    assert introduction.given == Given(512 << 20, 64 << 20, deflate_on_oom=False)
    assert introduction.uuid == "5f0c1e4e-28a6-4f0e-9a5f-0123456789ab"
    assert introduction.name == "web-3"
    assert introduction.run_state == "running"
    assert introduction.balloon_path == BALLOON
    assert introduction.interval_s == 10
    assert introduction.actual_bytes == 134217728


async def test_a_reading_is_one_round_trip() -> None:
    asked: list[dict[str, Any]] = []
    stats = {"stats": {"stat-free-memory": 4096}, "last-update": 1795404146}

    script = answering({"guest-stats": stats}, asked)
    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        answer = await read_stats(link)

    assert answer == Reading(1795404146, {"free_memory": 4096})
    assert [command["arguments"] for command in asked] == [{"path": BALLOON, "property": "guest-stats"}]


async def test_a_check_of_a_known_balloon_asks_only_for_what_may_change() -> None:
    asked: list[dict[str, Any]] = []
    async with serving(answering(VM, asked)) as path, open_link(path, SETTINGS, openings()) as link:
        check = await link.check(BALLOON)

    assert check.given == Given(512 << 20, 64 << 20)
    assert [command["execute"] for command in asked] == [
        "query-status",
        "query-memory-size-summary",
        "qom-get",
    ]


async def test_sizes_that_are_refused_or_invalid_are_unknown() -> None:
    silent = {name: value for name, value in VM.items() if name != "query-memory-size-summary"}
    odd = {**VM, "query-memory-size-summary": {"base-memory": "much"}, "deflate-on-oom": 1}
    for values in (silent, odd):
        async with serving(answering(values)) as path, open_link(path, SETTINGS, openings()) as link:
            introduction = await link.introduce()
            assert introduction.given.base_bytes is None
            assert introduction.balloon_path == BALLOON
    assert introduction.given == Given()


async def test_a_link_shows_the_process_that_listens() -> None:
    async with (
        serving(answering(VM)) as path,
        open_link(path, SETTINGS, openings(), identify=lambda pid, _: Peer(pid, 7)) as link,
    ):
        assert link.peer == Peer(os.getpid(), 7)
        assert link.owner == os.geteuid()


async def test_a_balloon_that_is_missing_or_elsewhere_is_searched_again() -> None:
    elsewhere: dict[str, object] = {
        **VM,
        "/machine/peripheral": [],
        "/machine/peripheral-anon": [{"name": "device[3]", "type": "child<virtio-balloon-pci>"}],
    }
    gone = {name: value for name, value in VM.items() if name != "guest-stats-polling-interval"}
    gone["/machine/peripheral"] = []

    async with serving(answering(elsewhere)) as path, open_link(path, SETTINGS, openings()) as link:
        assert (await link.check(None)).balloon_path == "/machine/peripheral-anon/device[3]"
    async with serving(answering(gone)) as path, open_link(path, SETTINGS, openings()) as link:
        check = await link.check(BALLOON)
        assert check.balloon_path is None
        assert check.interval_s is None
        assert check.run_state == "running"


async def test_a_balloon_unplugged_between_two_questions_is_gone() -> None:
    gone = {name: value for name, value in VM.items() if name != "guest-stats-polling-interval"}

    async with serving(answering(gone)) as path, open_link(path, SETTINGS, openings()) as link:
        check = await link.check(None)

    assert check.balloon_path is None
    assert check.interval_s is None


async def test_a_refusal_by_qemu_is_raised_and_the_link_stays_usable() -> None:
    script = answering({"query-status": {"status": "paused"}})
    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with pytest.raises(QmpCommandError) as caught:
            await link.write_interval(BALLOON, 5)
        state = await link.read_run_state()

    assert caught.value.error_class == "DeviceNotFound"
    assert caught.value.command == "qom-set"
    assert state == "paused"


@pytest.mark.parametrize("interval_s", [-1, 2**32])
async def test_an_impossible_interval_is_not_sent(interval_s: int) -> None:
    asked: list[dict[str, Any]] = []

    async with serving(answering({}, asked)) as path, open_link(path, SETTINGS, openings()) as link:
        with pytest.raises(QmpNotAllowed):
            await link.write_interval(BALLOON, interval_s)

    assert asked == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("query-uuid", {"UUID": 5}),
        ("query-name", [1]),
        ("query-status", None),
        ("/machine/peripheral", {"name": 1}),
        ("guest-stats-polling-interval", "10"),
        ("query-balloon", {"actual": "all"}),
    ],
)
async def test_an_answer_of_another_shape_ends_the_link(name: str, value: object) -> None:
    script = answering({**VM, name: value})
    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with pytest.raises(QmpUnreachable) as caught:
            await link.introduce()
        with pytest.raises(QmpUnreachable) as later:
            await link.read_run_state()

    assert caught.value.fault is later.value.fault is LinkFault.PROTOCOL


async def test_a_cancelled_call_leaves_the_link_usable_and_its_late_answer_is_dropped() -> None:
    cancelled = anyio.Event()

    async def script(peer: Client) -> None:
        await peer.greet()
        first = await peer.hear()
        await cancelled.wait()
        await peer.say({"return": {"status": "late"}, "id": first["id"]})
        await peer.answer({"status": "running"})
        await peer.wait_closed()

    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with anyio.move_on_after(0.05) as scope:
            await link.read_run_state()
        cancelled.set()

        with anyio.fail_after(60):
            assert await link.read_run_state() == "running"
        assert scope.cancelled_caught


async def test_answers_in_another_order_reach_their_callers() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        asked = [await peer.hear(), await peer.hear()]
        for command in reversed(asked):
            value = {"status": "running"} if command["execute"] == "query-status" else {"actual": 7}
            await peer.say({"return": value, "id": command["id"]})
        await peer.wait_closed()

    answers: dict[str, object] = {}

    async def ask(name: str, question: Callable[[], Awaitable[object]]) -> None:
        answers[name] = await question()

    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(ask, "state", link.read_run_state)
                group.start_soon(ask, "actual", link.read_actual)

    assert answers == {"state": "running", "actual": 7}


# --- ending ---


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"", LinkFault.HUNG_UP),
        (b'{"return": {"sta', LinkFault.HUNG_UP),
        (b"garbage\n", LinkFault.PROTOCOL),
        (b"[]\n", LinkFault.PROTOCOL),
        (b"\xff\xff\n", LinkFault.PROTOCOL),
        (b"[" * 60_000 + b"\n", LinkFault.PROTOCOL),
        (b'{"return": ' + b"9" * 5000 + b', "id": 1}\n', LinkFault.PROTOCOL),
        (b"x" * 200_000, LinkFault.PROTOCOL),
        (b'{"id": 1}\n', LinkFault.PROTOCOL),
        (b'{"error": 1, "id": 1}\n', LinkFault.PROTOCOL),
        (b'{"error": {"class": 1, "desc": "x"}, "id": 1}\n', LinkFault.PROTOCOL),
        (b'{"error": {"class": "GenericError", "desc": "parse error"}}\n', LinkFault.PROTOCOL),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_the_end_of_a_link_is_raised_in_all_waiting_calls(said: bytes, fault: LinkFault) -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.hear()
        if said:
            await peer.send(said)

    faults: list[LinkFault] = []

    async def note(question: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(QmpUnreachable) as caught:
            await question()
        faults.append(caught.value.fault)

    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(note, link.next_event)
                group.start_soon(note, link.read_run_state)
            await note(link.read_run_state)
            await note(link.next_event)

    assert faults == [fault] * 4


@pytest.mark.parametrize(
    "odd",
    [
        b'{"return": {}, "id": 99}\n',
        b'{"return": {}, "id": "__qmp#00001"}\n',
        b'{"return": {}, "id": [1]}\n',
        b'{"return": {}, "id": true}\n',
        b'{"return": {}, "id": 1.0}\n',
        b'{"return": {}}\n',
        b'{"return": {"status": "running"}, "id": 1}\n' * 2,
        b'{"event": 7}\n',
        b'{"event": ["STOP"], "data": 3}\n',
        GREETING,
        b"{}\n",
    ],
    ids=ascii,
)
async def test_messages_that_were_not_requested_are_ignored(odd: bytes) -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.hear()
        await peer.send(odd)
        await peer.send(b'{"return": {"status": "running"}, "id": 1}\n')
        await peer.answer({"status": "paused"})
        await peer.wait_closed()

    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with anyio.fail_after(60):
            assert await link.read_run_state() == "running"
            assert await link.read_run_state() == "paused"


async def test_a_link_is_dead_when_its_block_has_ended() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.wait_closed()

    faults: list[LinkFault] = []

    async def note(question: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(QmpUnreachable) as caught:
            await question()
        faults.append(caught.value.fault)

    with anyio.fail_after(60):
        async with serving(script) as path, anyio.create_task_group() as group:
            async with open_link(path, SETTINGS, openings()) as link:
                group.start_soon(note, link.read_run_state)
                group.start_soon(note, link.next_event)
                await anyio.wait_all_tasks_blocked()
            await note(link.read_run_state)
            await note(link.next_event)

    assert faults == [LinkFault.HUNG_UP] * 4


async def test_closing_does_not_wait_for_a_peer_that_reads_no_more() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await anyio.sleep_forever()

    async with serving(script) as path:
        async with open_link(path, SETTINGS, openings()) as link:
            for _ in range(1000):
                link.read_stats(BALLOON + "x" * 1000, print)
            closing_at_s = anyio.current_time()

        assert anyio.current_time() - closing_at_s < 4  # it would wait until the peer has gone


async def test_events_before_the_end_are_still_returned() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.hear()
        await peer.say({"event": "SHUTDOWN", "data": {"guest": True}})

    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        with pytest.raises(QmpUnreachable):
            await link.read_run_state()

        assert await link.next_event() == MonitorEvent(MonitorEventKind.SHUTDOWN)
        with pytest.raises(QmpUnreachable):
            await link.next_event()


STORM = (
    b'{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "BLOCK_IO_ERROR", "data": {"device": "vda",'
    b' "operation": "write", "action": "report", "nospace": false, "reason": "Input/output error"}}\r\n'
)


@pytest.mark.parametrize(
    "flood",
    [
        b'{"event": "STOP"}\n' * 101,
        b'{"event": "VNC"}\n' * 1001,
        b'{"return": 1, "id": 77}\n' * 101,
        (b'{"event": "X", "data": {"x": "' + b"x" * 50_000 + b'"}}\n') * 25,
    ],
    ids=["events", "events that decide nothing", "answers", "large events"],
)
async def test_a_flood_ends_the_link(flood: bytes) -> None:
    closed = anyio.Event()

    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.hear()
        try:
            await peer.send(flood)
            await peer.wait_closed()
        finally:
            closed.set()

    settings = Settings(greeting_timeout_s=5.0, events_per_s_max=100)
    async with serving(script) as path, open_link(path, settings, openings()) as link:
        with anyio.fail_after(60), pytest.raises(QmpUnreachable) as caught:
            await link.read_run_state()
        with anyio.fail_after(60):
            await closed.wait()

    assert caught.value.fault is LinkFault.FLOODING


async def test_the_error_of_a_flood_names_the_event() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.hear()
        await peer.send(b'{"event": "JOB"}\n' * 300 + b'{"event": "BLOCK_IO_ERROR"}\n' * 800)
        await peer.wait_closed()

    settings = Settings(greeting_timeout_s=5.0, events_per_s_max=100)
    async with serving(script) as path, open_link(path, settings, openings()) as link:
        with anyio.fail_after(60), pytest.raises(QmpUnreachable) as caught:
            await link.read_run_state()

    assert caught.value.fault is LinkFault.FLOODING
    assert caught.value.detail.endswith("BLOCK_IO_ERROR; a disk of the VM fails; check its storage")


async def test_a_storm_of_events_that_are_not_used_leaves_the_link_open() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await peer.hear()
        await peer.send(STORM * 1000)
        await peer.say({"event": "STOP"})
        await peer.say({"return": {"status": "paused"}, "id": 1})
        await peer.wait_closed()

    async with serving(script) as path, open_link(path, Settings(greeting_timeout_s=5.0), openings()) as link:
        with anyio.fail_after(60):
            assert await link.read_run_state() == "paused"
            assert await link.next_event() == MonitorEvent(MonitorEventKind.STOP)


async def test_monitors_that_send_much_are_read_no_faster_than_the_shared_budget() -> None:
    """10,000 events are the budget of a second. Without a budget they are read in a fraction of a second."""

    async def noisy(peer: Client) -> None:
        await peer.greet()
        await peer.hear()
        await peer.send(STORM * 2000)
        await peer.say({"return": {"status": "running"}, "id": 1})
        await peer.wait_closed()

    settings, took_s = Settings(greeting_timeout_s=5.0), list[float]()

    async def ask(path: str) -> None:
        async with open_link(path, settings, limiter, turns=turns) as link:
            begun_s = anyio.current_time()
            assert await link.read_run_state() == "running"
            took_s.append(anyio.current_time() - begun_s)

    limiter, turns = openings(), ReadTurns(messages_per_s=1000)
    async with serving(noisy) as path:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(ask, path)

    assert len(took_s) == 5
    assert max(took_s) >= 0.5


async def test_single_bytes_use_the_shared_budget_and_the_link_continues() -> None:
    turns = ReadTurns(messages_per_s=100)

    async def trickling(peer: Client) -> None:
        await peer.greet()
        await peer.hear()
        for _ in range(2_000):
            await peer.send(b" ")
            await anyio.lowlevel.checkpoint()
            spent.append(not turns.budget.is_free)
        await peer.say({"return": {"status": "running"}, "id": 1})
        await peer.wait_closed()

    spent: list[bool] = []
    settings = Settings(greeting_timeout_s=5.0)
    async with serving(trickling) as path, open_link(path, settings, openings(), turns=turns) as link:
        with anyio.fail_after(60):
            assert await link.read_run_state() == "running"

    assert any(spent)


async def test_requested_answers_count_towards_a_flood() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        while True:
            await peer.answer({"status": "running", "more": "x" * 50_000})

    settings = Settings(greeting_timeout_s=5.0, events_per_s_max=100)
    async with serving(script) as path, open_link(path, settings, openings()) as link:
        with anyio.fail_after(60):
            await link.read_run_state()
            await link.read_run_state()
            with pytest.raises(QmpUnreachable) as caught:
                await link.read_run_state()

    assert caught.value.fault is LinkFault.FLOODING


async def test_a_flood_before_the_greeting_ends_the_opening() -> None:
    async def script(peer: Client) -> None:
        await peer.send(b'{"event": "STOP"}\n' * 101)
        await peer.wait_closed()

    assert await opening_fault(script, Settings(events_per_s_max=100)) is LinkFault.FLOODING


@pytest.mark.parametrize(
    "flood",
    [b'{"event": "VNC_CONNECTED"}\n' * 32_000, b'{"return": {"status": "paused"}, "id": 1}\n' * 2000],
    ids=["events", "one answer again and again"],
)
async def test_a_flood_lets_others_run_between_any_two_of_its_messages(flood: bytes) -> None:
    done = anyio.Event()

    async def script(peer: Client) -> None:
        await peer.greet()
        first = await peer.hear()
        await peer.send(flood)
        if first["id"] != 1:
            raise AssertionError(first)
        await peer.say({"return": {"status": "running"}, "id": 1})
        await peer.answer({"status": "running"})
        await peer.wait_closed()

    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with (
        serving(script) as path,
        open_link(path, SETTINGS, openings()) as link,
        anyio.create_task_group() as group,
    ):
        group.start_soon(count_turns)
        with anyio.fail_after(60):
            await link.read_run_state()
            await link.read_run_state()
        done.set()

    assert turns >= 2000


async def test_a_peer_that_stops_reading_ends_the_link_before_commands_pile_up() -> None:
    async def script(peer: Client) -> None:
        await peer.greet()
        await anyio.sleep_forever()

    async with serving(script) as path, open_link(path, SETTINGS, openings()) as link:
        for _ in range(1000):
            link.read_stats(BALLOON + "x" * 10_000, print)
        with pytest.raises(QmpUnreachable) as ended:
            await link.next_event()
        with pytest.raises(QmpUnreachable):
            await link.read_run_state()

    assert ended.value.fault is LinkFault.NO_ANSWER
