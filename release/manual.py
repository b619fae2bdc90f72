"""Generates the manual page and the shell completions from the definition of the command line."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from typer.testing import CliRunner

from agent import __version__
from agent.cli import cli
from tests.contract.generate_reference import COMMANDS

EXIT_STATUS: Mapping[str, str] = {
    "0": "success",
    "1": "the command ran, and its result is negative; see each command",
    "2": "the configuration or the command line is invalid; nothing was started",
    "3": "the agent cannot start, or what the command needs is not available; see each command",
    "130": "interrupted: run by a second signal, other commands by Ctrl-C",
}
FILES: Mapping[str, str] = {
    "/etc/barograph/barograph.yaml": "the configuration of the service",
    "/var/lib/barograph": "the state directory: the spool, and the ledger of changed intervals",
    "/usr/lib/systemd/system/barograph.service": "the service",
    "/usr/share/doc/barograph": "the documentation, and examples of rules and a drop-in",
    "/usr/share/bash-completion/completions/barograph": "completion for bash",
    "/usr/share/zsh/vendor-completions/_barograph": "completion for zsh",
    "/usr/share/fish/vendor_completions.d/barograph.fish": "completion for fish",
}
ENVIRONMENT: Mapping[str, str] = {
    "BAROGRAPH_CONFIG": "the configuration file, as --config gives it",
    "BAROGRAPH_SECTION__SETTING": "one setting; it overrides the file, and a flag overrides it",
    "NO_COLOR": "no color, if it is set and not empty",
}

SHELLS = ("bash", "zsh", "fish")


def manual(epoch_s: int) -> str:
    """Return barograph(1), in roff (man(7)).

    Args:
        epoch_s: Unix seconds; the date in the footer.
    """
    date = datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d")
    usage, description = _help().removeprefix("Usage: ").split("\n\n", 1)
    lines = [
        f'.TH BAROGRAPH 1 "{date}" "barograph {__version__}"',
        ".SH NAME",
        r"barograph \- record the memory pressure of QEMU VMs in Kafka and OTLP",
        ".SH SYNOPSIS",
        *_verbatim(usage),
        ".SH DESCRIPTION",
        *_verbatim(description),
    ]
    for command in COMMANDS:
        lines += [f'.SH "{command.upper()}"', *_verbatim(_help(*command.split()))]
    lines += [
        ".SH EXIT STATUS",
        *_tagged(EXIT_STATUS),
        ".SH FILES",
        *_tagged(FILES),
        ".SH ENVIRONMENT",
        *_tagged(ENVIRONMENT),
    ]
    return "\n".join(lines) + "\n"


def completion(shell: str) -> str:
    """Return the completion script of a shell; `shell` is one of `SHELLS`."""
    environ = {**os.environ, "_BAROGRAPH_COMPLETE": f"source_{shell}"}
    # The script completes the name that the program is called by.
    command = Path(sys.prefix) / "bin" / "barograph"
    done = subprocess.run([command], check=True, capture_output=True, text=True, env=environ)
    return done.stdout.strip() + "\n"


def _tagged(texts: Mapping[str, str]) -> Iterator[str]:
    for name, text in texts.items():
        yield from (".TP", f".B {_escaped(name)}", f"{_escaped(text)}.")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def _verbatim(text: str) -> Iterator[str]:
    yield ".nf"
    for line in text.rstrip().splitlines():
        escaped = _escaped(line)
        yield f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
    yield ".fi"


def _help(*command: str) -> str:
    environ = {"COLUMNS": "80", "TERM": "dumb"}
    return CliRunner().invoke(cli, [*command, "--help"], env=environ, prog_name="barograph").stdout
