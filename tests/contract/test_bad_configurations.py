"""Every invalid configuration is reported with its place and what to do, and nothing is started."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import Flags, load
from agent.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"
TLS = str(DATA / "tls")
TABLE: list[dict[str, Any]] = yaml.safe_load((DATA / "bad_configurations.yaml").read_text())
GOOD = "monitors: [/run/vm/*.qmp]\n"


def prepare(bad: Mapping[str, Any], directory: Path) -> tuple[Path, dict[str, str]]:
    file = directory / "barograph.yaml"
    if "file_bytes" in bad:
        file.write_bytes(bytes.fromhex(bad["file_bytes"]))
    else:
        file.write_text(bad.get("file", GOOD).replace("{tls}", TLS).replace("{long}", "x" * 20_000))
    environ = {"HOME": str(directory), "BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one"}
    return file, environ | bad.get("environ", {})


def flags(bad: Mapping[str, Any], file: Path) -> Flags:
    given: dict[str, Any] = {"config": str(file), **bad.get("flags", {})}
    given["monitor"] = tuple(given.get("monitor", ()))
    return Flags(**given)


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad["id"])
def test_a_bad_configuration_is_reported_with_its_place_and_what_to_do(
    bad: Mapping[str, Any], tmp_path: Path
) -> None:
    file, environ = prepare(bad, tmp_path)
    expected = {place.replace("{file}", str(file)): words for place, words in bad["says"].items()}

    with pytest.raises(ConfigError) as raised:
        load(flags(bad, file), environ)

    said = {problem.place: problem.message for problem in raised.value.problems}
    assert said.keys() == expected.keys(), raised.value
    assert len(said) == len(raised.value.problems)
    assert [place for place, words in expected.items() if words not in said[place]] == [], raised.value
    allowed = re.compile(r"a secret is not allowed|client_secret(_file)?")
    assert "secret" not in allowed.sub("", str(raised.value))


def test_the_table_is_complete_and_its_ids_differ() -> None:
    assert len({bad["id"] for bad in TABLE}) == len(TABLE) >= 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "bad"), [("run", TABLE[-1]), ("check-config", TABLE[0])], ids=["run", "check-config"]
)
def test_the_command_reports_every_problem_exits_with_2_and_starts_nothing(
    command: str, bad: Mapping[str, Any], tmp_path: Path
) -> None:
    file, environ = prepare(bad, tmp_path)
    state = tmp_path / "state"
    argv = [sys.executable, "-m", "agent", command, "--config", str(file), "--state-directory", str(state)]
    for flag, value in bad.get("flags", {}).items():
        argv += [f"--{flag}", value]

    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env={"PATH": os.environ["PATH"], **environ},
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert [place for place in bad["says"] if f"  {place}: " not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert not state.exists()
