"""The manual page and the completions of shells, from the command line's own definition."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from typer.testing import CliRunner

from agent import __version__
from agent.cli import cli
from tests.contract.generate_reference import COMMANDS

SHELLS = ("bash", "zsh", "fish")


def manual(epoch_s: int) -> str:
    """Return barograph(1), in roff (man(7)).

    Args:
        epoch_s: Unix seconds; its date stands at the foot.
    """
    date = datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d")
    lines = [
        f'.TH BAROGRAPH 1 "{date}" "barograph {__version__}"',
        ".SH NAME",
        r"barograph \- records the memory pressure of QEMU VMs, to Kafka and OTLP",
        ".SH SYNOPSIS",
        *_verbatim(_help()),
    ]
    for command in COMMANDS:
        lines += [f'.SH "{command.upper()}"', *_verbatim(_help(*command.split()))]
    lines += [
        ".SH EXIT STATUS",
        "0 done; 1 there is an answer, and it is not the one hoped for; 2 the configuration or the command",
        "line is wrong, nothing was started; 3 cannot start; 130 interrupted.",
        ".SH FILES",
        ".I /etc/barograph/barograph.yaml",
        "the service's configuration.",
        ".br",
        ".I /var/lib/barograph",
        "what waits for Kafka, and what is owed to VMs.",
    ]
    return "\n".join(lines) + "\n"


def completion(shell: str) -> str:
    """Return the script that teaches a shell the command line; `shell` is one of `SHELLS`."""
    environ = {**os.environ, "_BAROGRAPH_COMPLETE": f"source_{shell}"}
    # The program's name is taken from how it is called.
    command = Path(sys.prefix) / "bin" / "barograph"
    done = subprocess.run([command], check=True, capture_output=True, text=True, env=environ)
    return done.stdout.strip() + "\n"


def _verbatim(text: str) -> Iterator[str]:
    yield ".nf"
    for line in text.rstrip().splitlines():
        escaped = line.replace("\\", "\\e").replace("-", "\\-")
        yield f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
    yield ".fi"


def _help(*command: str) -> str:
    environ = {"COLUMNS": "80", "TERM": "dumb"}
    return CliRunner().invoke(cli, [*command, "--help"], env=environ, prog_name="barograph").stdout
