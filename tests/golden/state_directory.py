"""Golden records of the state directory: names, modes, the ledger's bytes and the spool's tables."""

import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
from msgspec import structs

from agent.contract.encode import Mode
from agent.spool.dead_letters import dead_letters
from agent.spool.disk import DiskSpool, Settings, open_spool
from agent.spool.ledger import Ledger, open_ledger
from agent.spool.queues import Queue
from agent.spool.record_queue import DeadLetter
from agent.telemetry import Counters
from tests.golden import documents, scenarios
from tests.golden.documents import CHANGES, FAR_MS, RESTORED, SET_TWICE, record_document
from tests.golden.scenarios import DOMAIN, DOMAIN_MARK, Told
from tests.golden.texts import Texts

SPOOL = "spool.sqlite"
LEDGER = "owed.json"
_PRAGMAS = ("page_size", "encoding", "auto_vacuum", "application_id", "user_version")
"""The pragmas of the file. The first three take effect only before anything is written."""


def monitor_and_domain() -> Sequence[Told]:
    """Return the stories of a monitor and a domain that have reported, with one statistic unset."""
    stories = [
        Told(wall_ms=FAR_MS),
        Told(
            wall_ms=FAR_MS, path=DOMAIN, uuid=scenarios.DOMAIN_UUID, mark=DOMAIN_MARK, balloon_path="balloon0"
        ),
    ]
    for story in stories:
        for _ in range(3):
            story.update(free_memory=1024)
            story.reading = structs.replace(story.reading, unset=frozenset({"disk_caches"}))
            if not story.told:
                story.start()
            story.pass_s(1)
    return stories


async def leave(directory: Path) -> None:
    """Write to the state directory as an agent does in a short run."""
    ledger: Ledger
    async with open_ledger(str(directory), FAR_MS) as ledger:
        for change in (*CHANGES, SET_TWICE):
            await ledger.record(change)
        await ledger.record(RESTORED)
        await ledger.remove(RESTORED.address, RESTORED.mark)
        spool: DiskSpool
        async with open_spool(Settings(directory=directory), Counters(), lambda: FAR_MS + 9) as spool:
            for story in monitor_and_domain():
                for _, effect, memory in story.told:
                    record = documents.record_of(effect)
                    if record is not None:
                        spool.append(record, memory)
                # Flush after each VM, so that the order of the writes does not depend on chance.
                await spool.flush()
            spool.append(replace(documents.agent_record(Mode.STRUCTURED), timestamp_ms=FAR_MS), None)
            await spool.flush()
            await _refuse_first(
                spool, Queue.SAMPLES, "too_large", "larger than the topic's max.message.bytes"
            )
            await _refuse_first(spool, Queue.STATES, "invalid", "the broker calls it \x1b[31minvalid")
            await spool.flush()


async def _refuse_first(spool: DiskSpool, name: Queue, reason: str, detail: str) -> None:
    queue = spool.queue(name)
    (record,) = await queue.take(records_max=1, size_bytes_max=1 << 20)
    await queue.settle([DeadLetter(record, reason, detail, FAR_MS + 7)])


def logical(path: Path) -> str:
    """Return a spool as SQL that creates the same contents: blobs in hex, in the order of the keys."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        pragmas = [
            f"PRAGMA {name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]};" for name in _PRAGMAS
        ]
        journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
        lines = ["BEGIN TRANSACTION;", *_objects(connection), *_rows(connection), "COMMIT;"]
    return "\n".join(
        [
            *(each.replace("= UTF-8", "= 'UTF-8'") for each in pragmas),
            f"-- journal_mode {journal}",
            *lines,
            "",
        ]
    )


def _objects(connection: sqlite3.Connection) -> Iterator[str]:
    # Not `iterdump`: its order and its quoting change with Python's version.
    for (sql,) in connection.execute(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' "
        "ORDER BY type DESC, name"
    ):
        yield f"{sql};"


def _rows(connection: sqlite3.Connection) -> Iterator[str]:
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    ).fetchall()
    for (table,) in tables:
        if table == "sqlite_sequence":
            yield "DELETE FROM sqlite_sequence;"
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        quoted = " || ',' || ".join(f"quote({column})" for column in columns)
        for (values,) in connection.execute(f"SELECT {quoted} FROM {table} ORDER BY rowid"):
            yield f"INSERT INTO {table} VALUES ({values});"


def made() -> dict[str, str]:
    """Return the recorded files."""
    with tempfile.TemporaryDirectory(prefix="barograph-golden-") as folder:
        directory = Path(folder) / "state"
        before = os.umask(0o022)
        try:
            anyio.run(partial(leave, directory))
        finally:
            os.umask(before)
        path = directory / SPOOL
        return {
            "state/directory.txt": "".join(_listing(directory)),
            "state/owed.json": (directory / LEDGER).read_text(encoding="utf-8"),
            "state/spool.sql": _without_texts(logical(path)),
            "state/memories.jsonl": _memories(path),
            **_letters(path),
        }


def restore(recorded: Path, directory: Path) -> None:
    """Create a state directory from the ledger and `spool.sql` in the folder `recorded`."""
    directory.mkdir(mode=0o700)
    shutil.copy(recorded / LEDGER, directory)
    with closing(sqlite3.connect(directory / SPOOL)) as connection:
        connection.executescript((recorded / "spool.sql").read_text(encoding="utf-8"))
    (directory / f"{SPOOL}.vouched").touch()


def _listing(directory: Path) -> Iterator[str]:
    yield f"{stat.filemode(directory.stat().st_mode)} .\n"
    for path in sorted(directory.iterdir()):
        size = " empty" if path.stat().st_size == 0 else ""
        yield f"{stat.filemode(path.stat().st_mode)} {path.name}{size}\n"


def _without_texts(sql: str) -> str:
    """Replace the texts for people that values contain; the part `scenarios` records those texts."""

    def without(value: bytes) -> bytes:
        return Texts().out_of(value.decode()).encode()

    lines: list[str] = []
    for line in sql.splitlines(keepends=True):
        pieces = line.split("X'")
        for number, piece in enumerate(pieces[1:], 1):
            content, _, rest = piece.partition("'")
            value = bytes.fromhex(content)
            if value.startswith(b"{"):
                value = without(value)
            pieces[number] = f"{value.hex().upper()}'{rest}"
        lines.append("X'".join(pieces))
    return "".join(lines)


def _memories(path: Path) -> str:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT path, memory FROM vms ORDER BY touched_ms, path").fetchall()
    remembered = [
        {"path": name, "memory": documents.memory_document(documents.read_memory(content))}
        for name, content in rows
    ]
    return "".join(json.dumps(each) + "\n" for each in remembered)


def _letters(path: Path) -> dict[str, str]:
    texts, lines = Texts(), list[str]()
    for letter in dead_letters(path):
        assert letter.record is not None
        document = {
            "number": letter.number,
            "refused_at_ms": letter.refused_at_ms,
            "reason": letter.reason,
            "detail": letter.detail,
            "record": record_document(letter.record),
        }
        document["record"]["value"] = texts.out_of(letter.record.value.decode())
        lines.append(json.dumps(document) + "\n")
    return {"state/dead_letters.jsonl": "".join(lines), "texts/state/dead_letters.txt": texts.file()}
