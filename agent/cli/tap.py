"""`barograph tap`: shows the records of running agents as they are made."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlencode

import anyio
import msgspec
import typer

from agent.cli.flags import EXIT_CANNOT_START, EXIT_NEGATIVE, ConfigFlag, WebFlag, in_loop
from agent.cli.hosts import Place, UrlFlag, places, request
from agent.cli.status_document import Number, plain
from agent.cli.tap_lines import exact, record_line
from agent.contract.foreign import decode_foreign
from agent.core.reading import RecordKind
from agent.core.wording import counted
from agent.local_agent import NoAnswerError

ANSWER_MAX_BYTES = 16 << 20
_PAUSE_S = 0.1  # between two requests to an agent
_RETRY_S = 1.0
_ERROR_CHARACTERS_MAX = 300


class Kind(StrEnum):
    """The kinds of records that can be shown."""

    SAMPLE = RecordKind.SAMPLE.value
    VM_STATE = RecordKind.VM_STATE.value
    VM_MEMORY = RecordKind.VM_MEMORY.value
    HOST_MEMORY = RecordKind.HOST_MEMORY.value
    AGENT_STATE = RecordKind.AGENT_STATE.value


class Output(StrEnum):
    """The forms of the output."""

    TEXT = "text"
    WIDE = "wide"
    JSON = "json"


class Shown(msgspec.Struct, frozen=True):
    """One record of an answer."""

    kind: str
    value: msgspec.Raw


class Page(msgspec.Struct, frozen=True):
    """An answer to `/api/tap`."""

    run: str
    next: Number
    skipped: Number
    records: list[Shown]
    vms: Number | None = None  # of the first answer: those there are that match


def tap(
    vm: Annotated[
        str | None, typer.Argument(metavar="VM", help="Name, id or path of a VM; default: all.")
    ] = None,
    config: ConfigFlag = None,
    web: WebFlag = None,
    url: UrlFlag = None,
    kind: Annotated[
        list[Kind] | None, typer.Option("--kind", help="Kind of records to show. Can be repeated.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Exit after N records.")
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Output format.")] = Output.TEXT,
) -> None:
    """Show records as running agents make them, until Ctrl-C.

    Sends requests to web.listen, or to each URL. Prints one line per record. The output format text has
    at most 80 columns; wide adds long names and details; json prints the value that is sent to Kafka. Earlier
    records are not shown. Messages about skipped records and agents that do not answer go to stderr.
    Exit code 3: no agent answers. Exit code 1: the output is closed.
    """
    asked = places(url, config, web)
    query = [("vm", vm)] * (vm is not None) + [("kind", each.value) for each in dict.fromkeys(kind or ())]
    several = len(asked) > 1

    def show(record: Shown) -> None:
        if output is Output.JSON:
            typer.echo(exact(bytes(record.value)))
            return
        typer.echo(
            record_line(record.kind, bytes(record.value), with_host=several, wide=output is Output.WIDE)
        )

    in_loop(_Tap(asked, query, show, limit).run)


class _Tap:
    """Reads from all agents, and shows what they send."""

    def __init__(
        self,
        asked: Sequence[Place],
        query: Sequence[tuple[str, str | None]],
        show: Callable[[Shown], None],
        limit: int | None,
    ) -> None:
        self._asked = asked
        self._query = query
        self._show = show
        self._left = limit

    async def run(self) -> None:
        """Read until the limit is reached. Exits if no agent answers at first, or the output is closed."""
        firsts: dict[Place, Page] = {}
        async with anyio.create_task_group() as group:
            for place in self._asked:
                group.start_soon(self._open, place, firsts)
        if not firsts:
            raise typer.Exit(EXIT_CANNOT_START)
        if not any(page.vms for page in firsts.values()) and any(name == "vm" for name, _ in self._query):
            _say("no such VM now; its records are shown when there is one")
        is_closed = False
        try:
            async with anyio.create_task_group() as group:
                for place in self._asked:
                    group.start_soon(self._follow, place, firsts.get(place), group.cancel_scope)
        except* BrokenPipeError:
            is_closed = True
        if is_closed:
            raise typer.Exit(EXIT_NEGATIVE)

    async def _open(self, place: Place, firsts: dict[Place, Page]) -> None:
        try:
            firsts[place] = await self._request(place, None)
        except NoAnswerError as error:
            _say(f"no records from {place}: {error}; check that the agent runs")

    async def _follow(self, place: Place, page: Page | None, ended: anyio.CancelScope) -> None:
        is_lost = page is None
        while True:
            before = page
            try:
                page = await self._request(place, None if page is None else page.next)
            except NoAnswerError as error:
                if not is_lost:
                    is_lost = True
                    _say(f"no records from {place}: {error}; trying again")
                await anyio.sleep(_RETRY_S)
                continue
            if is_lost:
                is_lost = False
                _say(f"records from {place} again")
            self._take(place, before, page)
            if self._left == 0:
                ended.cancel()
            await anyio.sleep(_PAUSE_S)

    def _take(self, place: Place, before: Page | None, page: Page) -> None:
        if before is not None and before.run != page.run:
            _say(f"the agent at {place} has restarted; records from before this are not shown")
        elif page.skipped > 0:
            _say(f"{counted(page.skipped, 'record')} of {place} skipped: they were not read in time")
        shown = page.records[: self._left]
        if self._left is not None:
            self._left -= len(shown)
        for record in shown:
            self._show(record)

    async def _request(self, place: Place, after: int | None) -> Page:
        query = [*self._query, *([] if after is None else [("after", str(after))])]
        try:
            text = await request(place, f"/api/tap?{urlencode(query, errors='replace')}", ANSWER_MAX_BYTES)
            return decode_foreign(text, Page)
        except ValueError as error:
            raise NoAnswerError(str(error)) from error


def _say(message: str) -> None:
    typer.echo(plain(message, _ERROR_CHARACTERS_MAX), err=True)
