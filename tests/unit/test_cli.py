import json
import logging
from collections.abc import Generator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from agent import __version__
from agent.cli import SCHEMAS, cli
from agent.config import Flags

HOST = {"BAROGRAPH_HOST__ID": "host-1", "BAROGRAPH_HOST__NAME": "one"}


@pytest.fixture(autouse=True)
def logging_as_before() -> Generator[None]:
    """Restore logging, since some commands configure it and run in this process."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def barograph(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, words, env=HOST | environ, prog_name="barograph")


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_the_version_is_printed(words: list[str]) -> None:
    assert barograph(*words).stdout == f"barograph {__version__}\n"


def test_check_config_prints_the_effective_settings_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_text(
        "monitors: [{glob: /run/a, access: share}]\n"
        "kafka: {sasl: {mechanism: PLAIN, username: u}, tls: {enabled: true}}"
    )

    done = barograph(
        "check-config", "--config", str(file), "--kafka", "a:1,b:2", "--otlp", "http://c:4317",
        "--state-directory", "/var/lib/x", BAROGRAPH_KAFKA__SASL__PASSWORD="geheim",
    )  # fmt: skip

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "host      host-1 (one)",
        "monitors  /run/a, share",
        "polling   every 10s, policy fill, stalled after 30s, at exit keep",
        "kafka     a:1,b:2 topics barograph.samples, barograph.states, barograph.memory, TLS, PLAIN",
        "otlp      http://c:4317 by grpc every 10s",
        "web       on 127.0.0.1:19464",
        "state     /var/lib/x",
        "spool     on disk, up to 1GiB and 7d",
    ]


def test_flags_alone_are_enough() -> None:
    words = "--monitor /run/a --monitor /run/b --interval 5s --policy observe --host-id h --host-name n"

    done = barograph("check-config", *words.split(), "--log-level", "debug")

    assert done.exit_code == 0
    assert done.stdout.splitlines()[:4] == [
        "host      h (n)",
        "monitors  /run/a",
        "monitors  /run/b",
        "polling   every 5s, policy observe, stalled after 15s, at exit give-back",
    ]


def test_check_config_without_flags_reads_the_installed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "barograph.yaml"
    monkeypatch.setattr("agent.cli.commands.INSTALLED", str(file))
    assert "monitors: missing" in barograph("check-config").stderr

    file.write_text("monitors: [{glob: /run/a}]")
    done = barograph("check-config")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, f"file      {file}")

    other = barograph("check-config", "--monitor", "/run/b")
    assert "monitors  /run/b" in other.stdout
    assert "/run/a" not in other.stdout


BAD_VALUES = {
    "--monitor": "relative",
    "--libvirt": "xen:///system",
    "--interval": "5",
    "--policy": "x",
    "--kafka": "x",
    "--otlp": "x",
    "--host-id": "a b",
    "--host-name": "a b",
    "--state-directory": "relative",
    "--web": "x",
    "--log-level": "x",
}


@pytest.mark.parametrize("flag", [field.name for field in fields(Flags) if field.name != "config"])
def test_every_flag_sets_its_setting_and_names_itself_in_problems(flag: str) -> None:
    name = f"--{flag.replace('_', '-')}"

    done = barograph("check-config", name, BAD_VALUES[name])

    assert f"\n  {name}: " in done.stderr


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_problems_are_printed_to_stderr_with_exit_code_2(command: str) -> None:
    done = barograph(command, "--interval", "5")

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "2 problems in the settings or flags; nothing was started",
        '  --interval: 5 has no unit; write "5s", or use ms, m, h or d',
        "  monitors: missing; set it, e.g. --monitor '/run/vm/*.qmp', or use --libvirt qemu:///system",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "run --intervals 5s",
        "nonsense",
        "probe",
        "schema x",
        "probe /x --timeout 5",
        "probe /x --enable-polling 0",
    ],
)
def test_a_wrong_command_line_is_exit_code_2(words: str) -> None:
    done = barograph(*words.split())

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


def test_give_back_needs_no_monitors_and_refuses_a_bad_configuration() -> None:
    done = barograph("give-back", "--state-directory", "relative")

    assert done.exit_code == 2
    assert done.stderr.splitlines()[1:] == [
        "  --state-directory: 'relative' is not an absolute path; start it with /"
    ]


def test_a_state_directory_that_cannot_be_used_is_exit_code_3() -> None:
    done = barograph("give-back", "--state-directory", "/proc/barograph")

    assert (done.exit_code, done.stdout) == (3, "")
    assert "cannot start: /proc/barograph: cannot use the state directory" in done.stderr


@pytest.mark.parametrize("name", ["config", "sample", "state", "agent"])
def test_every_schema_can_be_printed(name: str) -> None:
    done = barograph("schema", name)

    assert done.exit_code == 0
    assert json.loads(done.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_description_of_the_topics_can_be_printed() -> None:
    assert yaml.safe_load(barograph("schema", "asyncapi").stdout)["asyncapi"].startswith("3.")


def test_the_schemas_are_listed() -> None:
    assert barograph("schema", "--list").stdout.split() == list(SCHEMAS)


def test_the_open_schema_is_printed_unless_the_closed_one_is_requested() -> None:
    readers = json.loads(barograph("schema", "sample").stdout)
    closed = json.loads(barograph("schema", "sample", "--closed").stdout)

    assert closed["additionalProperties"] is False
    assert readers.get("additionalProperties", True) is not False
