"""`barograph health`: asks the agent that runs here, over its own web, as a container's health check does."""

from http.client import HTTPConnection, HTTPException
from typing import Annotated

import typer

from agent.cli.flags import EXIT_NOT_HOPED_FOR, ConfigFlag, WebFlag, load_config
from agent.config import Flags

_ANSWERS_WITHIN_S = 3.0


def health(
    config: ConfigFlag = None,
    web: WebFlag = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Whether it is ready, instead of whether it lives.")
    ] = False,
) -> None:
    """Ask the agent that runs here whether it lives: its loop turns.

    It is asked at web.listen; a Kafka or a VM that is away is no illness. Exit code 1: it is not well, or
    does not answer.
    """
    configured = load_config(Flags(config=config, web=web), monitors_needed=False)
    place = configured.web
    if place is None or place.port == 0:
        typer.echo("not known: the configuration says of no port where the agent answers (web)", err=True)
        raise typer.Exit(EXIT_NOT_HOPED_FOR)
    connection = HTTPConnection(place.host, place.port, timeout=_ANSWERS_WITHIN_S)
    try:
        connection.request("GET", "/readyz" if ready else "/livez")
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace").rstrip()
    except (OSError, HTTPException) as error:
        typer.echo(f"no answer from {place.host}:{place.port}: {error}", err=True)
        raise typer.Exit(EXIT_NOT_HOPED_FOR) from error
    finally:
        connection.close()
    typer.echo(said)
    if answer.status != 200:
        raise typer.Exit(EXIT_NOT_HOPED_FOR)
