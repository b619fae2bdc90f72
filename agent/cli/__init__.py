"""The command line: commands in `commands.py`, those about the spool in `spool.py`."""

from agent.cli.commands import SCHEMAS, cli, main

__all__ = ["SCHEMAS", "cli", "main"]
