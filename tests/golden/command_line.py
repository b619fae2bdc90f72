"""Golden records of what commands print and how they exit. `_placed` replaces the parts that vary."""

import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

from structlog import configure as configure_structlog
from structlog import get_config
from typer.testing import CliRunner

from agent import __version__
from agent.cli import SCHEMAS, cli
from agent.spool.directory_lock import kept_out
from tests.golden import documents, state_directory
from tests.golden.texts import Texts

_ENVIRON = {"COLUMNS": "100", "TERM": "dumb", "BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one"}
_FOREIGN = ("BAROGRAPH_", "OTEL_", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_")
_ABOUT = {"description", "x-source", "title", "examples", "$comment", "markdownDescription"}
_OF_NAMES = ("properties", "$defs", "patternProperties")

_VALID = """\
monitors:
  - {glob: /run/vm/*.qmp}
  - {glob: /run/shared/a.qmp, access: share}
polling: {interval: 5s, policy: enforce}
kafka: {bootstrap_servers: "a:1,b:2", compression: lz4, sasl: {mechanism: PLAIN, username: u}}
otlp: {endpoint: "http://c:4317", interval: 30s}
web: {listen: "127.0.0.1:1234"}
state_directory: /var/lib/x
"""
_WRONG = """\
monitors: [{glob: relative/*.qmp, akcess: share}]
polling: {interval: 5, policy: fil}
kafka: {bootstrap_servers: "a:1", kompression: lz4, samples_topic: x, states_topic: x,
        sasl: {password: geheim}}
otlp: {endpoint: "c:4317"}
host: {id: ""}
"""


class Recorded:
    """Runs commands, and records the exit code and the output of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.codes: list[str] = []
        self.said: list[str] = []

    def run(self, words: str, **environ: str) -> str:
        """Run one command and return its stdout. `{folder}` stands for the temporary folder."""
        typed = [each.replace("{folder}", str(self._folder)) for each in words.split()]
        given = _unset() | {
            name: value.replace("{folder}", str(self._folder)) for name, value in environ.items()
        }
        with logging_as_before():
            done = CliRunner().invoke(cli, typed, env=_ENVIRON | given, prog_name="barograph")
        variables = "".join(f"{name}={value} " for name, value in environ.items())
        line = f"$ {variables}barograph {words}\n"
        streams = f"{_amount(done.stdout)} to stdout, {_amount(done.stderr)} to stderr"
        self.codes.append(f"{line}exit {done.exit_code}, {streams}\n")
        said = self._placed(done.stdout)
        if said.startswith("{"):  # for programs, not for people
            texts = Texts()
            self.codes.append(texts.out_of(said))
            said = texts.file()
        self.said.append(f"{line}{said}")
        if done.stderr:
            self.said.append(f"--- stderr\n{self._placed(done.stderr)}")
        return done.stdout

    def _placed(self, text: str) -> str:
        text = text.replace(str(self._folder), "{folder}")
        text = re.sub(rf"\b{re.escape(__version__)}\b", "<version>", text)
        text = re.sub(rf"\b{re.escape(sqlite3.sqlite_version)}\b", "<sqlite>", text)
        text = re.sub(r'("run": ")[0-9a-f-]{36}', r"\1<run>", text)
        return re.sub(r'("(?:since|observed_at|next_heartbeat_by)_ms": )\d{13}', r"\1<ms>", text)

    def files(self, name: str) -> dict[str, str]:
        """Return the recorded files: one has exit codes and JSON, the other has texts for people."""
        return {f"cli/{name}.txt": "".join(self.codes), f"texts/cli/{name}.txt": "".join(self.said)}


def _unset() -> dict[str, str | None]:
    """Return the variables to unset, so that the environment of the test run does not matter."""
    return {name: None for name in os.environ if name.startswith(_FOREIGN)}


def _amount(text: str) -> str:
    return "text" if text else "nothing"


@contextmanager
def logging_as_before() -> Generator[None]:
    """Restore the logging configuration at the end, since some commands change it for the process."""
    root, of_structlog = logging.getLogger(), get_config()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    configure_structlog(**of_structlog)


# --- help ---


def help_texts() -> dict[str, str]:
    """Return the help of each command, and its parameters without the descriptions."""
    recorded = Recorded(Path("/nowhere"))
    taken: list[str] = []
    waiting = [""]
    while waiting:
        command = waiting.pop(0)
        text = recorded.run(f"{command} --help".strip())
        usage, *rows = text.splitlines()
        taken.append(f"{usage}\n")
        section = ""
        for row in rows:
            if row[:1].strip():
                section = row.rstrip()
            # At least two spaces separate a name and its argument from the description.
            named = re.match(r"  (\S+(?: \S+)*)(?:  |$)", row)
            if named and section in ("Options:", "Arguments:", "Commands:"):
                taken.append(f"  {named[1]}\n")
            if named and section == "Commands:":
                waiting.append(f"{command} {named[1]}".strip())
    return {"cli/parameters.txt": "".join(taken), "texts/cli/help.txt": "".join(recorded.said)}


# --- commands ---


def configurations(folder: Path) -> dict[str, str]:
    (folder / "valid.yaml").write_text(_VALID)
    (folder / "wrong.yaml").write_text(_WRONG)
    (folder / "broken.yaml").write_text("monitors: [\n")
    recorded = Recorded(folder)
    recorded.run("check-config --config {folder}/valid.yaml", BAROGRAPH_KAFKA__SASL__PASSWORD="geheim")
    recorded.run("check-config --monitor /run/a --interval 5s --policy observe --host-id h --host-name n")
    recorded.run("check-config --libvirt qemu+ssh://other/system --interval 5")
    recorded.run("check-config --config {folder}/wrong.yaml")
    recorded.run("check-config --config {folder}/broken.yaml")
    recorded.run("check-config --config {folder}/missing.yaml")
    recorded.run("check-config", BAROGRAPH_POLING__INTERVAL="5s", BAROGRAPH_POLLING__INTERVAL="5 s")
    recorded.run("run --interval 5")
    return recorded.files("check_config")


def others(folder: Path) -> dict[str, str]:
    recorded = Recorded(folder)
    for words in (
        "",
        "version",
        "--version",
        "nonsense",
        "run --nonsense 1",
        "schema",
        "schema --list",
        "schema x",
    ):
        recorded.run(words)
    recorded.run("probe {folder}/nobody.qmp --timeout 200ms")
    recorded.run("probe {folder}/nobody.qmp --timeout 5")
    recorded.run("probe /x --enable-polling 0")
    recorded.run("health --web 127.0.0.1:1")
    recorded.run("health --web 127.0.0.1:0")
    recorded.run("demo --interval 5")
    recorded.run("give-back --state-directory relative")
    recorded.run("give-back --state-directory /proc/barograph")
    recorded.run("give-back --state-directory {folder}/empty")
    ledger = folder / "restore" / state_directory.LEDGER
    ledger.parent.mkdir()
    ledger.write_bytes(
        documents.write_changes([each for each in documents.CHANGES if str(each.address).startswith("/")])
    )
    with kept_out(ledger.parent):
        recorded.run("give-back --state-directory {folder}/restore")
    recorded.run("give-back --state-directory {folder}/restore")
    recorded.run("give-back --state-directory {folder}/restore")
    return recorded.files("others")


def spool(folder: Path) -> dict[str, str]:
    """Return the output of the spool commands for a spool that 0.1.0 wrote."""
    recorded = Recorded(folder)
    left = folder / "left"
    released(left)
    shutil.copytree(left, folder / "damaged")
    with closing(sqlite3.connect(folder / "damaged" / state_directory.SPOOL)) as connection, connection:
        connection.execute("UPDATE totals SET total = total + 1 WHERE name = 'samples'")
        connection.execute("UPDATE dead_letters SET headers = x'ff' WHERE position = 1")
        connection.execute("DELETE FROM samples WHERE first = (SELECT max(first) FROM samples)")
    for words in ("status", "status --json", "verify", "dead-letters list", "dead-letters list --json"):
        recorded.run(f"spool {words} --state-directory {{folder}}/left")
    recorded.run("spool status --json --file {folder}/left/spool.sqlite")
    recorded.run("spool status --file {folder}/left/spool.sqlite --state-directory /x")
    recorded.run("spool status --state-directory {folder}/nothing")
    recorded.run("spool verify --state-directory {folder}/nothing")
    recorded.run("spool verify --state-directory {folder}/damaged")
    recorded.run("spool dead-letters list --state-directory {folder}/damaged")
    for word in ("requeue", "drop"):
        with kept_out(left):
            recorded.run(f"spool dead-letters {word} 1 --state-directory {{folder}}/left")
        recorded.run(f"spool dead-letters {word} --state-directory {{folder}}/left")
        recorded.run(f"spool dead-letters {word} 1 9 --state-directory {{folder}}/left")
    recorded.run("spool dead-letters requeue 1 --state-directory {folder}/damaged")
    recorded.run("spool dead-letters requeue 1 --state-directory {folder}/left")
    recorded.run("spool dead-letters drop --all --state-directory {folder}/left")
    recorded.run("spool status --json --state-directory {folder}/left")
    after = state_directory.logical(left / state_directory.SPOOL)
    return recorded.files("spool") | {"cli/spool_after.sql": after}


def released(directory: Path) -> None:
    """Create a state directory as 0.1.0 left it."""
    state_directory.restore(RELEASED, directory)


RELEASED = Path(__file__).parent / "released-0.1.0"


# --- schemas ---


def schemas() -> dict[str, str]:
    """Return the schemas without the texts for people."""
    files: dict[str, str] = {}
    for name in SCHEMAS:
        for closed in ([], ["--closed"]):
            printed = CliRunner().invoke(cli, ["schema", name, *closed], env=_ENVIRON).stdout
            if name != "asyncapi" and (name != "config" or not closed):
                bare = json.dumps(_without_texts(json.loads(printed)), indent=1) + "\n"
                files[f"cli/schemas/{name}{'.closed' if closed else ''}.json"] = bare
    return files


def _without_texts(schema: Any, *, names: bool = False) -> Any:
    """Return a schema without its texts. With `names`, its keys are names of properties, and all are kept."""
    if isinstance(schema, list):
        return [_without_texts(each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_texts(value, names=key in _OF_NAMES and not names)
        for key, value in cast("dict[str, Any]", schema).items()
        if names or key not in _ABOUT
    }


def made() -> dict[str, str]:
    """Return the recorded files."""
    files = help_texts() | schemas()
    for part in (configurations, others, spool):
        with tempfile.TemporaryDirectory(prefix="barograph-golden-") as folder:
            files |= part(Path(folder))
    return files
