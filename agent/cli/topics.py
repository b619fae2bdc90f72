"""`barograph topics`: check the agent's topics in Kafka, create them, or print the commands that do."""

import json
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

from agent.cli.flags import EXIT_NEGATIVE, INSTALLED, ConfigFlag, KafkaFlag, in_loop, load_config, refuse
from agent.config import Config, Flags
from agent.config.units import parse_duration
from agent.core.findings import Finding, Level, worst
from agent.core.topic_commands import COMMAND_CONFIG, Command, NewTopics, create_topic, setup, shown
from agent.core.topic_facts import partitions_for, retention_for
from agent.core.wording import counted
from agent.errors import ConfigError, Problem
from agent.redaction import Redactor

commands = typer.Typer(
    help=(
        "Check and create the topics in Kafka. Without --kafka, --config and BAROGRAPH_CONFIG, reads the"
        " installed file, /etc/barograph/barograph.yaml, if it exists."
    ),
    no_args_is_help=True,
)

_PARTITIONS_MAX = 10_000
_REPLICAS_MAX = 100
_REPLICAS_UNSEEN = 3  # --dry-run does not ask how many brokers there are


class Output(StrEnum):
    """How to print the result."""

    TEXT = "text"
    JSON = "json"


VmsFlag = Annotated[
    int | None,
    typer.Option(
        "--vms",
        metavar="N",
        min=1,
        help="Number of VMs on all hosts; sets the suggested number of partitions.",
    ),
]
PrincipalFlag = Annotated[
    str | None,
    typer.Option(
        "--principal",
        metavar="TYPE:NAME",
        help="The agent's user in the printed ACLs; default: User:NAME with the name in kafka.sasl.username.",
    ),
]
OutputFlag = Annotated[Output, typer.Option("--output", "-o", help="Print text or JSON.")]


