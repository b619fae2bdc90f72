"""`barograph top`: shows the VMs of one host or of several, live."""

import sys
from functools import partial
from typing import Annotated

import typer

from agent.cli.flags import EXIT_CANNOT_START, ConfigFlag, WebFlag, in_loop
from agent.cli.hosts import UrlFlag, ask_all, places


def top(
    config: ConfigFlag = None,
    web: WebFlag = None,
    url: UrlFlag = None,
    interval: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=1, max=3600, help="Time between two requests.")
    ] = 2.0,
) -> None:
    """Show a live view of the VMs, worst first.

    Sends requests to web.listen, or to each URL, until you quit. The bottom of the screen lists the keys to
    sort, filter and pause, and to open one VM with its changes of state. The output has no color if NO_COLOR
    is set.
    """
    asked = places(url, config, web)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        typer.echo("top: the input and the output must be a terminal; use barograph status", err=True)
        raise typer.Exit(EXIT_CANNOT_START)
    # Imports the library of the screen, which other commands must not wait for.
    from agent.cli.top_screen import Top

    screen = Top(partial(ask_all, asked), interval_s=interval, several=len(asked) > 1)
    in_loop(screen.run_async)
