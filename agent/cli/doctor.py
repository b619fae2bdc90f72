"""`barograph doctor`: checks this host, the agent and its destinations, and prints what to do."""

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from agent import __version__
from agent.cli.flags import (
    EXIT_CANNOT_START,
    EXIT_NEGATIVE,
    INSTALLED,
    ConfigFlag,
    KafkaFlag,
    LibvirtFlag,
    MonitorFlag,
    OtlpFlag,
    StateDirectoryFlag,
    WebFlag,
    in_loop,
    refuse,
)
from agent.config import Flags
from agent.core.findings import Finding, Level, worst
from agent.errors import ConfigError, Problem
from agent.redaction import Redactor

if TYPE_CHECKING:
    from agent.cli.doctor_bundle import Part


class Output(StrEnum):
    """The forms of the output."""

    TEXT = "text"
    JSON = "json"


class FailOn(StrEnum):
    """What makes the exit code 1."""

    ERROR = "error"
    WARNING = "warning"


def doctor(
    config: ConfigFlag = None,
    monitor: MonitorFlag = None,
    libvirt: LibvirtFlag = None,
    kafka: KafkaFlag = None,
    otlp: OtlpFlag = None,
    state_directory: StateDirectoryFlag = None,
    web: WebFlag = None,
    pre: Annotated[
        bool,
        typer.Option(
            "--pre", help="Check before an installation: connect to no VM, and expect no running agent."
        ),
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="Print text or JSON.")] = Output.TEXT,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Lowest finding level that causes exit code 1.")
    ] = FailOn.ERROR,
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle",
            metavar="FILE",
            help="Also write a new .tar.gz with the files that a bug report needs.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --bundle: list what would be written, and check nothing.")
    ] = False,
) -> None:
    """Check this host, the agent and its destinations.

    Prints what to do about each failure, and changes nothing. Run it as the agent's user. Without --config
    and BAROGRAPH_CONFIG it reads /etc/barograph/barograph.yaml, if there is one. docs/doctor.md describes
    every check. Exit code 1: a check failed.
    """
    environ = os.environ
    if config is None and not Flags().config_file(environ) and os.path.exists(INSTALLED):
        config = INSTALLED
    flags = Flags(
        config=config,
        monitor=tuple(monitor or ()),
        libvirt=tuple(libvirt or ()),
        kafka=kafka,
        otlp=otlp,
        state_directory=state_directory,
        web=web,
    )
    # Imports the libraries of all sinks and all checks, which the other commands must not wait for.
    from agent.cli.doctor_bundle import parts
    from agent.cli.doctor_text import document
    from agent.doctor.examination import configure, examine

    redact = Redactor()
    if dry_run or bundle is not None:
        _refuse_bundle(bundle)
    if dry_run:
        for part in parts(configure(flags, environ)[1], {}):
            typer.echo(f"{part.name:<14} {part.description}")
        return
    report = in_loop(examine, flags, environ, pre, redact)
    _print(report.findings, redact, output, pre=pre, is_complete=report.config is not None)
    if bundle is not None:
        _write(bundle, parts(report.config, document(report.findings, __version__, pre=pre)), redact)
    limit = {FailOn.ERROR: (Level.ERROR,), FailOn.WARNING: (Level.ERROR, Level.WARNING)}[fail_on]
    if worst(report.findings) in limit:
        raise typer.Exit(EXIT_NEGATIVE)


def _refuse_bundle(bundle: str | None) -> None:
    """Refuse a bundle that cannot be written, before the checks take their time."""
    if bundle is None:
        refuse(ConfigError([Problem("--dry-run", "needs --bundle; add it")]))
    if os.path.lexists(bundle):
        refuse(ConfigError([Problem("--bundle", f"{bundle!r} exists; use the name of a new file")]))


def _write(bundle: str, found: "list[Part]", redact: Redactor) -> None:
    from agent.cli.doctor_bundle import write_bundle

    try:
        names = write_bundle(bundle, found, redact)
    except OSError as error:
        typer.echo(f"--bundle: {bundle!r} cannot be written: {error.strerror}; use another path", err=True)
        raise typer.Exit(EXIT_CANNOT_START) from error
    typer.echo(f"wrote {bundle}: {', '.join(names)}", err=True)


def _print(
    findings: Sequence[Finding], redact: Redactor, output: Output, *, pre: bool, is_complete: bool
) -> None:
    from agent.cli.doctor_text import document, lines

    if output is Output.JSON:
        typer.echo(redact(json.dumps(document(findings, __version__, pre=pre), indent=2, ensure_ascii=False)))
        return
    for line in lines(findings, is_plain=_is_plain(), is_complete=is_complete):
        typer.echo(redact(line))


def _is_plain() -> bool:
    """Return whether the output must be ASCII: the terminal or the locale cannot show more, or NO_COLOR."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return encoding != "utf8" or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
