"""Asks the agents of one host or of several over HTTP, for the commands that show VMs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

import anyio
import typer

from agent.cli.flags import EXIT_CANNOT_START, load_config, refuse
from agent.cli.status_document import Status, parse
from agent.config import Flags
from agent.core.wording import printable
from agent.errors import ConfigError, Problem
from agent.local_agent import NoAnswerError, ask
from agent.threads import in_thread

_ANSWER_MAX_S = 10.0
_ANSWER_MAX_BYTES = 64 << 20
_HOSTS_MAX = 100
_REFUSAL_CHARACTERS_MAX = 200

UrlFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Query this agent, e.g. http://host:port, instead of web.listen. Can be repeated.",
    ),
]


@dataclass(frozen=True, slots=True)
class Place:
    """The address of an agent's HTTP server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of an agent to `/status`, or why there is none."""

    place: Place
    text: bytes = b""
    status: Status | None = None
    error: str = ""


def places(urls: Sequence[str] | None, config: str | None, web: str | None) -> Sequence[Place]:
    """Return the agents to ask: those of `--url`, or the configured one. Exits if there is none."""
    if urls:
        if len(urls) > _HOSTS_MAX:
            refuse(ConfigError([Problem("--url", f"{len(urls)} hosts; use at most {_HOSTS_MAX}")]))
        return list(dict.fromkeys(map(_place, urls)))
    place = load_config(Flags(config=config, web=web), monitors_needed=False).web
    if place is None or place.port == 0:
        typer.echo(
            "web.listen: web is disabled, or its port is 0; set web.enabled: true and a fixed port", err=True
        )
        raise typer.Exit(EXIT_CANNOT_START)
    return [Place(place.host, place.port)]


def _place(url: str) -> Place:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        refuse(ConfigError([Problem("--url", f"{url}: {error}; use http://host:port")]))
    if parts.scheme != "http" or not host or not port or parts.path not in ("", "/") or "@" in url:
        refuse(ConfigError([Problem("--url", f"{url}: not the address of an agent; use http://host:port")]))
    return Place(host, port)


async def ask_all(asked: Sequence[Place]) -> Sequence[Answer]:
    """Return the answers of all agents, in order. They are asked at the same time."""
    answers: dict[Place, Answer] = {}

    async def keep(place: Place) -> None:
        answers[place] = await ask_one(place)

    async with anyio.create_task_group() as group:
        for place in asked:
            group.start_soon(keep, place)
    return [answers[place] for place in asked]


async def request(place: Place, path: str, bytes_max: int) -> bytes:
    """Return the answer of one agent to a request for `path`.

    Raises:
        NoAnswerError: there is none in time, it is larger than `bytes_max`, or its status is not 200.
    """
    asking = partial(ask, place.host, place.port, path, within_s=_ANSWER_MAX_S, bytes_max=bytes_max)
    try:
        with anyio.fail_after(2 * _ANSWER_MAX_S):  # a resolver may hang
            code, text = await in_thread(asking)
    except TimeoutError as error:
        raise NoAnswerError(f"no answer within {2 * _ANSWER_MAX_S:g} s") from error
    if code != 200:
        why = printable(text.decode(errors="replace").partition("\n")[0], _REFUSAL_CHARACTERS_MAX)
        raise NoAnswerError(f"status {code}: {why}" if why else f"status {code}")
    return text


async def ask_one(place: Place) -> Answer:
    """Return the answer of one agent to `/status`. Never fails."""
    try:
        text = await request(place, "/status", _ANSWER_MAX_BYTES)
        return Answer(place, text, parse(text))
    except (NoAnswerError, ValueError) as error:
        return Answer(place, error=str(error) or type(error).__name__)
