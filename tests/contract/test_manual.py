"""The manual page has every command, the files of the package, and the exit codes of the docs."""

import re
from pathlib import Path

import pytest

from release.manual import EXIT_STATUS, FILES, manual
from tests.contract.generate_reference import COMMANDS

ROOT = Path(__file__).parents[2]
PAGE = manual(0)


def section(name: str) -> str:
    return PAGE.partition(f".SH {name}\n")[2].partition("\n.SH ")[0]


def test_it_has_the_sections_of_a_manual_page() -> None:
    names = re.findall(r'^\.SH "?(.+?)"?$', PAGE, re.MULTILINE)

    assert names[:2] == ["NAME", "SYNOPSIS"]
    assert names[-3:] == ["EXIT STATUS", "FILES", "ENVIRONMENT"]
    assert PAGE.startswith('.TH BAROGRAPH 1 "1970-01-01"')


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_section_with_its_help(command: str) -> None:
    assert f"Usage: barograph {command}".replace("-", "\\-") in section(f'"{command.upper()}"')


def test_the_exit_codes_are_those_of_the_docs() -> None:
    docs = (ROOT / "docs/operations.md").read_text()
    table = docs.partition("| code | meaning |\n")[2].partition("\n\n")[0]

    assert set(EXIT_STATUS) == set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE))
    assert all(f".B {code}\n" in section("EXIT STATUS") for code in EXIT_STATUS)


def test_the_files_are_those_of_the_package() -> None:
    package = (ROOT / "packaging/nfpm.yaml").read_text()
    made_by_systemd = {"/var/lib/barograph"}
    service = (ROOT / "packaging/systemd/barograph.service").read_text()

    assert {file for file in FILES if f"dst: {file}" not in package} == made_by_systemd
    assert "StateDirectory=barograph" in service
    assert all(f".B {file}\n".replace("-", "\\-") in section("FILES") for file in FILES)


def test_no_line_is_taken_for_a_request_by_mistake() -> None:
    requests = {line.split()[0] for line in PAGE.splitlines() if line[:1] in (".", "'")}

    assert requests == {".TH", ".SH", ".nf", ".fi", ".TP", ".B"}
