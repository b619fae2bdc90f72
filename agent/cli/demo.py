"""`barograph demo`: the flags, checked as `run` checks them before anything is started."""

import os
from typing import Annotated

import typer

from agent.cli.flags import KafkaFlag, OtlpFlag, refuse
from agent.config import Flags, load
from agent.config.units import parse_duration
from agent.errors import ConfigError, Problem
from simulator.demo.scenarios import SCENARIOS, Scenario

_ABOUT = """\
Simulate a hypervisor, run the agent on it, and show what it says: no QEMU, no root.

Both are processes of their own with a temporary folder, and are gone at the end. Where the output is no
terminal, only the story and the summary are written. Exit code 1: a sample was lost, repeated or wrong, or it
could not go on; 130: interrupted, after the summary.

The scenarios:"""

HELP = "\n\n".join([_ABOUT, *(f"{name}: {script.about}" for name, script in SCENARIOS.items())])
"""Of the command."""

VMS_MAX, SECONDS_MIN, SECONDS_MAX = 2000, 5, 600


def demo(
    scenario: Annotated[Scenario, typer.Option("--scenario", help="What happens.")] = Scenario.DAY,
    vms: Annotated[
        int | None,
        typer.Option(
            "--vms", metavar="N", min=1, max=VMS_MAX, help="How many, instead of the scenario's number."
        ),
    ] = None,
    seconds: Annotated[
        int | None,
        typer.Option(
            "--seconds",
            metavar="S",
            min=SECONDS_MIN,
            max=SECONDS_MAX,
            help="How long, instead of the scenario's time.",
        ),
    ] = None,
    interval: Annotated[
        str, typer.Option("--interval", metavar="DURATION", help="How often guests are asked.")
    ] = "1s",
    kafka: KafkaFlag = None,
    otlp: OtlpFlag = None,
) -> None:  # its help is HELP
    from simulator.demo.run import Options
    from simulator.demo.run import demo as shown  # rich: --help shall not wait for it

    script = SCENARIOS[scenario]
    try:
        interval_s = parse_duration(interval).s
    except ValueError as error:
        refuse(ConfigError([Problem("--interval", str(error))]))
    options = Options(
        scenario=scenario,
        vms=vms or script.vms,
        seconds=seconds or script.seconds,
        interval=interval,
        interval_s=interval_s,
        kafka=kafka,
        otlp=otlp,
    )
    typed = Flags(
        monitors=("/*",), interval=interval, kafka=kafka, otlp=otlp, host_id="demo", state_directory="/"
    )
    try:
        load(typed, options.environment(os.environ))
    except ConfigError as error:
        refuse(error)
    raise typer.Exit(shown(options))
