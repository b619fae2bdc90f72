"""The command line: `commands.py` has the commands, `spool.py` those about the spool."""

from agent.cli.commands import SCHEMAS, cli, main

__all__ = ["SCHEMAS", "cli", "main"]
