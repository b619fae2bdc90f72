"""`barograph probe`: queries one VM once."""

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from agent.cli.flags import EXIT_NEGATIVE, in_loop, load_config, refuse
from agent.config import Flags
from agent.config.units import parse_duration
from agent.core.address import mistake_in_path
from agent.core.explanations import explain
from agent.core.ownership import INTERVAL_MAX_S
from agent.core.reading import State
from agent.core.states import Reason
from agent.errors import ConfigError, LinkFault, Problem

_ADVICE: Mapping[tuple[State, str], str] = {
    (State.GONE, LinkFault.MISSING): "{socket} does not exist; check the path, and that QEMU runs",
    (State.UNREACHABLE, LinkFault.REFUSED): "no listener on {socket}; start QEMU, or delete the file",
    (State.OFF, Reason.POLLING_DISABLED): "polling is off; to enable it, use --enable-polling SECONDS",
}
"""Where the next step differs from that of an agent that runs."""


def probe(
    socket: Annotated[
        str,
        typer.Argument(metavar="SOCKET", help="Monitor socket of the VM, or URI#UUID of a libvirt domain."),
    ],
    enable_polling: Annotated[
        int | None,
        typer.Option(
            "--enable-polling",
            metavar="SECONDS",
            min=1,
            max=INTERVAL_MAX_S,
            help="If polling is off, enable it, leave it enabled, and wait for an update.",
        ),
    ] = None,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="How long to wait for the state; with --enable-polling, for an update.",
        ),
    ] = "10s",
) -> None:
    """Query one VM once and print its state and sample as JSON.

    Changes nothing in the VM unless --enable-polling is given. If there is no sample, or polling is off, a
    line on stderr says what to do. Exit code 1: there is no sample.
    """
    try:
        timeout_s = parse_duration(timeout).s
    except ValueError as error:
        refuse(ConfigError([Problem("--timeout", str(error))]))
    mistake = mistake_in_path(socket)
    if mistake is not None:
        refuse(ConfigError([Problem("SOCKET", mistake)]))
    configured = load_config(Flags(), monitors_needed=False)
    from agent import once

    found = in_loop(once.probe, configured, socket, enable_polling, timeout_s)
    typer.echo(json.dumps(found.document, indent=2, ensure_ascii=False))
    if not found.has_sample or found.reason == Reason.POLLING_DISABLED:
        result = "the sample may be old" if found.has_sample else "no sample"
        typer.echo(f"{result}: {_advice(socket, found.state, found.reason)}", err=True)
    if not found.has_sample:
        raise typer.Exit(EXIT_NEGATIVE)


def _advice(socket: str, state: State | None, reason: str) -> str:
    if state is None:
        return "no answer in time; use a longer --timeout"
    if (state, reason) in _ADVICE:
        return _ADVICE[state, reason].format(socket=socket)
    known = explain(state, reason)
    return f"{state}: {reason}" if known is None else f"{known.meaning}; next step: {known.next_step}"
