import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli
from agent.contract.encode import Mode
from agent.contract.redelivered import redelivered
from agent.spool.ledger import open_ledger
from tests.unit.spool.letters import fill, refused, sample, state, waiting
from tests.unit.spool.making import NOW_MS

HOST = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one"}
CHANGES = ["dead-letters requeue --all", "dead-letters drop --all"]
LOOKS = ["status", "status --json", "dead-letters list", "dead-letters list --json"]


def barograph(words: str, place: Path, **environ: str) -> Result:
    environ["BAROGRAPH_STATE_DIRECTORY"] = str(place)
    return CliRunner().invoke(cli, ["spool", *words.split()], env=HOST | environ, prog_name="barograph")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool.sqlite"
    letters = [refused(sample(3, mode=Mode.STRUCTURED)), refused(state(), "invalid", "no\x1b[31m")]
    fill(path, [sample(1), sample(2)], letters)
    return path


def test_status_shows_queued_records_and_sizes(spool: Path) -> None:
    done = barograph("status", spool.parent, BAROGRAPH_SPOOL__SIZE="64MiB")

    assert (done.exit_code, done.stderr) == (0, "")
    said = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert said["file"].strip() == f"{spool}, format 3, read with SQLite {sqlite3.sqlite_version}"
    assert said["agent"].strip() == "not running"
    assert said["samples"].strip().startswith("2 records queued, oldest ")
    assert said["states"].strip() == "0 records queued"
    assert said["dead letters"].strip() == "2: 1 invalid, 1 too_large"
    assert said["vms"].strip() == "0 remembered"
    assert said["used"].strip().endswith("KiB of 64MiB")
    assert said["on disk"].strip().endswith("log 0B")


def test_status_as_json(spool: Path) -> None:
    found = json.loads(barograph("status --json", spool.parent).stdout)

    assert found["waiting"]["samples"].keys() == {"records", "oldest_ms", "oldest_age_ms"}
    assert (found["waiting"]["samples"]["records"], found["waiting"]["samples"]["oldest_ms"]) == (2, NOW_MS)
    assert found["waiting"]["states"] == {"records": 0, "oldest_ms": None, "oldest_age_ms": None}
    assert found["dead_letters"] == {"records": 2, "by_reason": {"invalid": 1, "too_large": 1}}
    assert (found["format"], found["agent_has_it"], found["bound_bytes"]) == (3, False, 1 << 30)
    assert found["file_bytes"] == spool.stat().st_size


async def test_status_shows_a_running_agent(spool: Path) -> None:
    async with open_ledger(str(spool.parent), NOW_MS):
        assert json.loads(barograph("status --json", spool.parent).stdout)["agent_has_it"] is True
        assert "  running" in barograph("status", spool.parent).stdout


def test_status_of_a_copy_shows_no_agent_and_no_bound(spool: Path, tmp_path: Path) -> None:
    found = json.loads(barograph(f"status --json --file {spool}", tmp_path / "other").stdout)

    assert (found["file"], found["agent_has_it"], found["bound_bytes"]) == (str(spool), None, None)


def test_a_copy_needs_no_configuration(spool: Path) -> None:
    done = barograph(f"status --file {spool}", Path("not/absolute"), BAROGRAPH_CONFIG="/nowhere")

    assert done.exit_code == 0


def test_dead_letters_are_listed_and_do_not_control_the_terminal(spool: Path) -> None:
    done = barograph("dead-letters list", spool.parent)

    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2  2026-11-23T")
    assert [line.split("  ")[2] for line in lines[::2]] == ["invalid", "too_large"]
    assert lines[1::2] == ["    no?[31m", "    over the limit"]
    assert lines[2].endswith(sample(3).id)


def test_dead_letters_as_json_have_headers_and_value(spool: Path) -> None:
    newest, oldest = map(json.loads, barograph("dead-letters list --json", spool.parent).stdout.splitlines())

    assert (newest["number"], newest["reason"], newest["detail"]) == (2, "invalid", "no\x1b[31m")
    assert newest["headers"]["ce_type"] == "barograph.vm.state.v1"
    assert newest["value"] == json.loads(state().value)
    assert (oldest["id"], oldest["key"], oldest["kind"]) == (sample(3).id, "vm-1", "sample")
    assert oldest["value"]["data"]["sequence"] == 3


def test_a_dead_letter_that_is_not_json_or_unreadable_is_listed_as_json_too(spool: Path) -> None:
    connection = sqlite3.connect(spool)
    connection.execute("UPDATE dead_letters SET value = x'ff00' WHERE position = 2")
    connection.execute("UPDATE dead_letters SET headers = x'ff' WHERE position = 1")
    connection.commit()
    connection.close()

    newest, oldest = map(json.loads, barograph("dead-letters list --json", spool.parent).stdout.splitlines())

    assert newest["value_base64"] == "/wA="
    assert "value" not in oldest
    assert oldest["problem"]


