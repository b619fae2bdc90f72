"""The files generated from the chart's values are up to date, and the chart has the agent's version."""

import re
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import yaml

from agent import __version__
from tests.contract.generate_chart import CHART, SOURCE, made

FILES = made()
SCHEMA = cast(dict[str, Any], yaml.safe_load(FILES[CHART / "values.schema.json"]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text() == FILES[path], "run `python -m tests.contract.generate_chart`"


def test_every_value_has_a_description_and_every_section_is_closed() -> None:
    def look(path: str, schema: dict[str, Any]) -> None:
        assert schema.get("description", "").endswith("."), path
        if "default" not in schema:
            assert schema["additionalProperties"] is False, path
            for name, each in schema["properties"].items():
                look(f"{path}.{name}", each)

    assert SCHEMA["additionalProperties"] is False
    for name, each in SCHEMA["properties"].items():
        look(name, each)


def test_the_schema_allows_the_defaults() -> None:
    defaults = yaml.safe_load(FILES[CHART / "values.yaml"])

    jsonschema.Draft202012Validator(SCHEMA).validate(defaults)


def test_the_chart_has_the_version_of_the_agent() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["appVersion"] == __version__


def test_every_value_is_used_and_every_value_used_exists() -> None:
    templates = "\n".join(
        path.read_text()
        for path in (CHART / "templates").rglob("*")
        if path.suffix in (".yaml", ".tpl", ".txt")
    )
    source = yaml.safe_load(SOURCE.read_text())
    used = set(re.findall(r"\.Values\.(\w+)", templates))

    assert used == source.keys() - {"global"}


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("fullnameOverride", ""),
        ("image.digest", "sha256:" + "0" * 64),
        ("image.repository", "localhost/a"),
        ("image.repository", "registry.example"),
        ("image.tag", "1"),
        ("monitoring.runbooks", "https://example.com/"),
        ("nameOverride", "a"),
        ("openshift.securityContextConstraints.name", "a"),
        ("podMonitor.interval", "1s"),
        ("priorityClass.name", "a"),
        ("secret.existingSecret", "a"),
        ("secret.kafkaPasswordKey", "a"),
        ("serviceAccount.name", "a"),
        ("state.path", "/var/lib/barograph"),
        ("updateStrategy.maxUnavailable", "1%"),
    ],
)
@pytest.mark.parametrize("more", ["\n  privileged: true", "\nx.io: y/z", ", privileged: true", '"', " #"])
def test_the_schema_refuses_additions_to_values_that_templates_do_not_quote(
    path: str, start: str, more: str
) -> None:
    schema = SCHEMA
    for name in path.split("."):
        schema = schema["properties"][name]

    assert not jsonschema.Draft202012Validator(schema).is_valid(start + more)
