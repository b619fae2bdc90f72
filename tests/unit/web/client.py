"""A minimal HTTP client, and an agent's web application that shows given values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.applications import Starlette

from agent.contract.payloads import Agent
from agent.core.agent_state import AgentEvent, AgentPhase
from agent.core.health import Component, Health
from agent.core.history import VmHistories
from agent.core.host_memory import HostMemoryEvent
from agent.core.outlook import Outlook
from agent.core.reading import VmView
from agent.core.tap import Tap
from agent.telemetry import Counters, Levels, Snapshot, snapshot
from agent.web.pages import application
from tests.unit.sinks.views import AGENT


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


def port_of(url: str) -> int:
    """Return the port in `http://127.0.0.1:PORT/`."""
    return int(url.rstrip("/").rpartition(":")[2])


async def ask(
    url: str,
    path: str,
    method: str = "GET",
    accept_encoding: str = "identity",
    host: str = "x",
    more: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request, and read until the server closes the connection."""
    with anyio.fail_after(60):
        async with await anyio.connect_tcp("127.0.0.1", port_of(url)) as stream:
            headers = f"host: {host}\r\naccept-encoding: {accept_encoding}\r\n"
            headers += "".join(f"{name}: {value}\r\n" for name, value in (more or {}).items())
            await stream.send(f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode())
            received = b""
            async for part in stream:
                received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


@dataclass
class Present:
    """The values that the pages show."""

    reasons: Sequence[str] = ()
    views: Sequence[VmView] = ()
    host_memory: HostMemoryEvent | None = None
    histories: VmHistories = field(default_factory=VmHistories)
    outlook: Outlook = field(default_factory=lambda: Outlook({}, None))
    tap: Tap = field(default_factory=Tap)
    identity: Agent = AGENT
    counters: Counters = field(default_factory=Counters)
    levels: Levels = field(default_factory=lambda: Levels(waiting={}))
    components: Mapping[str, Component] = field(
        default_factory=lambda: {
            "discovery": Component(Health.OK, "3 monitors watched", 1_795_404_000_000),
            "kafka.samples": Component(Health.DEGRADED, "no broker", 1_795_404_100_000),
        }
    )

    def not_ready(self) -> Sequence[str]:
        return self.reasons

    def agent(self) -> AgentEvent:
        return AgentEvent(1, AgentPhase.RUNNING, "found 3 monitors", 5, 6, None, True, 7, {}, {"samples": 3})

    def telemetry(self) -> Snapshot:
        return snapshot(self.counters, self.levels)

    def application(self) -> Starlette:
        return application(
            self.identity,
            agent=self.agent,
            components=lambda: self.components,
            not_ready=self.not_ready,
            telemetry=self.telemetry,
            host_memory=lambda: self.host_memory,
            views=lambda: self.views,
            history=self.histories.get,
            outlook=lambda: self.outlook,
            tap=self.tap,
        )
