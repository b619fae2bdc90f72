"""`barograph spool`: show and verify the spool, and list, requeue or drop dead letters."""

import base64
import json
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.flags import (
    EXIT_CANNOT_START,
    EXIT_NEGATIVE,
    ConfigFlag,
    StateDirectoryFlag,
    load_config,
    refuse,
)
from agent.config import Flags
from agent.contract.headers import decode_headers
from agent.core.wording import counted
from agent.errors import ConfigError, Problem, SpoolError, StateFileError
from agent.runtime import clock
from agent.spool.dead_letters import Letter, NotDone, dead_letters, drop, requeue
from agent.spool.directory_lock import is_in_use
from agent.spool.disk import FILE_NAME
from agent.spool.inspect import Contents, contents
from agent.spool.state_directory import act_as_owner
from agent.spool.store import Bounds
from agent.spool.verify import verify as verdict

commands = typer.Typer(help="Inspect the spool and manage dead letters.", no_args_is_help=True)
letters = typer.Typer(
    help="List, requeue or drop records that were refused.",
    no_args_is_help=True,
)
commands.add_typer(letters, name="dead-letters")

FileFlag = Annotated[
    str | None,
    typer.Option(
        "--file", metavar="PATH", help="Use this file, such as a copy, instead of the configured spool."
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Numbers = Annotated[
    list[int] | None,
    typer.Argument(
        metavar="NUMBER", help="Numbers of dead letters, from the output of list.", show_default=False
    ),
]
AllFlag = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@dataclass(frozen=True, slots=True)
class _Place:
    """The spool to work on."""

    path: Path
    bounds: Bounds | None  # None: --file, so the bounds are not known

    @property
    def agent(self) -> bool | None:
        """Whether an agent uses it; `None`: unknown, or --file."""
        return None if self.bounds is None else is_in_use(self.path.parent)


@commands.command()
def status(
    config: ConfigFlag = None,
    state_directory: StateDirectoryFlag = None,
    file: FileFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what is queued, and whether an agent is running.

    Shows the number, age and size of the records in each queue, the dead letters, and how many VMs the spool
    remembers. This does not disturb a running agent.
    """
    place = _place(config, state_directory, file)
    with _errors_reported():
        found = contents(place.path)
    if as_json:
        typer.echo(json.dumps(_status_document(place, found, clock.unix_ms()), indent=2))
    else:
        for name, text in _status_lines(place, found, clock.unix_ms()):
            typer.echo(f"{name:<12}  {text}")


@commands.command()
def verify(
    config: ConfigFlag = None, state_directory: StateDirectoryFlag = None, file: FileFlag = None
) -> None:
    """Verify that the spool is intact.

    Checks the pages of the file, every row, the totals, and that the samples of each VM are in order without
    gaps. This does not disturb a running agent. Exit code 1: there are problems.
    """
    found = verdict(_place(config, state_directory, file).path)
    for line in found.seen:
        typer.echo(line)
    count = len(found.problems)
    typer.echo(f"{counted(count, 'problem')}:" if count else "no problems found")
    for line in found.problems:
        typer.echo(f"  {_printable(line)}")
    if count:
        raise typer.Exit(EXIT_NEGATIVE)


@letters.command("list")
def list_letters(
    config: ConfigFlag = None,
    state_directory: StateDirectoryFlag = None,
    file: FileFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """List dead letters, newest first.

    Shows the number, time, reason, size, key, id and detail of each. With --json, print one document per
    line, with headers and value. This does not disturb a running agent.
    """
    place = _place(config, state_directory, file)
    with _errors_reported():
        for letter in dead_letters(place.path):
            typer.echo(json.dumps(_letter_document(letter)) if as_json else _letter_text(letter))


@letters.command("requeue")
def requeue_letters(
    numbers: Numbers = None,
    every: AllFlag = False,
    config: ConfigFlag = None,
    state_directory: StateDirectoryFlag = None,
    file: FileFlag = None,
) -> None:
    """Move dead letters back to the queues. The agent sends them at its next start, marked as redelivered.

    First fix the reason why they were refused. The agent must not be running. Exit code 1: there is no
    dead letter with a given number, or one is unreadable; nothing was changed.
    """
    chosen = _chosen(numbers, every)
    place = _place(config, state_directory, file)
    age_ms = (place.bounds or Bounds()).age_ms
    with _errors_reported():
        counts = requeue(place.path, chosen, now_ms=clock.unix_ms(), age_ms=age_ms)
    queues = ", ".join(f"{count} to {queue}" for queue, count in sorted(counts.items()))
    typer.echo(f"requeued {counted(sum(counts.values()), 'record')}" + (f": {queues}" if queues else ""))


@letters.command("drop")
def drop_letters(
    numbers: Numbers = None,
    every: AllFlag = False,
    config: ConfigFlag = None,
    state_directory: StateDirectoryFlag = None,
    file: FileFlag = None,
) -> None:
    """Delete dead letters permanently.

    The agent must not be running. Exit code 1: there is no dead letter with a given number; nothing
    was changed.
    """
    chosen = _chosen(numbers, every)
    place = _place(config, state_directory, file)
    with _errors_reported():
        count = drop(place.path, chosen)
    typer.echo(f"dropped {counted(count, 'record')}")


def _place(config: str | None, state_directory: str | None, file: str | None) -> _Place:
    if file is None:
        found = load_config(Flags(config=config, state_directory=state_directory), monitors_needed=False)
        spool = found.effective.written.spool
        bounds = Bounds(size_bytes=spool.size.bytes, age_ms=spool.age.ms)
        return _as_owner(_Place(Path(found.state_directory) / FILE_NAME, bounds))
    if config is not None or state_directory is not None:
        other = "--config" if config is not None else "--state-directory"
        refuse(ConfigError([Problem("--file", f"cannot be combined with {other}; leave one of them out")]))
    return _as_owner(_Place(Path(file), None))


def _as_owner(place: _Place) -> _Place:
    """Give up root's rights where another user controls the spool: links of that user could lead anywhere."""
    with _errors_reported():
        act_as_owner(place.path.parent)
        act_as_owner(place.path.resolve().parent)
    return place


def _chosen(numbers: list[int] | None, every: bool) -> list[int] | None:
    """Return the numbers; `None`: all."""
    if bool(numbers) == every:
        refuse(ConfigError([Problem("NUMBER", "give numbers or --all, but not both")]))
    return numbers or None


@contextmanager
def _errors_reported() -> Generator[None]:
    try:
        yield
    except (SpoolError, StateFileError) as error:
        typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(EXIT_CANNOT_START) from error
    except NotDone as error:
        typer.echo(f"nothing was changed: {error}", err=True)
        raise typer.Exit(EXIT_NEGATIVE) from error


# --- what is printed ---


def _status_lines(place: _Place, found: Contents, now_ms: int) -> Iterator[tuple[str, str]]:
    yield "file", f"{place.path}, format {found.format}, read with SQLite {sqlite3.sqlite_version}"
    if place.bounds is not None:
        states = {
            True: "running",
            False: "not running",
            None: "unknown: the directory cannot be opened",
        }
        yield "agent", states[place.agent]
    for queue, waiting in found.waiting.items():
        oldest = "" if waiting.oldest_ms is None else f", oldest {_age(now_ms - waiting.oldest_ms)} old"
        yield queue, f"{counted(waiting.records, 'record')} queued{oldest}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.dead_letters.items())
    yield (
        "dead letters",
        f"{sum(found.dead_letters.values())}" + (f": {_printable(reasons)}" if reasons else ""),
    )
    yield "vms", f"{found.vms} remembered"
    of_bound = "" if place.bounds is None else f" of {_size(place.bounds.size_bytes)}"
    yield "used", _size(found.used_bytes) + of_bound
    yield "on disk", f"{_size(found.file_bytes)}, write-ahead log {_size(found.log_bytes)}"


def spool_document(directory: Path) -> dict[str, object]:
    """Return what the spool in a state directory contains.

    Raises:
        SpoolError: there is none, or it cannot be read.
    """
    path = directory / FILE_NAME
    return _status_document(_Place(path, None), contents(path), clock.unix_ms())


def _status_document(place: _Place, found: Contents, now_ms: int) -> dict[str, object]:
    return {
        "file": str(place.path),
        "format": found.format,
        "sqlite": sqlite3.sqlite_version,
        "agent_has_it": place.agent,
        "waiting": {
            queue: {
                "records": waiting.records,
                "oldest_ms": waiting.oldest_ms,
                "oldest_age_ms": None if waiting.oldest_ms is None else max(0, now_ms - waiting.oldest_ms),
            }
            for queue, waiting in found.waiting.items()
        },
        "dead_letters": {"records": sum(found.dead_letters.values()), "by_reason": dict(found.dead_letters)},
        "vms_remembered": found.vms,
        "used_bytes": found.used_bytes,
        "bound_bytes": None if place.bounds is None else place.bounds.size_bytes,
        "file_bytes": found.file_bytes,
        "log_bytes": found.log_bytes,
    }


def _letter_text(letter: Letter) -> str:
    size = "unreadable" if letter.record is None else _size(letter.record.size_bytes)
    when = datetime.fromtimestamp(letter.refused_at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = f"{letter.number}  {when}  {letter.reason}  {size}  {letter.key}  {letter.id}"
    return f"{_printable(line)}\n    {_printable(letter.problem or letter.detail)}"


def _letter_document(letter: Letter) -> dict[str, object]:
    document: dict[str, object] = {
        "number": letter.number,
        "refused_at_ms": letter.refused_at_ms,
        "reason": letter.reason,
        "detail": letter.detail,
        "id": letter.id,
        "key": letter.key,
    }
    record = letter.record
    if record is None:
        return document | {"problem": letter.problem}
    headers = {
        name: value.decode(errors="backslashreplace") for name, value in decode_headers(record.headers)
    }
    document |= {"kind": record.kind, "timestamp_ms": record.timestamp_ms, "size_bytes": record.size_bytes}
    try:
        return document | {"headers": headers, "value": json.loads(record.value)}
    except ValueError:
        return document | {"headers": headers, "value_base64": base64.b64encode(record.value).decode()}


def _printable(text: str) -> str:
    """Replace control characters: foreign text must not control the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _size(size_bytes: int) -> str:
    return _in_units(size_bytes, ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")))


def _age(age_ms: int) -> str:
    return _in_units(
        max(0, age_ms), ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms"))
    )


def _in_units(amount: int, units: tuple[tuple[int, str], ...]) -> str:
    unit, name = next((each for each in units if amount >= each[0]), units[-1])
    return f"{round(amount / unit, 1):g}{name}"
