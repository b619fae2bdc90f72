"""A session is the same however its bytes arrive, and a hostile peer causes only documented errors."""

import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.decode import BadAnswer, decode_guest_stats
from agent.errors import QmpCommandError, QmpUnreachable
from agent.qmp import parsing
from agent.qmp.balloon import PLACES, choose_balloon
from agent.qmp.client import MonitorClient
from agent.qmp.link import Settings, open_link
from agent.qmp.openings import Openings
from tests.lab.fuzz import Tongue
from tests.unit.qmp.peer import BALLOON, GREETING, Client, read_stats, serving

READING = '{"stats": {"stat-free-memory": 68141056, "stat-swap-in": 18446744073709551615}, "last-update": 9}'
SESSION = (  # one part before the first command, and one for each command
    b'{"event": "RTC_CHANGE"}\r\n' + GREETING,
    b'{"event": "RESUME"}\n{"return": {}}\r\n',
    b'{"return": {"status": "running", "n\xc3\xa4me": "\\u00e4"}, "id": 1}\r\n{"event": "STOP"}\r\n',
    b'{"event": "BALLOON_CHANGE", "data": {"actual": 1073741824}}\r\n{"return": %s, "id": 2}\r\n'
    % READING.encode(),
    b'{"id": 9, "return": 1}\n{"id": 3, "error": {"class": "X", "desc": "no"}}\n{"event": "RESET"}\n',
)

INDENTED = tuple(  # as with `pretty=on`
    b"".join(
        json.dumps(json.loads(line), indent=4).replace("\n", "\r\n").encode() + b"\r\n"
        for line in part.splitlines()
    )
    for part in SESSION
)


async def heard_in(session: Sequence[bytes], pauses: frozenset[int]) -> list[str]:
    """Return the answers and events of a session. Its bytes arrive with pauses at these places."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    client = MonitorClient("/x", events_per_s_max=1_000)
    heard: list[str] = []

    async def speak() -> None:
        at = 0
        for number, part in enumerate(session):
            if number:
                await anyio.wait_readable(theirs)
                theirs.recv(65536)
            start = 0
            for end in [*(pause - at for pause in sorted(pauses) if at < pause < at + len(part)), len(part)]:
                with suppress(BrokenPipeError):  # the client may leave before the last line's end
                    theirs.send(part[start:end])
                start = end
                for _ in range(4):  # more than enough for the client to read it
                    await anyio.lowlevel.checkpoint()
            at += len(part)

    with theirs:
        async with anyio.create_task_group() as group:
            group.start_soon(speak)
            with anyio.fail_after(60):
                await client.begin(ours)
                for _ in session[2:]:
                    try:
                        heard.append(str(await client.call("query-status")))
                    except QmpCommandError as error:
                        heard.append(str(error))
                heard += [str(await client.next_event()) for _ in range(4)]
            await client.close()
        ours.close()
    return heard


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
async def test_a_session_is_the_same_wherever_it_is_cut(step: int) -> None:
    whole = await heard_in(SESSION, frozenset())
    length = sum(len(part) for part in SESSION)

    assert len(whole) == 7
    assert await heard_in(INDENTED, frozenset()) == whole
    assert await heard_in(INDENTED, frozenset(range(sum(len(part) for part in INDENTED)))) == whole
    for at in range(1, length, step):
        assert await heard_in(SESSION, frozenset({at})) == whole, f"cut at {at}"
    assert await heard_in(SESSION, frozenset(range(length))) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
async def test_a_hostile_session_ends_only_in_documented_ways(seed: int) -> None:
    tongue = Tongue(seed, 1, ["not-a-uuid"])

    async def script(peer: Client) -> None:
        tongue.begin()
        with suppress(UnicodeDecodeError):
            await peer.send(tongue.greeting().data)
            while True:
                command = await peer.hear()
                words = tongue.answer(command)
                await peer.send(tongue.aside().data + words.data + tongue.again(command).data)
                if words.breaks:
                    return

    settings = Settings(greeting_timeout_s=0.1)
    ends: list[str] = []
    async with serving(script) as path:
        for _ in range(15):
            try:
                async with open_link(path, settings, Openings(1)) as link:
                    with anyio.move_on_after(0.3):
                        await link.introduce()
                        for _ in range(10):
                            await read_stats(link)
                            await link.check(BALLOON)
            except (QmpUnreachable, QmpCommandError) as error:
                ends.append(str(error))

    assert ends
    assert all(end.isprintable() and len(end) < 700 for end in ends)


KEYS = st.sampled_from(
    [
        "return",
        "error",
        "stats",
        "last-update",
        "name",
        "type",
        "UUID",
        "status",
        "actual",
        "qemu",
        "major",
        "id",
    ]
) | st.text(max_size=8)
NUMBERS = st.integers(-(2**65), 2**65) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
PARSERS: Sequence[Callable[[object], object]] = (
    parsing.parse_uuid,
    parsing.parse_name,
    parsing.parse_run_state,
    parsing.parse_interval_s,
    parsing.parse_memory_sizes,
    parsing.parse_actual_bytes,
    lambda answer: choose_balloon(PLACES[0], answer),
)


@given(VALUES)
def test_every_decoder_accepts_any_value(value: object) -> None:
    for parse in PARSERS:
        with suppress(ValueError):
            said = parse(value)
            if isinstance(said, str):
                assert said.isprintable()
                assert len(said) <= 300
    reading = decode_guest_stats(value)
    if not isinstance(reading, BadAnswer):
        assert all(0 <= each < 2**53 for each in reading.statistics.values())
        assert len(reading.statistics) + len(reading.unset) + len(reading.refused) <= 256
        json.dumps([reading.last_update_s, dict(reading.statistics)]).encode("ascii")