@commands.command()
def check(
    config: ConfigFlag = None,
    kafka: KafkaFlag = None,
    vms: VmsFlag = None,
    principal: PrincipalFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Check that the topics have the right settings for the agent.

    Connects as the agent does, and changes nothing. Checks partitions, replicas, retention against spool.age,
    timestamps, sizes, and what the agent's user may do. Exit code 1: there are errors; 3: Kafka cannot be
    reached.
    """
    configured = _load(config, kafka)
    from agent import once

    findings = in_loop(once.check_topics, configured, vms, principal)
    echo = _echo(configured)
    if output is Output.JSON:
        echo(json.dumps({"findings": [_document(each) for each in findings]}, indent=2))
    else:
        _print_findings(findings, echo)
    if worst(findings) is Level.ERROR:
        raise typer.Exit(EXIT_NEGATIVE)


@commands.command()
def create(
    config: ConfigFlag = None,
    kafka: KafkaFlag = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            "--partitions",
            metavar="N",
            min=1,
            max=_PARTITIONS_MAX,
            help="Partitions of each new topic; default: 6, or more for --vms.",
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            "--replication-factor",
            metavar="N",
            min=1,
            max=_REPLICAS_MAX,
            help="Replicas of each partition; default: 3, or the number of brokers if there are fewer.",
        ),
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(
            "--retention",
            metavar="DURATION",
            help="How long to keep records; default: 7 days more than spool.age.",
        ),
    ] = None,
    min_in_sync: Annotated[
        int | None,
        typer.Option(
            "--min-insync-replicas",
            metavar="N",
            min=1,
            max=_REPLICAS_MAX,
            help="Replicas that must store a record; default: one fewer than the replicas, at least 1.",
        ),
    ] = None,
    vms: VmsFlag = None,
    principal: PrincipalFlag = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", "--print", help="Connect to nothing, and print the commands for an administrator."
        ),
    ] = False,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Create the topics that are missing, and check all of them.

    An existing topic is never changed: the commands that would change it are printed. Exit code 1: a topic
    could not be created, or there are errors; 3: Kafka cannot be reached.
    """
    configured = _load(config, kafka)
    echo = _echo(configured)
    from agent import once

    sizes = NewTopics(
        partitions=partitions or partitions_for(vms),
        replicas=replicas,
        retention_ms=_retention_ms(configured, retention),
        min_in_sync=min_in_sync,
    )
    _refuse_too_many(sizes.replicas, min_in_sync)
    cluster = once.cluster_of(configured, principal)
    if dry_run:
        topics = [each.name for each in once.sending_of(configured, vms).topics]
        lines = [shown(each) for each in setup(cluster, topics, sizes.wanted(_REPLICAS_UNSEEN))]
        if output is Output.JSON:
            echo(json.dumps({"commands": lines}, indent=2))
            return
        if cluster.principal is None:
            echo("# The agent's user is not known; add --principal User:NAME for its ACLs.")
        if cluster.is_secured:
            echo(f"# {COMMAND_CONFIG}: the login of an administrator.")
        for line in lines:
            echo(line)
        return
    done = in_loop(once.create_topics, configured, sizes, vms, principal)
    retry = [create_topic(cluster, each, done.wanted) for each in done.failed]
    if output is Output.JSON:
        document = {
            "created": done.created,
            "not_created": [{"topic": name, "detail": why} for name, why in done.failed.items()],
            "commands": [shown(each) for each in retry],
            "findings": [_document(each) for each in done.findings],
        }
        echo(json.dumps(document, indent=2))
    else:
        for name in done.created:
            sized = (
                f"{counted(done.wanted.partitions, 'partition')}, {counted(done.wanted.replicas, 'replica')}"
            )
            echo(f"created {name}: {sized}")
        for name, why in done.failed.items():
            echo(f"not created {name}: {why}")
        _print_findings([each for each in done.findings if each.level is not Level.OK], echo, retry)
    if done.failed or worst(done.findings) is Level.ERROR:
        raise typer.Exit(EXIT_NEGATIVE)


def _load(config: str | None, kafka: str | None) -> Config:
    if kafka is None and Flags(config=config).config_file(os.environ) is None and os.path.exists(INSTALLED):
        config = INSTALLED
    configured = load_config(Flags(config=config, kafka=kafka), monitors_needed=False)
    if configured.kafka is None:
        _refuse("kafka.bootstrap_servers", "not set, so there are no topics; set it")
    return configured


def _retention_ms(configured: Config, written: str | None) -> int:
    if written is None:
        return retention_for(configured.spool_age_s)
    try:
        retention_ms = int(parse_duration(written).s * 1000)
    except ValueError as error:
        _refuse("--retention", str(error))
    if retention_ms <= (configured.spool_age_s or 0) * 1000:
        _refuse("--retention", f"{written} is not longer than spool.age; use more, or lower spool.age")
    return retention_ms


def _refuse_too_many(replicas: int | None, min_in_sync: int | None) -> None:
    if replicas is not None and min_in_sync is not None and min_in_sync > replicas:
        _refuse("--min-insync-replicas", f"{min_in_sync} is more than --replication-factor; use less")


def _refuse(place: str, message: str) -> NoReturn:
    refuse(ConfigError([Problem(place, message)]))


def _echo(configured: Config) -> Callable[[str], None]:
    """Return a function that prints a text without the secrets of the configuration."""
    redact = Redactor(configured.secrets)
    return lambda text: typer.echo(redact(text))


def _document(finding: Finding) -> dict[str, str | None]:
    return {
        "code": finding.code,
        "level": finding.level,
        "topic": finding.subject or None,
        "detail": finding.detail,
        "hint": finding.hint or None,
        "command": None if finding.command is None else shown(finding.command),
    }


def _print_findings(
    findings: Sequence[Finding], echo: Callable[[str], None], more: Sequence[Command] = ()
) -> None:
    rows = [
        (each.level.value, each.subject or "(cluster)", each.code.value, each.detail) for each in findings
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row, finding in zip(rows, findings, strict=True):
        cells = [text.ljust(width) for text, width in zip(row[:3], widths, strict=True)]
        echo("  ".join((*cells, row[3])))
        if finding.hint:
            echo(f"{'':{sum(widths) + 6}}{finding.hint}")
    lines = [
        shown(each) for each in (*more, *(each.command for each in findings if each.command is not None))
    ]
    if lines:
        echo("\nCommands for an administrator:")
    for line in dict.fromkeys(lines):
        echo(f"  {line}")
