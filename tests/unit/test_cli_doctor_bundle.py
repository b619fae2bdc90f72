"""Tests of `barograph doctor --bundle`: what the archive contains, and which files are left alone."""

import json
import stat
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli import cli
from tests.unit.spool.letters import fill, sample
from tests.unit.test_cli_health import answering

SECRET = "swordfish-42"


def _allow(bundle: str | None) -> None:
    """Accept any file."""


def bundled(tmp_path: Path, *words: str, **environ: str) -> Result:
    env = {
        "BAROGRAPH_HOST__ID": "host-1",
        "BAROGRAPH_HOST__NAME": "one",
        "BAROGRAPH_MONITORS": f"{tmp_path}/*.qmp",
        "BAROGRAPH_STATE_DIRECTORY": str(tmp_path),
        "BAROGRAPH_OTLP__ENDPOINT": "https://127.0.0.1:1",
        "BAROGRAPH_OTLP__HEADERS": f"authorization={SECRET}",
        "BAROGRAPH_WEB__ENABLED": "false",
        **environ,
    }
    words = ("doctor", "--pre", *words)
    return CliRunner().invoke(cli, words, env=env, prog_name="barograph")


def test_the_archive_has_everything_but_secrets_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    fill(tmp_path / "spool.sqlite", [sample(1)], [])
    file = tmp_path / "report.tar.gz"
    answers = {"/healthz": "{}", "/status": f'{{"detail": "{SECRET}"}}', "/metrics": "up 1\n"}
    with answering({path: (200, text) for path, text in answers.items()}) as place:
        done = bundled(
            tmp_path,
            "--bundle",
            str(file),
            BAROGRAPH_WEB__ENABLED="true",
            BAROGRAPH_WEB__LISTEN=place,
        )

    assert f"wrote {file}: doctor.json, versions.json, " in done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    contents: dict[str, str] = {}
    with tarfile.open(file) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            contents[Path(member.name).name] = content.read().decode()
    wanted = {"doctor.json", "versions.json", "config.json", "spool.json", "status.json", "metrics.txt"}
    assert wanted <= set(contents)
    assert not [name for name, text in contents.items() if SECRET in text]
    assert json.loads(contents["spool.json"])["waiting"]["samples"]["records"] == 1
    assert json.loads(contents["config.json"])["otlp"]["endpoint"] == "https://127.0.0.1:1"
    assert json.loads(contents["doctor.json"])["findings"]


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_an_existing_file_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    file, victim = tmp_path / "report.tar.gz", tmp_path / "victim"
    if kind != "dangling":
        victim.write_text("mine")
    if kind == "file":
        victim.rename(file)
    else:
        file.symlink_to(victim)

    done = bundled(tmp_path, "--bundle", str(file))

    assert done.exit_code == 2
    assert "exists; use the name of a new file" in done.stderr
    assert not victim.exists() if kind == "dangling" else file.read_text() == "mine"


def test_a_file_that_appears_during_the_checks_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.tar.gz"
    file.symlink_to(tmp_path / "victim")
    monkeypatch.setattr("agent.cli.doctor._refuse_bundle", _allow)

    done = bundled(tmp_path, "--bundle", str(file))

    assert done.exit_code == 3
    assert "cannot be written: File exists" in done.stderr
    assert not (tmp_path / "victim").exists()


def test_a_dry_run_lists_the_files_and_writes_nothing(tmp_path: Path) -> None:
    done = bundled(tmp_path, "--bundle", str(tmp_path / "report.tar.gz"), "--dry-run")

    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "doctor.json", "versions.json", "journal.txt", "config.json", "spool.json"
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_a_bundle(tmp_path: Path) -> None:
    assert bundled(tmp_path, "--dry-run").exit_code == 2


def test_a_file_in_the_archive_is_cut_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.doctor_bundle.PART_MAX_BYTES", 100)
    file = tmp_path / "report.tar.gz"

    bundled(tmp_path, "--bundle", str(file))

    with tarfile.open(file) as archive:
        assert max(member.size for member in archive.getmembers()) == 100
