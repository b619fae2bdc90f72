"""docs/configuration.md, docs/cli.md and the schema of the file agree with the code."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agent.config import Flags, load
from agent.config.reference import config_schema, default_words
from agent.config.tree import Setting, all_settings
from tests.contract.generate_reference import CLI, COMMANDS, CONFIG_SCHEMA, CONFIGURATION, made

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SCHEMA: Any = jsonschema.Draft202012Validator(config_schema())
ENVIRON = {"BAROGRAPH_HOST__ID": "host-1", "HOME": "/root"}


def examples() -> list[tuple[str, str]]:
    """Return the name and text of every YAML block in the docs that is not marked as something else."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        blocks = re.findall(
            r"(<!-- not a configuration -->\n+)?^```yaml\n(.*?)^```", page.read_text(), re.S | re.M
        )
        found += [(f"{page.name}-{n}", text) for n, (other, text) in enumerate(blocks) if not other]
    return found


@pytest.mark.parametrize("path", [CONFIGURATION, CLI, CONFIG_SCHEMA], ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text() == made()[path], "run: python -m tests.contract.generate_reference"


@pytest.mark.parametrize("setting", all_settings(), ids=lambda setting: setting.dotted)
def test_every_setting_is_in_the_docs_with_its_variable_its_default_and_why(setting: Setting) -> None:
    page = CONFIGURATION.read_text()
    of_section, _, own_name = setting.dotted.rpartition(".")
    section = page.partition(f"### `{of_section}`\n")[2] if of_section else page

    row = next(line for line in section.splitlines() if line.startswith(f"| `{own_name}`<br>"))

    _, name, takes, default, words, _ = (cell.strip() for cell in row.replace("\\|", "").split("|"))
    assert name.endswith(f"`{setting.variable}`")
    assert takes
    assert default == default_words(setting)
    assert len(words) > 15


def test_every_command_is_in_the_docs() -> None:
    help_by_command = dict(
        re.findall(r"^```\nUsage: barograph ?([^\[]*?) \[(.*?)^```", CLI.read_text(), re.M | re.S)
    )
    listed = [
        f"{group} {command}".strip()
        for group, text in help_by_command.items()
        for command in re.findall(r"^  ([a-z-]+)  +\S", text.partition("Commands:\n")[2], re.M)
    ]

    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize(("name", "text"), examples(), ids=[name for name, _ in examples()])
def test_every_example_in_the_docs_passes_check_config(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libvirt.py").touch()  # as if libvirt-python, an extra, were installed
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    file = tmp_path / "barograph.yaml"
    (tmp_path / "kafka-password").write_text("x\n")
    (tmp_path / "ca.pem").write_text((DATA / "tls/cert.pem").read_text())
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    text = text.replace("/etc/barograph/", f"{tmp_path}/").replace(
        "/etc/machine-id", f"{tmp_path}/machine-id"
    )
    file.write_text(text)
    environ = dict(ENVIRON)
    if "id_file" in text:
        del environ["BAROGRAPH_HOST__ID"]

    loaded = load(Flags(config=str(file)), environ)
    assert loaded.discovery_settings().monitors or loaded.libvirt_settings().places
    SCHEMA.validate(yaml.safe_load(text))


def test_there_are_examples() -> None:
    assert len(examples()) >= 3


def test_the_schema_of_the_file_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema())


@pytest.mark.parametrize(
    "document",
    [
        {"monitors": "/run/*.qmp"},
        {"monitors": ["/run/*.qmp", {"glob": "/x", "access": "share", "pattern": "(?P<name>x)"}]},
        {"polling": {"interval": "1m30s", "policy": "observe"}, "buffer": {"size": "64MiB"}},
        {
            "kafka": {"bootstrap_servers": "a:1,b:2"},
            "lines": {"enabled": False},
            "otlp": {"headers": {"a": "b"}},
        },
    ],
)
def test_the_schema_accepts_valid_files(document: dict[str, Any]) -> None:
    SCHEMA.validate(document)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"polling": {"interval": 10}}, "$.polling.interval"),
        ({"polling": {"interval": "10"}}, "$.polling.interval"),
        ({"polling": {"policy": "x"}}, "$.polling.policy"),
        ({"polling": {"policies": "fill"}}, "$.polling"),
        ({"monitors": [{"access": "hold"}]}, "$.monitors"),
        ({"kafka": {"sasl": {"password": "x"}}}, "$.kafka.sasl"),
        ({"qmp": {"connections_opened_at_once": 0}}, "$.qmp.connections_opened_at_once"),
        ({"lines": {"enabled": "on"}}, "$.lines.enabled"),
    ],
)
def test_the_schema_refuses_invalid_files(document: dict[str, Any], path: str) -> None:
    errors = list(SCHEMA.iter_errors(json.loads(json.dumps(document))))

    assert [error.json_path for error in errors] == [path]


def test_the_packaged_configuration_names_the_state_directory_of_the_service() -> None:
    unit = (ROOT / "packaging/systemd/barograph.service").read_text()
    name = re.search(r"^StateDirectory=(\S+)$", unit, re.MULTILINE)
    configuration = yaml.safe_load((ROOT / "packaging/barograph.yaml").read_text())

    assert name is not None
    assert configuration["state_directory"] == f"/var/lib/{name[1]}"
