"""Golden records of the events that a link returns when more arrive than are taken, for both links."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import anyio

from agent.core.address import MonitorPath
from agent.core.events import BalloonChanged, LinkEvent, MonitorEvent, OthersUnseen, OthersWait
from agent.core.reading import SocketMark
from agent.errors import LinkFault, Unreachable
from agent.libvirt.link import DomainLink
from agent.qmp.link import QmpOpener
from agent.qmp.parsing import parse_event
from tests.unit.qmp.peer import BALLOON, SETTINGS, Client, read_stats, serving

Message = tuple[str, Mapping[str, object]]
"""An event's name and its data, as a monitor sends them."""

NAMES = ("STOP", "RESUME", "SUSPEND", "WAKEUP", "RESET", "SHUTDOWN", "BALLOON_CHANGE", "DEVICE_DELETED")


def _named(*names: str) -> list[Message]:
    return [(name, {"actual": number}) for number, name in enumerate(names)]


# Each input is a list of phases: the events that arrive at once, and how many are taken after that. The
# remaining events are taken at the end.
INPUTS: Mapping[str, Sequence[tuple[list[Message], int]]] = {
    "nothing is lost at the bound": [(_named(*["STOP", "RESUME"] * 32), 0)],
    "one more than the bound": [(_named(*["STOP", "RESUME"] * 32, "RESET"), 0)],
    "a reset before a flood": [(_named("RESET", *["STOP", "RESUME"] * 64, "SHUTDOWN"), 0)],
    "every name, many times": [(_named(*NAMES * 50), 0)],
    "the order of the newest": [(_named(*["RESUME", "STOP", "RESUME"] * 40, "WAKEUP"), 0)],
    "a balloon that moves": [([("BALLOON_CHANGE", {"actual": actual}) for actual in range(200)], 0)],
    "some are taken meanwhile": [
        (_named(*["STOP", "RESUME"] * 30), 5),
        (_named(*["SUSPEND", "WAKEUP"] * 30), 3),
        (_named("RESET", *["STOP"] * 70), 70),
        (_named("SHUTDOWN"), 0),
    ],
    "odd ones among them": [([("STOP", {}), ("JOB_STATUS_CHANGE", {"id": "x"}), ("RESUME", {})] * 30, 0)],
}


def _document(event: LinkEvent) -> list[object]:
    match event:
        case MonitorEvent(kind):
            return [kind.value]
        case BalloonChanged(actual_bytes):
            return ["BALLOON_CHANGE", actual_bytes]
        case OthersWait() | OthersUnseen():  # made by the agent, not by a peer
            return [type(event).__name__]


def _event(name: str, data: Mapping[str, object]) -> LinkEvent | None:
    return parse_event({"event": name, "data": data})


async def through_qmp(phases: Sequence[tuple[list[Message], int]]) -> list[list[object]]:
    """Return the events that a monitor's link returns."""

    async def script(client: Client) -> None:
        await client.greet()
        for events, _ in phases:
            command = await client.hear()
            said: list[dict[str, object]] = [
                {"event": name, "data": data, "timestamp": {}} for name, data in events
            ]
            said.append({"return": {"last-update": 0, "stats": {}}, "id": command["id"]})
            await client.send(b"".join(json.dumps(each).encode() + b"\r\n" for each in said))
        await client.hear()  # then it hangs up

    taken: list[list[object]] = []
    with anyio.fail_after(60):
        async with serving(script) as path, QmpOpener(SETTINGS)(MonitorPath(path)) as link:
            for _, count in phases:
                await read_stats(link)  # answered after the events of this phase
                for _ in range(count):
                    event = await _soon(link.next_event)
                    if event is None:
                        break
                    taken.append(_document(event))
            link.read_stats(BALLOON, _nothing)
            try:
                while True:
                    event = await link.next_event()
                    taken.append(_document(event))
            except Unreachable as error:
                taken.append(["end", error.fault.value])
    return taken


async def through_libvirt(phases: Sequence[tuple[list[Message], int]]) -> list[list[object]]:
    """Return the events that a domain's link returns."""
    link = DomainLink("qemu:///system#1", SocketMark(1, 2, 0), cast(Any, None), cast(Any, None))
    taken: list[list[object]] = []
    with anyio.fail_after(60):
        for events, count in phases:
            for name, data in events:
                event = _event(name, data)  # libvirt has a separate event for each
                if event is not None:
                    link.put(event)
            for _ in range(count):
                event = await _soon(link.next_event)
                if event is None:
                    break
                taken.append(_document(event))
        link.end(LinkFault.HUNG_UP, "the end")
        try:
            while True:
                event = await link.next_event()
                taken.append(_document(event))
        except Unreachable as error:
            taken.append(["end", error.fault.value])
    return taken


async def _soon(next_event: Callable[[], Awaitable[Any]]) -> Any:
    """Return the next event, or `None` if none is queued. A queued event is returned at once."""
    with anyio.move_on_after(0.25):
        return await next_event()
    return None


def _nothing(_: object) -> None:
    return


async def _all() -> dict[str, str]:
    files: dict[str, str] = {}
    for name, through in (("qmp", through_qmp), ("libvirt", through_libvirt)):
        lines: list[str] = []
        for title, phases in INPUTS.items():
            lines.append(f"# {title}: {sum(len(events) for events, _ in phases)} events\n")
            lines += [json.dumps(each) + "\n" for each in await through(phases)]
        files[f"overflow/{name}.jsonl"] = "".join(lines)
    return files


def made() -> dict[str, str]:
    """Return the recorded files."""
    return anyio.run(partial(_all))
