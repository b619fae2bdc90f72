"""`barograph status`: shows the VMs of an agent, worst first."""

from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from agent.cli.flags import EXIT_CANNOT_START, EXIT_NEGATIVE, ConfigFlag, WebFlag, load_config
from agent.cli.local_agent import NoAnswerError, ask, shown
from agent.cli.status_table import all_well, parse, table
from agent.config import Flags

_TIMEOUT_S = 10.0
_ANSWER_MAX_BYTES = 64 << 20


class Output(StrEnum):
    """The forms of the output."""

    TABLE = "table"
    JSON = "json"


def status(
    config: ConfigFlag = None,
    web: WebFlag = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the output.")] = Output.TABLE,
) -> None:
    """Show the VMs of the agent on this host, worst first.

    Sends a request to web.listen. Exit code 1: a VM neither reports nor is paused or gone. Exit code 3: the
    agent does not answer.
    """
    place = load_config(Flags(config=config, web=web), monitors_needed=False).web
    if place is None or place.port == 0:
        typer.echo(
            "web.listen: web is disabled, or its port is 0; set web.enabled: true and a fixed port", err=True
        )
        raise typer.Exit(EXIT_CANNOT_START)
    try:
        code, text = ask(place.host, place.port, "/status", within_s=_TIMEOUT_S, bytes_max=_ANSWER_MAX_BYTES)
        if code != 200:
            raise NoAnswerError(f"status {code}")
        found = parse(text)
        printed = shown(text) if output is Output.JSON else table(found)
    except (NoAnswerError, msgspec.DecodeError, OverflowError) as error:
        typer.echo(f"no status from {place.host}:{place.port}: {error}; check that the agent runs", err=True)
        raise typer.Exit(EXIT_CANNOT_START) from error
    typer.echo(printed)
    if not all_well(found):
        raise typer.Exit(EXIT_NEGATIVE)
