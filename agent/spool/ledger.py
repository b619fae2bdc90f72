"""The ledger: the intervals the agent changed, on disk until they are restored.

Constraints (each has a test of the same name in tests/unit/spool/test_ledger.py):

- an entry is on disk before the caller continues, and the next start finds it;
- a removed entry is not found again;
- only one agent at a time has a ledger open;
- a file that cannot be read as a ledger is set aside under a dated name and reported;
- a file of a newer version is left unchanged, and prevents the start;
- a failed write leaves the file unchanged and fails every caller whose change was in it;
- canceling a caller does not interrupt the write and does not wait for it;
- changes that arrive during a write are written together by the next one;
- a full or read-only disk does not prevent the start.

It is a file and not a table of the spool: it holds at most a few entries for each VM and changes when an
interval is set or restored, not with every sample. Changes are written together because a start on many VMs
sets as many intervals within their deadlines, which one write for each would exceed.
"""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import structlog

from agent.core.address import Address
from agent.core.ownership import IntervalChange
from agent.core.reading import SocketMark
from agent.errors import StateFileError
from agent.spool.directory_lock import lock
from agent.spool.ledger_format import FILE_NAME, NewerFormat, NotOurFormat, decode_owed, encode_owed
from agent.spool.set_aside import name_aside
from agent.spool.state_directory import (
    DISK_TROUBLE,
    check_root_may_use,
    check_writable,
    make_private,
    read_file,
    remove_unfinished,
    replace_file,
)
from agent.threads import Call, WorkerThread, in_thread

log = structlog.get_logger("barograph.spool")

_SETTLE_TIMEOUT_S = 0.2

_Key = tuple[Address, SocketMark]

_SIZE_MAX_BYTES = 64 << 20
"""Far more than the entries of all VMs that a host can run."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The state directory, open and locked."""

    path: Path
    descriptor: int


@dataclass(slots=True, eq=False)
class _Update:
    """A change of the ledger that a caller waits for; `change` None removes the entry."""

    key: _Key
    change: IntervalChange | None
    done: bool = False
    problem: str | None = None


class Ledger:
    """The entries, in memory and on disk. Made by `open_ledger`; used by the tasks of one event loop."""

    def __init__(self, place: _Place, entries: dict[_Key, IntervalChange]) -> None:
        self._place = place
        self._entries = entries
        self._writing: Call[None] | None = None
        self._pending: dict[_Update, None] = {}  # in order; bounded by the VMs: each waits for its own

    def entries(self) -> tuple[IntervalChange, ...]:
        """Return all entries, sorted by address."""
        return tuple(sorted(self._entries.values(), key=lambda each: (str(each.address), each.set_at_ms)))

    def find(self, address: Address, mark: SocketMark) -> IntervalChange | None:
        """Return the entry of this QEMU process; `None` if there is none."""
        return self._entries.get((address, mark))

    async def record(self, change: IntervalChange) -> None:
        """Write an entry to disk. It replaces the one of the same QEMU process.

        If the caller is canceled, the write still completes.

        Raises:
            StateFileError: the file cannot be written; the ledger is unchanged.
        """
        await self._apply(_Update((change.address, change.mark), change))

    async def remove(self, address: Address, mark: SocketMark) -> None:
        """Remove the entry of this QEMU process from disk. A missing entry is not an error.

        Raises:
            StateFileError: the file cannot be written; the ledger is unchanged.
        """
        await self._apply(_Update((address, mark), None))

    async def settle(self) -> None:
        """Return once the present write has ended, or hangs."""
        if self._writing is not None:
            with anyio.move_on_after(_SETTLE_TIMEOUT_S, shield=True):
                await self._writing.done.wait()

    async def _apply(self, update: _Update) -> None:
        self._pending[update] = None
        try:
            while not update.done:
                if self._writing is None:
                    self._write_pending()
                if self._writing is not None:
                    await self._writing.done.wait()
        finally:
            self._pending.pop(update, None)  # canceled before a write included it
        if update.problem is not None:
            raise StateFileError(update.problem)

    def _write_pending(self) -> None:
        updates = list(self._pending)
        self._pending.clear()
        entries = dict(self._entries)
        for update in updates:
            if update.change is None:
                entries.pop(update.key, None)
            else:
                entries[update.key] = update.change
        if entries == self._entries:
            for update in updates:
                update.done = True
            return

        # In a daemon thread, and taken in whether or not a caller still waits: a hung disk must not delay the
        # end, and memory must match the disk.
        def written() -> None:
            self._writing = None
            if call.error is None:
                self._entries = entries
            for update in updates:
                update.problem = None if call.error is None else str(call.error)
                update.done = True

        thread = WorkerThread("ledger")
        write = partial(_write, self._place, tuple(entries.values()))
        call = self._writing = thread.submit(write, written)
        thread.end()


