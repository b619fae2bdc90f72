"""A host for the tests of `barograph doctor`, and the register of causes.

A cause is a generator: it makes the check fail, yields, and then follows the hint.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from typer.testing import CliRunner

from agent import doctor  # before a test changes to a user who may not read the files
from agent.cli import cli
from agent.core.doctor.codes import Code
from agent.core.findings import Finding

assert doctor

OTHER = 1234
"""A user without rights."""

ORDER = ("ok", "warning", "error")


@dataclass
class Case:
    """A host, and the arguments and environment variables of the command."""

    folder: Path  # short, and open for all users
    stack: ExitStack
    words: list[str] = field(default_factory=list[str])
    environ: dict[str, str] = field(default_factory=dict[str, str])
    user: int = 0
    within: list[str] = field(default_factory=list[str])  # a command that runs its arguments
    judged: list[Finding] | None = None  # instead of the command's output

    def __post_init__(self) -> None:
        self.state.mkdir(mode=0o700)
        self.environ |= {
            "BAROGRAPH_HOST__ID": "host-1",
            "BAROGRAPH_HOST__NAME": "one",
            "BAROGRAPH_MONITORS": f"{self.folder}/*.qmp",
            "BAROGRAPH_STATE_DIRECTORY": str(self.state),
            "BAROGRAPH_WEB__ENABLED": "false",
        }

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.folder / "state"

    def file(self, text: str) -> None:
        """Write the configuration file."""
        path = self.folder / "barograph.yaml"
        path.write_text(text)
        self.environ["BAROGRAPH_CONFIG"] = str(path)

    def listen(
        self, name: str, mode: int = 0o777, accept: Callable[[socket.socket], None] | None = None
    ) -> Path:
        """Listen on a socket in the folder; `accept` serves one client after another."""
        import threading

        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        server = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        path.chmod(mode)
        server.listen(8)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client, suppress(OSError):
                        cast("Callable[[socket.socket], None]", accept)(client)

        if accept is not None:
            threading.Thread(target=serve, daemon=True).start()
            self.stack.callback(server.shutdown, socket.SHUT_RDWR)
        return path

    def with_web(self, place: str) -> None:
        """Let the command ask the agent at `place`."""
        self.environ |= {"BAROGRAPH_WEB__ENABLED": "true", "BAROGRAPH_WEB__LISTEN": place}

    def run(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the worst finding of each code."""
        findings = self._documents()
        worst: dict[str, Mapping[str, Any]] = {}
        for each in findings:
            known = worst.setdefault(each["code"], each)
            if ORDER.index(each["level"]) > ORDER.index(known["level"]):
                worst[each["code"]] = each
        return worst

    def _documents(self) -> list[Mapping[str, Any]]:
        if self.judged is not None:
            return [
                {
                    "code": each.code,
                    "level": each.level,
                    "hint": each.hint,
                    "docs": f"docs/doctor.md#{each.code}",
                }
                for each in self.judged
            ]
        words = ["doctor", "-o", "json", *self.words]
        if self.within:
            argv = [*self.within, sys.executable, "-m", "agent", *words]
            environ = {**os.environ, **self.environ}
            done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=180, check=False)
            return json.loads(done.stdout)["findings"]
        with as_user(self.user):
            result = CliRunner().invoke(cli, words, env=self.environ, prog_name="barograph")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return json.loads(result.stdout)["findings"]


@contextmanager
def as_user(user: int) -> Generator[None]:
    """Run the block with the rights of another user."""
    if user:
        os.setegid(user)
        os.seteuid(user)
    try:
        yield
    finally:
        if user:
            os.seteuid(0)
            os.setegid(0)


Cause = Callable[[Case], Generator[None]]
RED: dict[Code, Cause] = {}
AS_ROOT: set[Code] = set()
"""The codes with a cause that needs root."""


def red(code: Code, *, as_root: bool = False) -> Callable[[Cause], Cause]:
    """Register the cause of a code."""

    def register(cause: Cause) -> Cause:
        assert code not in RED
        RED[code] = cause
        if as_root:
            AS_ROOT.add(code)
        return cause

    return register
