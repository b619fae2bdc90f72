"""What the agent owes: intervals it set on VMs and shall give back.

Constraints (each has a test of the same name in tests/unit/spool/test_ledger.py):

- what is remembered is on the disk before the caller goes on, and found by the next start;
- what is forgotten is not found again;
- two agents cannot have one ledger at a time;
- a file that cannot be understood is set aside under a dated name and reported;
- a write that fails leaves the file as it was, and is reported to all whose change was in it;
- a cancelled caller leaves the write whole;
- what is changed while a write is under way goes into the next one, all together.

A file instead of a database: it holds at most one line for each VM of the host and changes when an
interval is set or given back, not with samples. A start on a thousand VMs sets a thousand intervals: one
write for each of them took seven seconds and let their deadlines pass.
"""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from agent.core.address import Address
from agent.core.ownership import IntervalChange
from agent.core.reading import SocketMark
from agent.errors import StateFileError
from agent.spool.directory_lock import lock
from agent.spool.ledger_format import FILE_NAME, NotOurFormat, decode_owed, encode_owed

log = structlog.get_logger("barograph.spool")

_Key = tuple[Address, SocketMark]


@dataclass(slots=True, eq=False)
class _Change:
    """What somebody waits for; `owed` None: nothing is owed to this process any more."""

    key: _Key
    owed: IntervalChange | None
    settled: bool = False
    problem: str | None = None


class Ledger:
    """Everything owed, in memory and on disk. Made by `open_ledger`; used by the tasks of one event loop."""

    def __init__(self, directory: Path, entries: dict[_Key, IntervalChange]) -> None:
        self._directory = directory
        self._entries = entries
        self._lock = anyio.Lock()
        self._waiting: dict[_Change, None] = {}  # in order; bounded by the VMs: each waits for its own

    def entries(self) -> tuple[IntervalChange, ...]:
        """Everything owed, by path."""
        return tuple(sorted(self._entries.values(), key=lambda owed: (str(owed.address), owed.set_at_ms)))

    def owed(self, address: Address, mark: SocketMark) -> IntervalChange | None:
        """What this very QEMU process is owed; `None`: nothing."""
        return self._entries.get((address, mark))

    async def remember(self, owed: IntervalChange) -> None:
        """Return once `owed` is on stable storage, in the place of what the same process was owed before.

        If the caller is cancelled meanwhile, the write still completes.

        Raises:
            StateFileError: it could not be written; nothing has changed.
        """
        await self._settle(_Change((owed.address, owed.mark), owed))

    async def forget(self, address: Address, mark: SocketMark) -> None:
        """Return once nothing is owed to this process, on stable storage. What was not owed is no error.

        Raises:
            StateFileError: it could not be written; nothing has changed.
        """
        await self._settle(_Change((address, mark), None))

    async def _settle(self, change: _Change) -> None:
        self._waiting[change] = None
        try:
            async with self._lock:
                if not change.settled:
                    await self._write_what_waits()
        finally:
            self._waiting.pop(change, None)  # cancelled before anybody began with it
        if change.problem is not None:
            raise StateFileError(change.problem)

    async def _write_what_waits(self) -> None:
        changes = list(self._waiting)
        self._waiting.clear()
        entries = dict(self._entries)
        for change in changes:
            if change.owed is None:
                entries.pop(change.key, None)
            else:
                entries[change.key] = change.owed
        try:
            if entries != self._entries:
                # Not abandoned when cancelled: memory must say what the disk says.
                await anyio.to_thread.run_sync(_write, self._directory, tuple(entries.values()))
                self._entries = entries
        except StateFileError as error:
            for change in changes:
                change.problem = str(error)
        for change in changes:
            change.settled = True


@asynccontextmanager
async def open_ledger(directory: str, now_ms: int) -> AsyncGenerator[Ledger, None]:
    """Open the ledger in `directory`, which is made where it is missing, and keep others out until the end.

    Args:
        directory: the state directory.
        now_ms: Unix milliseconds; names what has to be set aside.

    Raises:
        StateFileError: the directory cannot be made, written to or locked (another agent has it), or the
            ledger cannot be read. Nothing was changed.
    """
    place = Path(directory)
    descriptor = await anyio.to_thread.run_sync(_lock, place)
    try:
        entries = await anyio.to_thread.run_sync(_read, place, now_ms)
        yield Ledger(place, {(owed.address, owed.mark): owed for owed in entries})
    finally:
        os.close(descriptor)  # and with it the lock


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = lock(directory)
    except BlockingIOError as error:
        message = "another agent uses this state directory: stop it, or give this one a directory of its own"
        raise StateFileError(f"{directory}: {message}") from error
    except OSError as error:
        raise StateFileError(f"{directory}: the state directory cannot be had: {error.strerror}") from error
    try:
        _check_writable(directory)
    except OSError as error:
        os.close(descriptor)
        raise StateFileError(f"{directory}: the state directory cannot be used: {error.strerror}") from error
    return descriptor


def _check_writable(directory: Path) -> None:
    """By doing it: permissions say nothing about a file system mounted read-only, or a full one."""
    probe = directory / f".{FILE_NAME}.new"
    try:
        probe.write_bytes(b"\n")
    finally:
        probe.unlink(missing_ok=True)


def _read(directory: Path, now_ms: int) -> tuple[IntervalChange, ...]:
    path = directory / FILE_NAME
    try:
        content = path.read_bytes()
        return decode_owed(content)
    except FileNotFoundError:
        return ()
    except NotOurFormat as error:
        log.error("state file set aside", path=_set_aside(path, now_ms, str(error)), detail=str(error))
        return ()
    except OSError as error:
        raise StateFileError(f"{path}: cannot be read: {error.strerror}") from error


def _set_aside(path: Path, now_ms: int, detail: str) -> str:
    moment = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.{moment}.bad")
    number = 1
    while aside.exists():  # nobody else makes one meanwhile: the directory is locked
        aside = path.with_name(f"{path.name}.{moment}.bad.{number}")
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise StateFileError(f"{path}: {detail}, and cannot be set aside: {error.strerror}") from error
    return str(aside)


def _write(directory: Path, entries: Sequence[IntervalChange]) -> None:
    content = encode_owed(entries)
    new = directory / f".{FILE_NAME}.new"
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            if os.geteuid() == 0:  # `give-back` typed by root must not shut out the service's user
                owner = directory.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
        os.replace(new, directory / FILE_NAME)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise StateFileError(f"{directory / FILE_NAME}: cannot be written: {error.strerror}") from error
