"""What commands have in common: the flags that say which configuration, and the exit codes.

0 done; 1 there is an answer, and it is not the one hoped for; 2 the configuration or the command line is
wrong, nothing was started; 3 cannot start; 130 interrupted.
"""

import os
from typing import Annotated, NoReturn

import typer

from agent.config import Config, Flags, load
from agent.errors import ConfigError

EXIT_NOT_HOPED_FOR = 1
EXIT_CONFIGURATION = 2
EXIT_CANNOT_START = 3

ConfigFlag = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="YAML file. [env: BAROGRAPH_CONFIG]")
]
MonitorFlag = Annotated[
    list[str] | None,
    typer.Option("--monitor", metavar="GLOB", help="Where monitor sockets are; may be given again."),
]
LibvirtFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--libvirt",
        metavar="URI",
        help="A libvirt, e.g. qemu:///system, or a glob of its sockets; may be given again.",
    ),
]
IntervalFlag = Annotated[
    str | None, typer.Option("--interval", metavar="DURATION", help="How often guests are asked, e.g. 10s.")
]
PolicyFlag = Annotated[
    str | None,
    typer.Option(
        "--policy", metavar="WORD", help="Whose the interval is: fill (where it is 0), enforce or observe."
    ),
]
KafkaFlag = Annotated[
    str | None, typer.Option("--kafka", metavar="HOST:PORT,...", help="Send everything to this Kafka.")
]
OtlpFlag = Annotated[
    str | None,
    typer.Option("--otlp", metavar="URL", help="Send metrics to this OTLP endpoint; gRPC on port 4317."),
]
HostIdFlag = Annotated[
    str | None, typer.Option("--host-id", metavar="ID", help="Who the host is, instead of its machine-id.")
]
HostNameFlag = Annotated[
    str | None, typer.Option("--host-name", metavar="NAME", help="The host's name, instead of its own word.")
]
StateDirectoryFlag = Annotated[
    str | None,
    typer.Option("--state-directory", metavar="PATH", help="Where the spool is, and what is owed to VMs."),
]
WebFlag = Annotated[
    str | None,
    typer.Option(
        "--web", metavar="HOST:PORT", help="Where to answer probes and scrapes, instead of loopback."
    ),
]
LogLevelFlag = Annotated[
    str | None, typer.Option("--log-level", metavar="WORD", help="debug, info, warning or error.")
]


def load_config(flags: Flags, *, monitors_needed: bool = True) -> Config:
    """Return the configuration, or print every problem and end with exit code 2."""
    try:
        return load(flags, os.environ, monitors_needed=monitors_needed)
    except ConfigError as error:
        refuse(error)


def refuse(error: ConfigError) -> NoReturn:
    """Print every problem and end with exit code 2."""
    count = len(error.problems)
    typer.echo(f"{count} problem{'s' * (count != 1)} in the configuration; nothing was started", err=True)
    for problem in error.problems:
        typer.echo(f"  {problem}", err=True)
    raise typer.Exit(EXIT_CONFIGURATION)
