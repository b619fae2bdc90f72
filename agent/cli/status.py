"""`barograph status`: shows what is wrong with the VMs of an agent, or of several, worst first."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import typer

from agent.cli.flags import EXIT_CANNOT_START, EXIT_NEGATIVE, ConfigFlag, WebFlag, in_loop
from agent.cli.hosts import Answer, UrlFlag, ask_all, places
from agent.cli.status_problems import unreachable
from agent.cli.status_table import Line, all_well, screen
from agent.core.urgency import Urgency
from agent.core.wording import printable
from agent.local_agent import shown

_ERROR_CHARACTERS_MAX = 300
_LINES_KEPT = 20  # of a terminal, for what is above the table
_ROWS_MIN = 10
_COLORS: Mapping[Urgency, str] = {
    Urgency.OOM: "red",
    Urgency.PRESSURE: "red",
    Urgency.LOW: "yellow",
    Urgency.UNEXPECTED: "yellow",
}


class Output(StrEnum):
    """The forms of the output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


def status(
    config: ConfigFlag = None,
    web: WebFlag = None,
    url: UrlFlag = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Output format.")] = Output.TABLE,
) -> None:
    """Show the problems and the VMs, worst first.

    Sends a request to web.listen, or to each URL. docs/terminal.md lists the codes of the problems. On a
    terminal, the table omits VMs without a problem if they do not fit; -o wide shows all VMs and more
    columns; -o json prints the document of each agent, one per line. Exit code 1: a VM does not report, or
    at least one of several agents did not answer. VMs that are gone, paused without a failure, or off by
    configuration do not count. Exit code 3: no agent answered.
    """
    answers = in_loop(ask_all, places(url, config, web))
    statuses = [each.status for each in answers if each.status is not None]
    lost = [each for each in answers if each.status is None]
    if output is Output.JSON or not statuses:
        for each in lost:
            typer.echo(f"no status from {each.place}: {_why(each)}; check that the agent runs", err=True)
    if not statuses:
        raise typer.Exit(EXIT_CANNOT_START)
    if output is Output.JSON:
        for each in answers:
            if each.status is not None:
                typer.echo(shown(each.text))
    else:
        problems = [unreachable(str(each.place), _why(each)) for each in lost]
        wide = output is Output.WIDE
        _print(list(screen(statuses, problems, wide=wide, rows_max=None if wide else _rows_max())))
    if lost or not all(map(all_well, statuses)):
        raise typer.Exit(EXIT_NEGATIVE)


def _why(answer: Answer) -> str:
    return printable(answer.error, _ERROR_CHARACTERS_MAX)


def has_color() -> bool:
    """Return whether the output is a terminal that may get color (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _rows_max() -> int | None:
    if not sys.stdout.isatty():
        return None
    return max(_ROWS_MIN, shutil.get_terminal_size().lines - _LINES_KEPT)


def _print(lines: Sequence[Line]) -> None:
    color = has_color()
    for line in lines:
        fg = _COLORS.get(line.urgency) if color else None
        typer.echo(line.text if fg is None else typer.style(line.text, fg=fg), color=color)
