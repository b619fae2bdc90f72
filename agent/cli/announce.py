"""`barograph announce`: makes the running agent repeat all states, by the signal SIGUSR1.

The agent is the process that locks the state directory (agent/spool/directory_lock.py). The kernel names it,
by the number that it has in this PID namespace, so no file with a number can be out of date.
"""

from pathlib import Path

import typer

from agent.cli.flags import EXIT_NEGATIVE, ConfigFlag, StateDirectoryFlag, load_config
from agent.config import Flags
from agent.spool.directory_lock import request_states


def announce(config: ConfigFlag = None, state_directory: StateDirectoryFlag = None) -> None:
    """Make the running agent repeat all states now.

    A reader that has just started gets the states of all VMs and of the agent at once, as heartbeats. Sends
    SIGUSR1 to the agent that uses the state directory. States are repeated at most once in 10 s. Exit code 1:
    no agent uses the state directory, or it cannot be signaled.
    """
    configured = load_config(Flags(config=config, state_directory=state_directory), monitors_needed=False)
    directory = Path(configured.state_directory)
    try:
        pid = request_states(directory)
    except OSError as error:
        typer.echo(f"{directory}: {error.strerror or error}", err=True)
        raise typer.Exit(EXIT_NEGATIVE) from error
    if pid is None:
        message = "no agent uses this state directory; start it, or use --state-directory"
        typer.echo(f"{directory}: {message}", err=True)
        raise typer.Exit(EXIT_NEGATIVE)
    typer.echo(f"asked the agent, process {pid}, to repeat all states")
