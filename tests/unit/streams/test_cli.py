"""Tests of the parts of the stream jobs' command line that need no Flink."""

import os
from pathlib import Path

import pytest

from barograph_streams.cli import main, named_values, newest_checkpoint


def checkpoint(folder: Path, name: str, *, at_s: int, complete: bool = True) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    if complete:
        (path / "_metadata").touch()
        os.utime(path / "_metadata", (at_s, at_s))
    return path


def test_the_newest_complete_checkpoint_of_the_job_is_restored(tmp_path: Path) -> None:
    checkpoint(tmp_path, "leak/a/chk-9", at_s=100)
    newest = checkpoint(tmp_path, "leak/b/chk-2", at_s=200)
    checkpoint(tmp_path, "leak/b/chk-3", at_s=300, complete=False)
    checkpoint(tmp_path, "quality/c/chk-4", at_s=400)

    assert newest_checkpoint(tmp_path, "leak") == str(newest)
    assert newest_checkpoint(tmp_path, "pressure") is None


def test_settings_are_read_from_lines() -> None:
    lines = ["# TLS", "", "security.protocol = SSL", "sasl.jaas.config=a b=c"]

    assert named_values(lines) == {"security.protocol": "SSL", "sasl.jaas.config": "a b=c"}


def test_a_line_without_a_value_is_refused_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "client.properties"
    file.write_text("a=b\nhunter2\n")

    assert main(["run", "pressure", "--kafka", "a:1", "--kafka-properties", str(file)]) == 2
    assert capsys.readouterr().err == "setting 2: no value; use NAME=VALUE\n"


def test_an_unknown_job_is_refused() -> None:
    with pytest.raises(SystemExit):
        main(["run", "weather", "--kafka", "a:1"])
