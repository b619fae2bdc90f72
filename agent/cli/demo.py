"""The command `barograph demo`; flags are validated as by `barograph run` before anything starts."""

import os
from typing import Annotated

import typer

from agent.cli.flags import KafkaFlag, OtlpFlag, refuse
from agent.config import Flags, load
from agent.config.units import parse_duration
from agent.errors import ConfigError, Problem
from simulator.demo.scenarios import SCENARIOS, Scenario

_ABOUT = """\
Run the agent on simulated VMs and show its records.

Needs neither QEMU nor root. The simulator and the agent run as separate processes in a temporary folder;
nothing is left behind. If the output is not a terminal, the demo prints a timeline and the summary. Exit
code 1: a sample was lost, repeated or wrong, or the demo failed; 130: interrupted (the summary is
printed).

Scenarios:"""

HELP = "\n\n".join([_ABOUT, *(f"{name}: {script.about}" for name, script in SCENARIOS.items())])
"""The help text of the command."""

VMS_MAX, SECONDS_MIN, SECONDS_MAX = 2000, 5, 600


def demo(
    scenario: Annotated[Scenario, typer.Option("--scenario", help="What to show.")] = Scenario.DAY,
    vms: Annotated[
        int | None,
        typer.Option(
            "--vms", metavar="N", min=1, max=VMS_MAX, help="Number of VMs; default: depends on the scenario."
        ),
    ] = None,
    seconds: Annotated[
        int | None,
        typer.Option(
            "--seconds",
            metavar="S",
            min=SECONDS_MIN,
            max=SECONDS_MAX,
            help="Duration; default: depends on the scenario.",
        ),
    ] = None,
    interval: Annotated[
        str, typer.Option("--interval", metavar="DURATION", help="The polling interval.")
    ] = "1s",
    kafka: KafkaFlag = None,
    otlp: OtlpFlag = None,
) -> None:  # HELP is registered as its help text
    from simulator.demo.run import Options, run_demo  # imports rich, which --help does not need

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
    flags = Flags(
        monitor=("/*",), interval=interval, kafka=kafka, otlp=otlp, host_id="demo", state_directory="/"
    )
    try:
        load(flags, options.environment(os.environ))
    except ConfigError as error:
        refuse(error)
    raise typer.Exit(run_demo(options))
