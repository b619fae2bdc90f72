"""Generates the reference pages: `python -m tests.contract.generate_reference`. A test compares them."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from typer.testing import CliRunner

from agent.cli import cli
from agent.config.reference import config_schema, tables

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "docs/configuration.md"
CLI = ROOT / "docs/cli.md"
CONFIG_SCHEMA = ROOT / "schemas/config.schema.json"

COMMANDS = (
    "run", "check-config", "probe", "give-back", "health", "status", "top",
    "tap", "doctor", "announce", "demo",
    "schema", "version", "spool", "spool status", "spool verify",
    "spool dead-letters", "spool dead-letters list", "spool dead-letters requeue", "spool dead-letters drop",
    "topics", "topics check", "topics create",
)  # fmt: skip
_SETTINGS = re.compile(
    r"(?<=<!-- settings: made by python -m tests\.contract\.generate_reference -->\n).*(?=<!-- end)", re.S
)
_CLI_INTRODUCTION = """\
# Command line

The output of `--help`. For exit codes, see [operations.md](operations.md); for settings,
[configuration.md](configuration.md); for `status` and the codes of its problems, [terminal.md](terminal.md).
"""


@cache
def made() -> Mapping[Path, str]:
    """Return the content of every generated file."""
    return {CONFIG_SCHEMA: _schema(), CONFIGURATION: _configuration(), CLI: _cli()}


def _schema() -> str:
    return json.dumps(config_schema(), indent=2) + "\n"


def _configuration() -> str:
    return _SETTINGS.sub(lambda _: f"\n{tables()}\n\n", CONFIGURATION.read_text())


def _cli() -> str:
    parts = [_CLI_INTRODUCTION, f"```\n{_help()}```\n"]
    parts += [f"## {command}\n\n```\n{_help(*command.split())}```\n" for command in COMMANDS]
    return "\n".join(parts)


def _help(*command: str) -> str:
    environ = {"COLUMNS": "100", "TERM": "dumb"}
    return CliRunner().invoke(cli, [*command, "--help"], env=environ, prog_name="barograph").stdout


if __name__ == "__main__":
    for path, content in made().items():
        path.write_text(content)
