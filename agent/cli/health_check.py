"""`barograph health`: checks the agent on this host over HTTP, as the health check of a container does."""

from typing import Annotated

import typer

from agent.cli.flags import EXIT_NEGATIVE, ConfigFlag, WebFlag, load_config
from agent.config import Flags
from agent.local_agent import NoAnswerError, ask, shown

_TIMEOUT_S = 3.0
_ANSWER_MAX_BYTES = 1 << 16


def health(
    config: ConfigFlag = None,
    web: WebFlag = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Check that the agent is ready, not only alive.")
    ] = False,
) -> None:
    """Check that the agent on this host is alive.

    Sends a request to web.listen. An unreachable Kafka or VM does not fail this check. Exit code 1: the agent
    does not answer, or is not alive (with --ready: not ready).
    """
    configured = load_config(Flags(config=config, web=web), monitors_needed=False)
    place = configured.web
    if place is None or place.port == 0:
        typer.echo(
            "web.listen: web is disabled, or its port is 0; set web.enabled: true and a fixed port", err=True
        )
        raise typer.Exit(EXIT_NEGATIVE)
    path = "/readyz" if ready else "/livez"
    try:
        code, text = ask(place.host, place.port, path, within_s=_TIMEOUT_S, bytes_max=_ANSWER_MAX_BYTES)
    except NoAnswerError as error:
        typer.echo(f"no answer from {place.host}:{place.port}: {error}", err=True)
        raise typer.Exit(EXIT_NEGATIVE) from error
    typer.echo(shown(text))
    if code != 200:
        raise typer.Exit(EXIT_NEGATIVE)
