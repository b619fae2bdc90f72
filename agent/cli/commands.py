"""The commands. Results go to stdout, messages to stderr; exit codes are in flags.py."""

import os
import sys
from contextlib import suppress
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated

import typer

from agent import __version__
from agent.cli import demo, spool, topics
from agent.cli.announce import announce
from agent.cli.doctor import doctor
from agent.cli.flags import (
    EXIT_NEGATIVE,
    INSTALLED,
    ConfigFlag,
    StateDirectoryFlag,
    in_loop,
    load_config,
    refuse,
    with_all_flags,
)
from agent.cli.health_check import health
from agent.cli.probe import probe
from agent.cli.status import status
from agent.cli.summary import summary
from agent.cli.tap import tap
from agent.cli.top import top
from agent.config import Flags, load
from agent.errors import ConfigError, Problem

SCHEMAS = {
    "config": "config.schema.json",
    "sample": "sample/v1",
    "state": "state/v1",
    "agent": "agent/v1",
    "host": "host/v1",
    "memory": "memory/v1",
    "asyncapi": "asyncapi.yaml",
}
"""The path of each schema below schemas/: a file, or a directory with a file for each version."""

cli = typer.Typer(
    name="barograph",
    help="Collect the memory statistics of QEMU VMs and send them to Kafka and OTLP.",
    no_args_is_help=True,
    rich_markup_mode=None,  # docs/cli.md must not depend on the terminal
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
cli.add_typer(spool.commands, name="spool")
cli.add_typer(topics.commands, name="topics")


def main() -> None:
    """Run the command line and exit the process with its exit code, without waiting for any thread."""
    os.umask(0o077)  # no file that a library creates is for other users
    code: str | int | None = 0
    try:
        cli(prog_name="barograph")
    except SystemExit as end:
        code = end.code
    if isinstance(code, str):
        typer.echo(code, err=True)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by the reader
            stream.flush()
    os._exit(code or 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@cli.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    return


@cli.command("run")
@with_all_flags
def run(flags: Flags) -> None:
    """Observe the VMs of this host until SIGTERM or Ctrl-C. SIGHUP reloads the configuration.

    Without a sink, records are written to stdout. Flags override BAROGRAPH_* variables, which override the
    file; docs/configuration.md lists every setting.
    """
    configured = load_config(flags)
    # Imports the libraries of all sinks, which --help must not wait for.
    from agent import app

    if in_loop(app.run, configured, partial(load, flags, os.environ)):
        # Same process, same arguments: the parent sees no exit, and no state is left over.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@cli.command("check-config")
@with_all_flags
def check_config(flags: Flags) -> None:
    """Validate the configuration and print the effective settings.

    Performs the checks of run, but changes nothing and contacts no VM or backend. Without any flag and
    without BAROGRAPH_CONFIG, reads the installed file, /etc/barograph/barograph.yaml, if it exists.
    """
    if flags == Flags() and "BAROGRAPH_CONFIG" not in os.environ and os.path.exists(INSTALLED):
        flags = Flags(config=INSTALLED)
        typer.echo(f"file      {INSTALLED}")
    config = load_config(flags)
    typer.echo(summary(config))
    for caution in config.cautions:
        typer.echo(f"warning: {caution}", err=True)


@cli.command("give-back")
def give_back(config: ConfigFlag = None, state_directory: StateDirectoryFlag = None) -> None:
    """Restore every polling interval that the agent changed.

    Run this command before you uninstall the agent, or if a killed agent will not start again. Stop the agent
    first. The command does not restore an interval that another client has changed in the meantime. Exit code
    1: an interval is still to be restored, because its VM could not be reached or QEMU refused the change.
    """
    configured = load_config(Flags(config=config, state_directory=state_directory), monitors_needed=False)
    from agent import once
    from agent.runtime.give_back import Outcome

    settlements = in_loop(once.restore_intervals, configured)
    for settlement in settlements:
        typer.echo(f"{settlement.outcome} {settlement.change.address}: {settlement.detail}")
    if any(settlement.outcome is Outcome.KEPT for settlement in settlements):
        raise typer.Exit(EXIT_NEGATIVE)


cli.command()(probe)
cli.command()(health)
cli.command()(status)
cli.command()(doctor)
cli.command()(top)
cli.command()(tap)
cli.command()(announce)
cli.command(help=demo.HELP)(demo.demo)


@cli.command()
def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the schema; see --list.")
    ] = None,
    list_names: Annotated[bool, typer.Option("--list", help="List the names of all schemas.")] = False,
    closed: Annotated[
        bool,
        typer.Option(
            "--closed",
            help=(
                "Print the closed schema, which allows only what this version emits. Readers need"
                " the open one, the default."
            ),
        ),
    ] = False,
) -> None:
    """Print the schema of the configuration or of a record.

    JSON Schema for the configuration, samples, states, the agent's own records and the memory of VMs and
    hosts; AsyncAPI for the topics.
    """
    if list_names:
        typer.echo("\n".join(SCHEMAS))
    elif name in SCHEMAS:
        typer.echo(_schema_file(SCHEMAS[name], closed=closed).read_text(encoding="utf-8"), nl=False)
    else:
        refuse(ConfigError([Problem("NAME", f"unknown schema; use one of {', '.join(SCHEMAS)}")]))


@cli.command()
def version() -> None:
    """Show the version."""
    typer.echo(f"barograph {__version__}")


def _schema_file(path: str, *, closed: bool) -> Traversable:
    place = files("agent") / "schemas" / path
    if place.is_file():
        return place
    ending = ".schema.json" if closed else ".open.json"
    versions = [file for file in place.iterdir() if file.name.endswith(ending)]
    return max(versions, key=lambda file: [int(part) for part in file.name.split(".")[:2]])
