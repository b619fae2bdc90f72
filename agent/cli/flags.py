"""What the commands share: the flags that configure the agent, the exit codes, and the event loop.

Exit codes: 0 success; 1 the command ran, its result is negative; 2 the configuration or the command line is
invalid, nothing was started; 3 the agent cannot start, or Kafka
cannot be reached; 130 interrupted.
"""

import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn, TypeVar, TypeVarTuple, Unpack

import anyio
import typer

from agent.config import Config, Flags, load
from agent.core.wording import counted
from agent.errors import CannotListen, ConfigError, SinkUnavailable, StateFileError
from agent.qmp.descriptors import can_refuse

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

EXIT_NEGATIVE = 1
EXIT_CONFIGURATION = 2
EXIT_CANNOT_START = 3

INSTALLED = "/etc/barograph/barograph.yaml"
"""Where the packages put the configuration."""

ConfigFlag = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="Configuration file, in YAML. [env: BAROGRAPH_CONFIG]"),
]
MonitorFlag = Annotated[
    list[str] | None,
    typer.Option("--monitor", metavar="GLOB", help="Glob of monitor sockets. Can be repeated."),
]
LibvirtFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--libvirt",
        metavar="URI",
        help="URI of a libvirt daemon, e.g. qemu:///system, or a glob of libvirt sockets. Can be repeated.",
    ),
]
IntervalFlag = Annotated[
    str | None, typer.Option("--interval", metavar="DURATION", help="Polling interval of guests, e.g. 10s.")
]
PolicyFlag = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="When to set the polling interval: fill (where it is 0), enforce (always) or observe (never).",
    ),
]
KafkaFlag = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT,...", help="Kafka brokers to send records to."),
]
OtlpFlag = Annotated[
    str | None,
    typer.Option(
        "--otlp",
        metavar="URL",
        help="OTLP endpoint to send metrics and state changes to; port 4317 means gRPC.",
    ),
]
HostIdFlag = Annotated[
    str | None, typer.Option("--host-id", metavar="ID", help="ID of this host; default: its machine-id.")
]
HostNameFlag = Annotated[
    str | None,
    typer.Option("--host-name", metavar="NAME", help="Name of this host; default: its hostname."),
]
StateDirectoryFlag = Annotated[
    str | None,
    typer.Option(
        "--state-directory",
        metavar="PATH",
        help="Directory of the spool and of the ledger of changed intervals.",
    ),
]
WebFlag = Annotated[
    str | None,
    typer.Option(
        "--web", metavar="HOST:PORT", help="Address of the agent's HTTP server; default: 127.0.0.1:19464."
    ),
]
LogLevelFlag = Annotated[
    str | None,
    typer.Option("--log-level", metavar="LEVEL", help="Log level: debug, info, warning or error."),
]


def with_all_flags(action: Callable[[Flags], None]) -> Callable[..., None]:
    """Return a command that takes every flag and calls `action` with what was given.

    Typer reads the flags of a command from its signature, so this signature lists them for all such commands.
    """

    def command(
        config: ConfigFlag = None,
        monitor: MonitorFlag = None,
        libvirt: LibvirtFlag = None,
        interval: IntervalFlag = None,
        policy: PolicyFlag = None,
        kafka: KafkaFlag = None,
        otlp: OtlpFlag = None,
        host_id: HostIdFlag = None,
        host_name: HostNameFlag = None,
        state_directory: StateDirectoryFlag = None,
        web: WebFlag = None,
        log_level: LogLevelFlag = None,
    ) -> None:
        action(
            Flags(
                config=config,
                monitor=tuple(monitor or ()),
                libvirt=tuple(libvirt or ()),
                interval=interval,
                policy=policy,
                kafka=kafka,
                otlp=otlp,
                host_id=host_id,
                host_name=host_name,
                state_directory=state_directory,
                web=web,
                log_level=log_level,
            )
        )

    command.__doc__ = action.__doc__
    return command


def load_config(flags: Flags, *, monitors_needed: bool = True) -> Config:
    """Return the configuration, or print every problem and exit with code 2."""
    try:
        return load(flags, os.environ, monitors_needed=monitors_needed)
    except ConfigError as error:
        refuse(error)


def refuse(error: ConfigError) -> NoReturn:
    """Print every problem and exit with code 2."""
    typer.echo(
        f"{counted(len(error.problems), 'problem')} in the settings or flags; nothing was started", err=True
    )
    for problem in error.problems:
        typer.echo(f"  {problem}", err=True)
    raise typer.Exit(EXIT_CONFIGURATION)


def in_loop(function: Callable[[Unpack[_Ts]], Awaitable[_T]], *args: *_Ts) -> _T:
    """Return what the coroutine function returns, or print why it cannot start and exit with code 3."""
    options: dict[str, Any] = {"use_uvloop": can_refuse() and find_spec("uvloop") is not None}
    try:
        return anyio.run(function, *args, backend_options=options)
    except (StateFileError, CannotListen) as error:
        typer.echo(f"cannot start: {error}", err=True)
        raise typer.Exit(EXIT_CANNOT_START) from error
    except SinkUnavailable as error:
        typer.echo(f"no answer from Kafka: {error}", err=True)
        raise typer.Exit(EXIT_CANNOT_START) from error
