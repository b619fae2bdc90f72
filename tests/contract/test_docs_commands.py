"""Commands, alerts and pages that the docs name exist."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml

from barograph_streams.cli import parser
from tests.contract.generate_reference import CLI
from tests.contract.test_docs import DOCS, ROOT

PAGES = [*DOCS, *sorted((ROOT / "changelog.d").glob("*.md"))]  # the next section of the changelog too

_BLOCK = re.compile(r"^ *```(?:console|bash|sh|)\n(.*?)^ *```", re.S | re.M)
_AT_ITS_START = re.compile(
    r"(?:^|[`|&;(] ?|\bsudo (?:-u \w+ )?|-- |localhost/)(barograph(?:-streams)? [^`|;&#\n()]+)", re.MULTILINE
)
_HELP = dict(re.findall(r"^```\nUsage: barograph ?([^\[]*?) \[(.*?)^```", CLI.read_text(), re.M | re.S))
_ALERT = re.compile(r"`((?:QemuVm|Barograph)[A-Z]\w+)`")


def commands_of(text: str) -> list[str]:
    """Return the commands in the blocks and in the code spans of a page."""
    spans = re.findall(r"`(barograph(?:-streams)? [^`]+)`", text)
    blocks = "\n".join(_BLOCK.findall(text)).replace("\\\n", " ")
    return [*spans, *(found.strip() for found in _AT_ITS_START.findall(blocks))]


def problem_of(command: str) -> str | None:
    """Return what is wrong with a command, or `None`."""
    words = shlex.split(command.replace("…", ""), comments=True)
    return _problem_of_streams(words) if words[0] == "barograph-streams" else _problem_of_agent(words)


def _problem_of_agent(words: list[str]) -> str | None:
    names = [next(iter(words[1:]), ""), " ".join(words[1:3]), " ".join(words[1:4])]
    command = next((name for name in reversed(names) if name in _HELP), "")
    if not command and not words[1].startswith("-"):
        return f"there is no command {words[1]}"
    known = {"-h", "--help", *re.findall(r"(?<![\w-])--?[a-z][a-z-]*", _HELP[command])}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"unknown options {unknown}" if unknown else None


def _problem_of_streams(words: list[str]) -> str | None:
    only_named = len(words) == 2
    try:
        _, unknown = parser().parse_known_args([*words[1:], *(["--help"] if only_named else [])])
    except SystemExit as exit:
        return "the command line is refused" if exit.code else None
    return f"unknown options {unknown}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_the_docs_exists_with_its_options(page: Path) -> None:
    found = {command: problem_of(command) for command in commands_of(page.read_text())}

    assert {command: problem for command, problem in found.items() if problem} == {}


def test_commands_are_found_and_wrong_ones_are_reported() -> None:
    readme = commands_of((ROOT / "README.md").read_text())

    assert len(readme) >= 8
    for wrong in (
        "barograph statsu",
        "barograph run --kafak x:1",
        "barograph-streams run pressure --kafak x",
    ):
        assert problem_of(wrong), wrong
    assert commands_of("```console\nsudo -u barograph barograph doctor --pre\n```") == [
        "barograph doctor --pre"
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_alert_in_the_docs_exists(page: Path) -> None:
    rules = yaml.safe_load((ROOT / "monitoring/barograph.rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}

    assert set(_ALERT.findall(page.read_text())) <= alerts


def test_the_navigation_of_the_site_has_every_page_of_docs_once() -> None:
    navigation = runpy.run_path(str(ROOT / "docs/site/conf.py"))["NAVIGATION"]
    entries = [entry for part in navigation.values() for entry in part]

    pages = {f"docs/{page.stem}" for page in (ROOT / "docs").glob("*.md")}

    assert {entry for entry in entries if entry.startswith("docs/") and "*" not in entry} == pages
    assert len(entries) == len(set(entries))