def test_dead_letters_are_requeued_by_number_and_all(spool: Path) -> None:
    done = barograph("dead-letters requeue 2", spool.parent, BAROGRAPH_SPOOL__AGE="365d")
    assert (done.exit_code, done.stdout) == (0, "requeued 1 record: 1 to states\n")

    done = barograph("dead-letters requeue --all", spool.parent, BAROGRAPH_SPOOL__AGE="365d")
    assert (done.exit_code, done.stdout) == (0, "requeued 1 record: 1 to samples\n")
    assert barograph("dead-letters requeue --all", spool.parent).stdout == "requeued 0 records\n"

    marked = redelivered(sample(3, mode=Mode.STRUCTURED)), redelivered(state())
    assert waiting(spool)[2:] == list(marked)


def test_the_configured_age_decides_which_get_a_new_timestamp(spool: Path) -> None:
    barograph("dead-letters requeue --all", spool.parent, BAROGRAPH_SPOOL__AGE="1m")

    assert [each.timestamp_ms > NOW_MS for each in waiting(spool)[2:]] == [True, True]


def test_dead_letters_are_dropped(spool: Path) -> None:
    assert barograph("dead-letters drop 1 2", spool.parent).stdout == "dropped 2 records\n"
    assert barograph("dead-letters list", spool.parent).stdout == ""


@pytest.mark.parametrize("word", ["requeue", "drop"])
def test_an_unknown_number_is_exit_code_1(spool: Path, word: str) -> None:
    done = barograph(f"dead-letters {word} 1 9", spool.parent)

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "nothing was changed: no dead letter has the number 9; see dead-letters list\n"


@pytest.mark.parametrize("words", CHANGES)
async def test_nothing_is_changed_while_an_agent_runs(spool: Path, words: str) -> None:
    async with open_ledger(str(spool.parent), NOW_MS):
        done = barograph(words, spool.parent)
        copy = barograph(f"{words} --file {spool}", spool.parent)

    assert (done.exit_code, copy.exit_code) == (3, 3)
    assert done.stderr == f"failed: {spool.parent}: an agent uses this state directory; stop it first\n"
    assert copy.stderr == done.stderr
    assert barograph("dead-letters list", spool.parent).stdout.count("\n") == 4


def test_an_intact_spool_is_verified(spool: Path) -> None:
    done = barograph("verify", spool.parent)

    assert done.exit_code == 0
    assert done.stdout.splitlines()[1:] == [
        "pages and indexes are intact",
        "samples: 2 records of 1 VM",
        "states: 0 records",
        "memory: 0 records",
        "logs: 0 records",
        "dead_letters: 2 records",
        "vms: 0 remembered",
        "no problems found",
    ]


def test_a_damaged_spool_is_exit_code_1(tmp_path: Path) -> None:
    fill(tmp_path / "copy", [sample(1), sample(3)])
    connection = sqlite3.connect(tmp_path / "copy")
    connection.execute("INSERT INTO vms VALUES (char(27) || '[31m', 0, x'7b7d')")
    connection.commit()
    connection.close()

    done = barograph(f"verify --file {tmp_path / 'copy'}", tmp_path)

    assert done.exit_code == 1
    assert done.stdout.splitlines()[-3:-1] == [
        "2 problems:",
        "  samples 2: VM vm-1: sequence 3 follows sequence 1 of epoch epoch-1: 1 sample missing",
    ]
    assert done.stdout.splitlines()[-1].startswith("  memory of ?[31m: ")  # does not control the terminal


def missing(path: Path) -> None:
    assert not path.exists()


def damaged(path: Path) -> None:
    path.write_bytes(b"something else entirely " * 100)


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def newer(path: Path) -> None:
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("words", [*LOOKS, *CHANGES, "verify"])
@pytest.mark.parametrize(
    ("make", "detail"),
    [
        (missing, "no spool at this path; use --state-directory or --file"),
        (damaged, "file is not a database (SQLITE_NOTADB)"),
        (foreign, "a database of another program"),
        (newer, "format 99 is newer; this version reads format 3"),
    ],
)
def test_an_unusable_spool_is_reported_and_left_unchanged(
    tmp_path: Path, words: str, make: Callable[[Path], None], detail: str
) -> None:
    path = tmp_path / "spool.sqlite"
    make(path)
    before = path.read_bytes() if path.exists() else None

    done = barograph(words, tmp_path)

    if words == "verify":
        assert (done.exit_code, done.stdout) == (1, f"1 problem:\n  {detail}\n")
    else:
        assert (done.exit_code, done.stdout) == (3, "")
        assert done.stderr == f"failed: {path}: {detail}\n"
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("dead-letters requeue", "NUMBER: give numbers or --all, but not both"),
        ("dead-letters drop", "NUMBER: give numbers or --all, but not both"),
        ("dead-letters drop 1 --all", "NUMBER: give numbers or --all, but not both"),
        ("status --file /x --config /y", "--file: cannot be combined with --config; leave one of them out"),
        (
            "verify --file /x --state-directory /y",
            "--file: cannot be combined with --state-directory; leave one of them out",
        ),
        ("status --state-directory x", "--state-directory: 'x' is not an absolute path; start it with /"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(tmp_path: Path, words: str, problem: str) -> None:
    done = barograph(words, tmp_path)

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[1:] == [f"  {problem}"]