@asynccontextmanager
async def open_ledger(
    directory: str, now_ms: int, *, to_restore: bool = False
) -> AsyncGenerator[Ledger, None]:
    """Open the ledger in `directory`, and lock the directory against other agents until the end.

    If the disk is full, read-only or broken, the ledger opens nevertheless, and `record` and `remove` fail
    until that has passed.

    Args:
        directory: the state directory; created if it is missing.
        now_ms: Unix milliseconds; part of the name of a file that is set aside.
        to_restore: for a command that restores intervals. Root may then use a directory of another user, and
            the directory must be writable.

    Raises:
        StateFileError: the directory cannot be created, written to or locked (another agent uses it), or the
            ledger cannot be read or is of a newer version. Nothing was changed.
    """
    place = await in_thread(
        partial(_lock, Path(directory), to_restore), discard=lambda place: os.close(place.descriptor)
    )
    try:
        entries = await in_thread(partial(_read, place, now_ms))
        ledger = Ledger(place, {(each.address, each.mark): each for each in entries})
        try:
            yield ledger
        finally:
            await ledger.settle()
    finally:
        os.close(place.descriptor)  # releases the lock


def _lock(directory: Path, to_restore: bool) -> _Place:
    if not to_restore:
        check_root_may_use(directory.parent)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = lock(directory)
    except BlockingIOError as error:
        message = "another agent uses this state directory; stop it, or configure another directory"
        raise StateFileError(f"{directory}: {message}") from error
    except OSError as error:
        raise StateFileError(_unusable(directory, error)) from error
    try:
        remove_unfinished(descriptor, FILE_NAME)
        make_private(descriptor)
        check_writable(descriptor, FILE_NAME)
    except OSError as error:
        if to_restore or error.errno not in DISK_TROUBLE:
            os.close(descriptor)
            raise StateFileError(_unusable(directory, error)) from error
        detail = "until it can be written, records are kept in memory and no interval is changed"
        log.error(
            "state directory cannot be written", path=str(directory), problem=error.strerror, detail=detail
        )
    try:
        if not to_restore:
            check_root_may_use(directory)
    except StateFileError:
        os.close(descriptor)
        raise
    return _Place(directory, descriptor)


def _unusable(directory: Path, error: OSError) -> str:
    what = "make it a directory that the agent may write to, or configure another one"
    return f"{directory}: cannot use the state directory: {error.strerror}; {what}"


def _read(place: _Place, now_ms: int) -> tuple[IntervalChange, ...]:
    path = place.path / FILE_NAME
    try:
        return decode_owed(read_file(place.descriptor, FILE_NAME, _SIZE_MAX_BYTES))
    except FileNotFoundError:
        return ()
    except NewerFormat as error:
        what = "install that version again, or restore the intervals with its give-back and delete the file"
        raise StateFileError(f"{path}: {error}; {what}") from error
    except NotOurFormat as error:
        aside = _set_aside(place, now_ms, str(error))
        detail = "the intervals recorded in it will not be restored; inspect the file, then delete it"
        log.error("ledger set aside", path=str(aside), problem=str(error), detail=detail)
        return ()
    except OSError as error:
        raise StateFileError(
            f"{path}: cannot be read: {error.strerror}; fix the cause, or move the file away"
        ) from error


def _set_aside(place: _Place, now_ms: int, problem: str) -> Path:
    path = place.path / FILE_NAME
    aside = name_aside(path, now_ms)
    try:
        os.rename(FILE_NAME, aside.name, src_dir_fd=place.descriptor, dst_dir_fd=place.descriptor)
    except OSError as error:
        message = f"{problem}, and it cannot be renamed: {error.strerror}; move it away"
        raise StateFileError(f"{path}: {message}") from error
    return aside


def _write(place: _Place, entries: Sequence[IntervalChange]) -> None:
    try:
        replace_file(place.descriptor, FILE_NAME, encode_owed(entries))
    except OSError as error:
        raise StateFileError(
            f"{place.path / FILE_NAME}: cannot be written: {error.strerror}; fix the disk or the permissions"
        ) from error
